"""Dispatch: a step becomes an errand for a worker in another work pool, and the worker's report a part of the record.

An errand is JSON: a ticket (pieces), the key that is to come out, and the step's limit of time. The worker makes the
artifact as any process does, in the same store and under the same lease; only its report goes back through Prefect.
"""

import traceback
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from pydantic import ValidationError

from zscir import __version__
from zscir.lineage.environment import redact, worker_name
from zscir.lineage.resource_usage import Meter
from zscir.pipeline.chunk_job import Ticket, piece_of, ticket_of
from zscir.pipeline.chunk_runner import on_terms, tell_failed
from zscir.pipeline.limits import too_long
from zscir.pipeline.stage import Inputs, Made, Mapper, Piece, flat_inputs, in_turn, key_of, materialize
from zscir.runtime.errors import GateError, StageError, ZscirError
from zscir.runtime.progress import warn
from zscir.runtime.retries import Terms, is_out_of_memory, tried
from zscir.runtime.specs import Spec, canonical_json
from zscir.runtime.timeouts import within
from zscir.store.artifacts import Folder, Member
from zscir.store.store import Store
from zscir.store.touch import claim

Errand = Ticket
LONGEST_ERROR = 2000  # characters


class Report(Spec):
    """What became of an errand, and what it took. ``kind`` is what a failure means to the run that asked."""

    outcome: Literal["made", "reused", "failed"]
    worker: str
    attempts: int
    wall_s: float
    cpu_s: float
    peak_rss_bytes: int
    key: str | None = None
    error: str | None = None
    kind: Literal["gate", "out_of_memory", "over"] | None = None

    def words(self) -> str:
        """For people, and in the last line for ``report_of``."""
        ended = f"failed: {self.error}" if self.key is None else f"{self.outcome} {self.key[:12]}"
        return f"{ended}\nafter {self.wall_s:,.1f} s on {self.worker}\n{canonical_json(self.literals())}"


Elsewhere = Callable[[str, Errand], Report]  # work pool and errand -> what became of it; TransientError when it is lost


class OutOfTime(StageError):
    """An errand that was not begun, or not gone on with, since its run's time, or its step's, was over."""


def nowhere(pool: str, errand: Errand) -> Report:
    """The dispatch of a walk that has no work pools."""
    raise StageError(f"work pool '{pool}': this way of walking a pipeline makes every step here")


def errand_of(store: Store, piece: Piece, limit_s: float | None) -> Errand:
    """What a worker is asked for; StageError when an input lies outside the store."""
    key = key_of(piece.stage, piece.spec, piece.inputs)
    return ticket_of(store, piece) | {"key": key, "limit_s": limit_s, "zscir": __version__}


def made_elsewhere(store: Store, pool: str, errand: Errand, elsewhere: Elsewhere,
                   tell: Callable[[Report], None]) -> Made:  # fmt: skip
    """The artifact that a worker of ``pool`` made; ``tell`` is told of its report, good or bad."""
    stage, key = errand["stage"], errand["key"]
    found = store.look(stage, key)
    if found.artifact is not None:  # an earlier attempt was lost to us, not to the store
        return Made(found.artifact, "reused")
    report = elsewhere(pool, errand)
    tell(report)
    if report.key is None:
        raise _error_of(report)
    found = store.look(stage, key)
    if found.artifact is None:
        raise StageError(
            f"{report.worker} says that it {report.outcome} {key[:12]}, and in store {store.uri} there is: "
            f"{found.problem}; is that the same store for a worker of pool '{pool}'?"
        )
    return Made(found.artifact, report.outcome)


def _error_of(report: Report) -> ZscirError:
    words = f"{report.error} (on {report.worker})"
    if report.kind == "gate":
        return GateError(words)
    if report.kind == "over":
        return OutOfTime(words)
    error = StageError(words)
    if report.kind == "out_of_memory":
        error.__cause__ = MemoryError(words)
    return error


def report_of(message: str | None) -> Report | None:
    """The report in the message of a flow run's last state; None when it is not one of ours."""
    try:
        return Report.model_validate_json((message or "").rpartition("\n")[2])
    except ValidationError:
        return None


def carry_out(errand: Errand, mapper: Mapper = in_turn) -> Report:
    """Make or reuse what an errand asks for, in this process. A failure is told, not raised."""
    meter, attempts = Meter(), [0]

    def count(number: int) -> None:
        attempts[0] = number

    ended: dict[str, Any]
    try:
        made = _made(errand, mapper, count)
        ended = {"outcome": made.outcome, "key": made.artifact.key}
    except Exception as error:  # noqa: BLE001 - whatever a stage raises is the step's error, and is told whole
        ended = {"outcome": "failed", "error": _words(error), "kind": _kind(error)}
    return Report(worker=worker_name(), attempts=attempts[0], **ended, **meter.read())


def _made(errand: Errand, mapper: Mapper, count: Callable[[int], None]) -> Made:
    step, limit_s, terms = errand["name"], errand["limit_s"], Terms(**errand["terms"])
    if terms.over:
        raise OutOfTime("not begun: the time for it was over")
    mapped = on_terms(step, mapper, terms, partial(tell_failed, step), _out_of_time)
    with within(limit_s, lambda: too_long(step, limit_s)):
        return tried(partial(_attempt, errand, mapped), terms, count, step)


def _attempt(errand: Errand, mapped: Mapper) -> Made:
    store, piece = piece_of(errand)
    if key_of(piece.stage, piece.spec, piece.inputs) != errand["key"]:
        raise StageError(
            f"this worker would make another artifact: its zscir {__version__} has version {piece.stage.version} of "
            f"stage {piece.stage.name}; give it the one of the run ({errand['zscir']})"
        )
    _claim(store, piece.inputs)
    return materialize(store, piece.stage, piece.spec, piece.inputs, mapped)


def _claim(store: Store, inputs: Inputs) -> None:
    """The run that claimed the inputs may be gone, or have done so long ago; from here on they are this worker's."""
    for one in flat_inputs(inputs).values():
        whole = one.source.whole if isinstance(one.source, Member) else one
        if not isinstance(whole.source, Folder) and not claim(store, whole):
            what = f"the input {whole.stage}/{whole.key[:12]}"
            raise StageError(f"store {store.uri}: {what} is gone; run the pipeline again to make it")


def _out_of_time() -> None:
    raise OutOfTime("not all of its pieces were begun: the time for it was over")


def _words(error: Exception) -> str:
    if isinstance(error, ZscirError):
        return str(redact(str(error)))[:LONGEST_ERROR]
    warn(str(redact("".join(traceback.format_exception(error)))))
    return str(redact(f"{type(error).__name__}: {error}"))[:LONGEST_ERROR]


def _kind(error: Exception) -> str | None:
    if is_out_of_memory(error):
        return "out_of_memory"
    if isinstance(error, OutOfTime):
        return "over"
    return "gate" if isinstance(error, GateError) else None
