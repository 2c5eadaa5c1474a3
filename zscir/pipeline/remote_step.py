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
from zscir.lineage.resource_usage import ResourceMeter
from zscir.pipeline.chunk_job import ChunkJob, chunk_job_for, load_chunk_job
from zscir.pipeline.chunk_runner import log_failed_chunk, retrying_mapper
from zscir.pipeline.limits import step_timeout_error
from zscir.pipeline.stage import (
    Chunk,
    ChunkMapper,
    Inputs,
    StageResult,
    flatten_inputs,
    map_sequentially,
    materialize,
    stage_key,
)
from zscir.runtime.errors import GateError, StageError, ZscirError
from zscir.runtime.progress import log_warning
from zscir.runtime.retries import RetryPolicy, is_out_of_memory, with_retries
from zscir.runtime.specs import Spec, canonical_json
from zscir.runtime.timeouts import time_limit
from zscir.store.artifacts import FolderSource, SingleFileSource
from zscir.store.store import Store
from zscir.store.touch import touch_artifact

RemoteJob = ChunkJob
MAX_ERROR_CHARS = 2000  # characters


class JobReport(Spec):
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
        """For people, and in the last line for ``parse_job_report``."""
        ended = f"failed: {self.error}" if self.key is None else f"{self.outcome} {self.key[:12]}"
        return f"{ended}\nafter {self.wall_s:,.1f} s on {self.worker}\n{canonical_json(self.literals())}"


RemoteRunner = Callable[
    [str, RemoteJob], JobReport
]  # work pool and errand -> what became of it; TransientError when it is lost


class JobTimeout(StageError):
    """An errand that was not begun, or not gone on with, since its run's time, or its step's, was over."""


def no_remote_runner(pool: str, errand: RemoteJob) -> JobReport:
    """The dispatch of a walk that has no work pools."""
    raise StageError(f"work pool '{pool}': this way of walking a pipeline makes every step here")


def remote_job_for(store: Store, piece: Chunk, limit_s: float | None) -> RemoteJob:
    """What a worker is asked for; StageError when an input lies outside the store."""
    key = stage_key(piece.stage, piece.spec, piece.inputs)
    return chunk_job_for(store, piece) | {"key": key, "limit_s": limit_s, "zscir": __version__}


def run_remote(
    store: Store, pool: str, errand: RemoteJob, elsewhere: RemoteRunner, tell: Callable[[JobReport], None]
) -> StageResult:
    """The artifact that a worker of ``pool`` made; ``tell`` is told of its report, good or bad."""
    stage, key = errand["stage"], errand["key"]
    found = store.look(stage, key)
    if found.artifact is not None:  # an earlier attempt was lost to us, not to the store
        return StageResult(found.artifact, "reused")
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
    return StageResult(found.artifact, report.outcome)


def _error_of(report: JobReport) -> ZscirError:
    words = f"{report.error} (on {report.worker})"
    if report.kind == "gate":
        return GateError(words)
    if report.kind == "over":
        return JobTimeout(words)
    error = StageError(words)
    if report.kind == "out_of_memory":
        error.__cause__ = MemoryError(words)
    return error


def parse_job_report(message: str | None) -> JobReport | None:
    """The report in the message of a flow run's last state; None when it is not one of ours."""
    try:
        return JobReport.model_validate_json((message or "").rpartition("\n")[2])
    except ValidationError:
        return None


def execute_job(errand: RemoteJob, mapper: ChunkMapper = map_sequentially) -> JobReport:
    """Make or reuse what an errand asks for, in this process. A failure is told, not raised."""
    meter, attempts = ResourceMeter(), [0]

    def count(number: int) -> None:
        attempts[0] = number

    ended: dict[str, Any]
    try:
        made = _run_with_retries(errand, mapper, count)
        ended = {"outcome": made.outcome, "key": made.artifact.key}
    except Exception as error:  # noqa: BLE001 - whatever a stage raises is the step's error, and is told whole
        ended = {"outcome": "failed", "error": _error_text(error), "kind": _error_kind(error)}
    return JobReport(worker=worker_name(), attempts=attempts[0], **ended, **meter.read())


def _run_with_retries(errand: RemoteJob, mapper: ChunkMapper, count: Callable[[int], None]) -> StageResult:
    step, limit_s, terms = errand["name"], errand["limit_s"], RetryPolicy(**errand["terms"])
    if terms.over:
        raise JobTimeout("not begun: the time for it was over")
    mapped = retrying_mapper(step, mapper, terms, partial(log_failed_chunk, step), _raise_job_timeout)
    with time_limit(limit_s, lambda: step_timeout_error(step, limit_s)):
        return with_retries(partial(_attempt, errand, mapped), terms, count, step)


def _attempt(errand: RemoteJob, mapped: ChunkMapper) -> StageResult:
    store, piece = load_chunk_job(errand)
    if stage_key(piece.stage, piece.spec, piece.inputs) != errand["key"]:
        raise StageError(
            f"this worker would make another artifact: its zscir {__version__} has version {piece.stage.version} of "
            f"stage {piece.stage.name}; give it the one of the run ({errand['zscir']})"
        )
    _touch_inputs(store, piece.inputs)
    return materialize(store, piece.stage, piece.spec, piece.inputs, mapped)


def _touch_inputs(store: Store, inputs: Inputs) -> None:
    """The run that claimed the inputs may be gone, or have done so long ago; from here on they are this worker's."""
    for one in flatten_inputs(inputs).values():
        whole = one.source.whole if isinstance(one.source, SingleFileSource) else one
        if not isinstance(whole.source, FolderSource) and not touch_artifact(store, whole):
            what = f"the input {whole.stage}/{whole.key[:12]}"
            raise StageError(f"store {store.uri}: {what} is gone; run the pipeline again to make it")


def _raise_job_timeout() -> None:
    raise JobTimeout("not all of its pieces were begun: the time for it was over")


def _error_text(error: Exception) -> str:
    if isinstance(error, ZscirError):
        return str(redact(str(error)))[:MAX_ERROR_CHARS]
    log_warning(str(redact("".join(traceback.format_exception(error)))))
    return str(redact(f"{type(error).__name__}: {error}"))[:MAX_ERROR_CHARS]


def _error_kind(error: Exception) -> str | None:
    if is_out_of_memory(error):
        return "out_of_memory"
    if isinstance(error, JobTimeout):
        return "over"
    return "gate" if isinstance(error, GateError) else None
