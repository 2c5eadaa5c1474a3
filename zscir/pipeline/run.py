"""Runs: open and close the record of a run, and make its steps one by one; the active runs of this process by id."""

import secrets
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from zscir.lineage.environment import redact, worker_name
from zscir.lineage.heartbeats import Heartbeat, run_status
from zscir.lineage.previous_runs import PreviousRuns
from zscir.lineage.recorder import Recorder, RunInfo
from zscir.lineage.sql_views import query_store_rows
from zscir.pipeline.budget import Budget
from zscir.pipeline.chunk_runner import recording_mapper
from zscir.pipeline.estimates import Estimate, estimate_steps
from zscir.pipeline.limits import Limits, step_timeout_error
from zscir.pipeline.pipeline_file import Pipeline, Step
from zscir.pipeline.plan import PlannedStep, PreviousStep, decide_reuse, previous_steps, resolve_inputs
from zscir.pipeline.remote_step import JobReport, JobTimeout, RemoteRunner, no_remote_runner, remote_job_for, run_remote
from zscir.pipeline.run_checks import run_data_checks
from zscir.pipeline.stage import Chunk, ChunkMapper, Inputs, StageResult, map_sequentially, materialize
from zscir.runtime.errors import GateError, OverBudget, RequestError, StageError, ZscirError
from zscir.runtime.progress import log_info, log_labels
from zscir.runtime.retries import RetryPolicy, is_out_of_memory, oom_advice, with_retries
from zscir.runtime.settings import Prices, Settings
from zscir.runtime.specs import canonical_json
from zscir.runtime.timeouts import time_limit
from zscir.store.artifacts import Artifact
from zscir.store.store import Store


@dataclass
class Run:
    """A run under way in this process: its recorder, the artifacts it has so far, what each step had before."""

    store: Store
    pipeline: Pipeline
    recorder: Recorder
    artifacts: dict[str, Artifact]  # by step, whether made or reused
    previous_steps: dict[str, PreviousStep]
    heartbeat: Heartbeat
    plan: Sequence[PlannedStep] = ()
    budget: Budget = field(default_factory=lambda: Budget(Limits(), Prices()))
    estimates: dict[str, Estimate] = field(default_factory=dict)

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.recorder.run_id

    def is_complete(self, chosen: list[str]) -> bool:
        """Whether this run has made or reused every one of these steps."""
        done = {row["step"] for row in self.recorder.steps() if row["outcome"] in ("made", "reused")}
        return done.issuperset(chosen)


# The flow and its tasks run in the process that began the run; only the id travels through Prefect.
ACTIVE_RUNS: dict[str, Run] = {}


def begin_run(
    store: Store,
    pipeline: Pipeline,
    plan: list[PlannedStep],
    config: dict[str, Any],
    trigger: str = "cli",
    parent_run_id: str | None = None,
    previous_runs: PreviousRuns | None = None,
) -> Run:
    """Open a run's record, and register the run under its id for the flow's tasks; ``end_run`` closes both.

    ``previous_runs`` as for ``make_plan``. RequestError when dollars are limited and no price is known.
    """
    budget = Budget(pipeline.limits, Prices.from_env())
    # Before RunInfo and Recorder, so that a limit in dollars without a price leaves no run behind.
    budget.check_prices()
    info = RunInfo(
        run_id=f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}",  # ids sort by start, to the second
        pipeline=pipeline.name,
        spec_digest=pipeline.digest(),
        trigger=trigger,
        user_config=canonical_json(redact({**config, "process": worker_name()})),
        parent_run_id=parent_run_id,
    )
    reusable = {planned.step.name: planned.artifact for planned in plan if planned.artifact is not None}
    previous_runs = previous_runs or PreviousRuns(store)
    run = Run(
        store,
        pipeline,
        Recorder(store, info, previous_runs.artifact),
        reusable,
        previous_steps(previous_runs, pipeline),
        Heartbeat(store, info.run_id),
        plan,
        budget,
    )
    if budget.limited:
        run.estimates = estimate_steps(store, plan, budget.prices)
    run.heartbeat.start()
    ACTIVE_RUNS[run.run_id] = run
    return run


def end_run(run: Run, status: str) -> None:
    """Close a run's record."""
    try:
        run.recorder.finish(status)
    finally:
        run.heartbeat.stop()
        ACTIVE_RUNS.pop(run.run_id, None)


