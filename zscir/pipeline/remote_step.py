"""Hand a step to a worker of another work pool as a JSON job, and read the worker's report.

A job is that of a chunk (chunk_job.py) with the key that must come out and the step's time limit. The worker makes the
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
    MAX_ERROR_CHARS,
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


class JobReport(Spec):
    """What became of a job, and what it took. ``kind`` says how the run that requested it takes a failure."""

    outcome: Literal["made", "reused", "failed"]
    worker: str
    attempts: int
    wall_s: float
    cpu_s: float
    peak_rss_bytes: int
    key: str | None = None
    error: str | None = None
    kind: Literal["gate", "out_of_memory", "over"] | None = None

    def message(self) -> str:
        """Lines for people, and a last one for ``parse_job_report``."""
        ended = f"failed: {self.error}" if self.key is None else f"{self.outcome} {self.key[:12]}"
        # The message is all that a flow run gives back without result storage, and is what its page in the UI shows.
        return f"{ended}\nafter {self.wall_s:,.1f} s on {self.worker}\n{canonical_json(self.literals())}"


RemoteRunner = Callable[[str, RemoteJob], JobReport]  # (work pool, job) -> report; TransientError when the job is lost


class JobTimeout(StageError):
    """A job that was not begun, or not continued, because the time of its run or step was over."""


def no_remote_runner(pool: str, job: RemoteJob) -> JobReport:
    """The runner of a process that reaches no work pools: StageError."""
    raise StageError(f"work pool '{pool}': this way of running a pipeline makes every step here")


def remote_job_for(store: Store, chunk: Chunk, limit_s: float | None) -> RemoteJob:
    """The job of a whole step, given as a chunk; StageError when an input lies outside the store."""
    key = stage_key(chunk.stage, chunk.spec, chunk.inputs)
    return chunk_job_for(store, chunk) | {"key": key, "limit_s": limit_s, "zscir": __version__}


def run_remote(
    store: Store, pool: str, job: RemoteJob, run_job: RemoteRunner, on_report: Callable[[JobReport], None]
) -> StageResult:
    """The artifact that a worker of ``pool`` made; ``on_report`` gets its report, good or bad.

    StageError or GateError as the worker reports it, JobTimeout when time was over, TransientError of ``run_job``.
    """
    stage, key = job["stage"], job["key"]
    found = store.lookup(stage, key)
    if found.artifact is not None:  # an earlier attempt ended well, only its report was lost
        return StageResult(found.artifact, "reused")
    report = run_job(pool, job)
    # Before the error is raised: the record says on which machine a step failed, and after how long.
    on_report(report)
    if report.key is None:
        raise _error_of(report)
    found = store.lookup(stage, key)
    if found.artifact is None:
        raise StageError(
            f"{report.worker} says that it {report.outcome} {key[:12]}, and in store {store.uri} there is: "
            f"{found.problem}; is that the same store for a worker of pool '{pool}'?"
        )
    return StageResult(found.artifact, report.outcome)


def _error_of(report: JobReport) -> ZscirError:
    message = f"{report.error} (on {report.worker})"
    if report.kind == "gate":
        return GateError(message)
    if report.kind == "over":
        return JobTimeout(message)
    error = StageError(message)
    if report.kind == "out_of_memory":
        error.__cause__ = MemoryError(message)  # where is_out_of_memory looks
    return error


def parse_job_report(message: str | None) -> JobReport | None:
    """The report in the message of a flow run's last state; None when it is not one of ours."""
    try:
        return JobReport.model_validate_json((message or "").rpartition("\n")[2])
    except ValidationError:
        return None


def execute_job(job: RemoteJob, mapper: ChunkMapper = map_sequentially) -> JobReport:
    """Make or reuse the artifact of a job in this process. A failure is reported, not raised."""
    meter, attempts = ResourceMeter(), 0

    def count_attempt(number: int) -> None:
        nonlocal attempts
        attempts = number

    ended: dict[str, Any]
    try:
        made = _run_with_retries(job, mapper, count_attempt)
        ended = {"outcome": made.outcome, "key": made.artifact.key}
    except Exception as error:  # noqa: BLE001 - whatever a stage raises is the step's error, and is reported whole
        ended = {"outcome": "failed", "error": _error_text(error), "kind": _error_kind(error)}
    return JobReport(worker=worker_name(), attempts=attempts, **ended, **meter.stop())


def _run_with_retries(job: RemoteJob, mapper: ChunkMapper, count_attempt: Callable[[int], None]) -> StageResult:
    step, limit_s, policy = job["name"], job["limit_s"], RetryPolicy(**job["terms"])
    # A job may have waited for a worker longer than its run had time left.
    if policy.is_past_deadline:
        raise JobTimeout("not begun: the time for it was over")
    mapper = retrying_mapper(step, mapper, policy, partial(log_failed_chunk, step), _raise_job_timeout)
    with time_limit(limit_s, lambda: step_timeout_error(step, limit_s)):
        return with_retries(partial(_attempt, job, mapper), policy, count_attempt, step)


def _attempt(job: RemoteJob, mapper: ChunkMapper) -> StageResult:
    store, chunk = load_chunk_job(job)
    # Code of another version, or a changed shipped file, gives another key: then the run would wait for nothing.
    if stage_key(chunk.stage, chunk.spec, chunk.inputs) != job["key"]:
        raise StageError(
            f"this worker would make another artifact: its zscir {__version__} has version {chunk.stage.version} of "
            f"stage {chunk.stage.name}; give it the one of the run ({job['zscir']})"
        )
    _touch_inputs(store, chunk.inputs)
    return materialize(store, chunk.stage, chunk.spec, chunk.inputs, mapper)


def _touch_inputs(store: Store, inputs: Inputs) -> None:
    """Keep the inputs from a concurrent gc: the run that touched them may have ended, or waited here for long."""
    for artifact in flatten_inputs(inputs).values():
        whole = artifact.source.artifact if isinstance(artifact.source, SingleFileSource) else artifact
        if not isinstance(whole.source, FolderSource) and not touch_artifact(store, whole):
            what = f"the input {whole.stage}/{whole.key[:12]}"
            raise StageError(f"store {store.uri}: {what} is gone; run the pipeline again to make it")


def _raise_job_timeout() -> None:
    raise JobTimeout("not all of its chunks were begun: the time for it was over")


def _error_text(error: Exception) -> str:
    if isinstance(error, ZscirError):
        return str(redact(str(error)))[:MAX_ERROR_CHARS]
    log_warning(str(redact("".join(traceback.format_exception(error)))))
    return str(redact(f"{type(error).__name__}: {error}"))[:MAX_ERROR_CHARS]


def _error_kind(error: Exception) -> str | None:
    if is_out_of_memory(error):
        return "out_of_memory"
    # Kept apart from other errors: the run decides whether its own limit or the step's was reached.
    if isinstance(error, JobTimeout):
        return "over"
    return "gate" if isinstance(error, GateError) else None