def execute_step(
    run_id: str, name: str, mapper: ChunkMapper = map_sequentially, run_job: RemoteRunner = no_remote_runner
) -> str:
    """Make or reuse the artifact of one step of a run under way; return its key.

    ``mapper`` makes its chunks. ``run_job`` gets a step with a work pool, when it has to be made.
    StageError, GateError or OverBudget, naming the step.
    """
    run = ACTIVE_RUNS[run_id]
    step = next(step for step in run.pipeline.steps if step.name == name)
    with log_labels(run=run_id, step=name, stage=step.stage.name), run.recorder.step(name, step.stage.name) as row:
        inputs, previous = resolve_inputs(step, run.artifacts), run.previous_steps.get(name)
        # Decided again, not taken from the plan: since then another run may have made it, or a gc have removed it.
        planned = decide_reuse(run.store, step, inputs, previous)
        row.update(reason=planned.reason)
        with log_labels(key=str(planned.key)):
            if planned.action == "make":
                run.budget.check(name, run.estimates.get(name))
            remote = run_job if planned.action == "make" else None
            made = _materialize(run, step, inputs, mapper, remote, row)
            row.update(key=made.artifact.key, outcome=made.outcome)
            run_data_checks(run.recorder, step, made.artifact, lambda: inputs, previous)
    return made.artifact.key


def is_remote_step(run_id: str, name: str) -> bool:
    """Whether a step of a run under way is for another work pool to make."""
    return any(step.pool is not None for step in ACTIVE_RUNS[run_id].pipeline.steps if step.name == name)


def _materialize(
    run: Run, step: Step, inputs: Inputs, mapper: ChunkMapper, run_job: RemoteRunner | None, row: dict[str, Any]
) -> StageResult:
    limit_s = _step_limit_s(run, step)
    policy = _retry_policy(run, limit_s)
    where = f"step '{step.name}' (stage {step.stage.name})"
    try:
        with time_limit(limit_s, lambda: step_timeout_error(step.name, limit_s)):
            if run_job is None or step.pool is None:
                mapper = recording_mapper(run.recorder, run.budget, step.name, mapper, policy)
                make = partial(materialize, run.store, step.stage, step.spec, inputs, mapper)
            else:
                job = remote_job_for(run.store, Chunk(step.name, step.stage, step.spec, inputs, policy), limit_s)
                make = partial(run_remote, run.store, step.pool, job, run_job, partial(_record_report, row))
            made = with_retries(make, policy, lambda number: row.update(attempts=number), where)
    except GateError as error:
        raise GateError(f"{where}: {redact(str(error))}") from error
    # It is a StageError too, and rewritten as one it would lose the option to raise.
    except OverBudget:
        raise
    except Exception as error:
        if isinstance(error, JobTimeout):
            run.budget.check(step.name)  # OverBudget when it was the run's limit that ended it, and not the step's
        message = str(error) if isinstance(error, ZscirError) else f"{type(error).__name__}: {error}"
        if is_out_of_memory(error):
            message = f"{message}; {oom_advice(step.name, step.spec.literals())}"
        raise StageError(f"{where}: {redact(message)}") from error
    run.artifacts[step.name] = made.artifact
    run.recorder.add_artifact(made.artifact)
    # A reused artifact was paid for by the run that made it.
    if made.outcome == "made":
        run.budget.add_usage(made.artifact)
    log_info(f"{step.name}: {made.outcome} {made.artifact.key[:12]} {format_facts(made.artifact.facts)}")
    return made


def _record_report(row: dict[str, Any], report: JobReport) -> None:
    """Take the worker's figures: attempts of both sides add; the time until a worker was free does not count."""
    row.update(
        worker=report.worker,
        attempts=row["attempts"] - 1 + report.attempts,
        wall_s=report.wall_s,
        cpu_s=report.cpu_s,
        peak_rss_bytes=report.peak_rss_bytes,
    )


def _step_limit_s(run: Run, step: Step) -> float | None:
    hours = step.limits.max_hours or run.pipeline.limits.max_step_hours
    return None if hours is None else 3600 * hours


def _retry_policy(run: Run, limit_s: float | None) -> RetryPolicy:
    """That of a step that begins now, and of its chunks."""
    # Made anew for each step: the run's deadline moves earlier with every dollar spent on tokens.
    deadlines = [run.budget.deadline(), None if limit_s is None else time.time() + limit_s]
    until = min((deadline for deadline in deadlines if deadline is not None), default=None)
    return RetryPolicy(run.pipeline.limits.retries, run.pipeline.limits.backoff_s, until)


def record_all_reused(run: Run, plan: list[PlannedStep]) -> None:
    """Record a finished pipeline: every step reused, nothing started."""
    for planned in plan:
        if planned.artifact is None:
            raise StageError(f"step '{planned.step.name}' has no artifact to reuse")
        step = planned.step
        run.recorder.reuse(step.name, step.stage.name, planned.artifact, planned.reason)
        run.artifacts[step.name] = planned.artifact
        _check_reused(run, step, planned.artifact)


def _check_reused(run: Run, step: Step, artifact: Artifact) -> None:
    """Check it like a new one: thresholds may have moved since, or another pipeline, without these, made it."""
    try:
        with log_labels(run=run.run_id, step=step.name, stage=step.stage.name, key=artifact.key):
            inputs = partial(resolve_inputs, step, run.artifacts)
            run_data_checks(run.recorder, step, artifact, inputs, run.previous_steps.get(step.name))
    except GateError as error:
        run.recorder.record_failure(step.name, f"GateError: {error}")
        raise


def choose_steps(pipeline: Pipeline, plan: list[PlannedStep], only: str | None, from_step: str | None) -> list[str]:
    """The steps to run: all, ``only`` one step or stage, or ``from_step`` and what depends on it.

    RequestError when a step outside the choice would have to be made first.
    """
    if only is not None:
        chosen = pipeline.steps_matching(only)
    elif from_step is not None:
        chosen = pipeline.descendants(pipeline.steps_matching(from_step))
    else:
        return [step.name for step in pipeline.steps]
    needed = {parent for step in pipeline.steps if step.name in chosen for parent in step.parents()} - set(chosen)
    missing = [planned.step.name for planned in plan if planned.step.name in needed and planned.artifact is None]
    if missing:
        raise RequestError(
            f"{pipeline.path}: not made yet: {', '.join(missing)}; run without --only/--from, or from there"
        )
    return chosen


def format_facts(facts: dict[str, Any]) -> str:
    """The facts for a log line: numbers and strings, no nested tables."""
    return " ".join(
        f"{name}={value:,}" if isinstance(value, int) else f"{name}={value}"
        for name, value in facts.items()
        if isinstance(value, int | float | str)
    )


def find_run(store: Store, run_id: str) -> dict[str, Any]:
    """The record of a run by its id, a unique prefix, the id of its flow run in Prefect, or ``latest``."""
    found = list_runs(store)
    if run_id == "latest" and found:
        return found[-1]
    # ``run_id and``: every id starts with the empty one.
    matching = [row for row in found if run_id and (row["run_id"].startswith(run_id) or row["flow_run_id"] == run_id)]
    if len(matching) != 1:
        known = ", ".join(row["run_id"] for row in found[-5:]) or "none yet"
        count = "no run" if not matching else f"{len(matching)} runs"
        raise RequestError(f"store {store.uri}: {count} with id '{run_id}'; the newest are: {known}")
    return matching[0]


def list_runs(store: Store) -> list[dict[str, Any]]:
    """Every run of the store, oldest first; one whose process is gone or silent has the status ``died``."""
    query = """
        SELECT run.*, count(stages.run_id) AS steps, count(*) FILTER (outcome = 'made') AS made,
               count(*) FILTER (outcome = 'reused') AS reused,
               arg_max(step, stages.started_at) FILTER (outcome IN ('failed', 'running')) AS stopped_at
        FROM run LEFT JOIN stages USING (run_id) GROUP BY ALL ORDER BY run.started_at, run_id
    """
    found = query_store_rows(store, query)
    for row in found:
        row["status"] = run_status(store, row)
    return found


def is_interruption(error: BaseException) -> bool:
    """Whether ``error`` means that somebody stopped the run, and not that a step failed."""
    return not isinstance(error, Exception)  # KeyboardInterrupt, SystemExit, and Prefect's TerminationSignal


def resume_advice(run: Run, options: str = "") -> str:
    """The last lines of the message about a run that stopped: where, and the command that resumes it."""
    command = f"zscir rerun {run.run_id}"
    # The line must work as it is typed: --store only where the environment does not say it.
    if run.store.uri != Settings.from_env().store.rstrip("/"):
        command += f" --store {shlex.quote(run.store.uri)}"
    step = run.recorder.last_step()
    where = f"stopped at '{step}'" if step else "stopped before its first step"
    return f"run {run.run_id} {where}; what was finished is kept. Go on with:\n  {command} {options}".rstrip()
