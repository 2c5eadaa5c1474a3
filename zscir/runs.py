"""Runs: a planned pipeline becomes artifacts, step by step, and a record of who made what, when and why."""

import secrets
import shlex
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from zscir.artifacts import Artifact
from zscir.errors import GateError, RequestError, StageError, ZscirError
from zscir.lineage.query import rows
from zscir.lineage.recorder import Recorder, RunInfo
from zscir.lineage.surroundings import redact, status_now, worker_name
from zscir.pipelines import Pipeline, Step
from zscir.plans import PlannedStep, Previous, judge, previous_steps, resolve_inputs
from zscir.progress import note
from zscir.settings import Settings
from zscir.specs import canonical_json
from zscir.stage import Inputs, materialize
from zscir.store import Store


@dataclass
class Run:
    """A run under way in this process: its recorder, the artifacts it has so far, what each step had before."""

    store: Store
    pipeline: Pipeline
    recorder: Recorder
    made: dict[str, Artifact]
    history: dict[str, Previous]

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.recorder.run_id


# The flow and its tasks live in the process that began the run; only the id travels through Prefect.
UNDER_WAY: dict[str, Run] = {}


def begin(store: Store, pipeline: Pipeline, plan: list[PlannedStep], config: dict[str, Any], trigger: str = "cli",
          parent_run_id: str | None = None) -> Run:  # fmt: skip
    """Open a run's record and make the run known to the flow's tasks by its id."""
    info = RunInfo(
        run_id=new_run_id(), pipeline=pipeline.name, spec_digest=pipeline.digest(), trigger=trigger,
        user_config=canonical_json(redact({**config, "process": worker_name()})), parent_run_id=parent_run_id,
    )  # fmt: skip
    ready = {planned.step.name: planned.artifact for planned in plan if planned.artifact is not None}
    prior = {
        row["key"]: row for row in rows(store, "SELECT DISTINCT ON (key) * FROM artifacts ORDER BY key, created_at")
    }
    run = Run(store, pipeline, Recorder(store, info, prior), ready, previous_steps(store, pipeline.name))
    UNDER_WAY[run.run_id] = run
    return run


def end(run: Run, status: str) -> None:
    """Close a run's record."""
    run.recorder.finish(status)
    UNDER_WAY.pop(run.run_id, None)


def do_step(run_id: str, name: str) -> str:
    """Make or reuse the artifact of one step of a run under way; return its key."""
    run = UNDER_WAY[run_id]
    step = next(step for step in run.pipeline.steps if step.name == name)
    with run.recorder.step(name, step.stage.name) as row:
        inputs = resolve_inputs(step, run.made)
        row.update(reason=judge(run.store, step, inputs, run.history.get(name)).reason)
        made = _materialize(run, step, inputs)
        row.update(key=made.key, outcome=made.outcome)
    return made.key


@dataclass(frozen=True)
class _Done:
    key: str
    outcome: str


def _materialize(run: Run, step: Step, inputs: Inputs) -> _Done:
    try:
        made = materialize(run.store, step.stage, step.spec, inputs)
    except GateError as error:
        raise GateError(f"step '{step.name}' (stage {step.stage.name}): {error}") from error
    except Exception as error:
        words = str(error) if isinstance(error, ZscirError) else f"{type(error).__name__}: {error}"
        raise StageError(f"step '{step.name}' (stage {step.stage.name}): {words}") from error
    run.made[step.name] = made.artifact
    run.recorder.add_artifact(made.artifact)
    note(f"{step.name}: {made.outcome} {made.artifact.key[:12]} {fact_line(made.artifact.facts)}")
    return _Done(made.artifact.key, made.outcome)


def reuse_all(run: Run, plan: list[PlannedStep]) -> None:
    """Record a finished pipeline: every step reused, nothing started."""
    for planned in plan:
        if planned.artifact is None:
            raise StageError(f"step '{planned.step.name}' has no artifact to reuse")
        run.recorder.reuse(planned.step.name, planned.step.stage.name, planned.artifact, planned.reason)
        run.made[planned.step.name] = planned.artifact


def choose(pipeline: Pipeline, plan: list[PlannedStep], only: str | None, start: str | None) -> list[str]:
    """The steps to walk: all, ``only`` one stage's, or ``start`` and what depends on it.

    RequestError when a step outside the choice would have to be made first.
    """
    if only is not None:
        chosen = pipeline.select(only)
    elif start is not None:
        chosen = pipeline.descendants(pipeline.select(start))
    else:
        return [step.name for step in pipeline.steps]
    needed = {parent for step in pipeline.steps if step.name in chosen for parent in step.parents()} - set(chosen)
    missing = [one.step.name for one in plan if one.step.name in needed and one.artifact is None]
    if missing:
        raise RequestError(
            f"{pipeline.path}: not made yet: {', '.join(missing)}; run without --only/--from, or from there"
        )
    return chosen


def new_run_id() -> str:
    """A run's id: UTC time to the second and a random tail, so that ids sort by start."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def fact_line(facts: dict[str, Any]) -> str:
    """The facts worth a line: numbers and words, no nested tables."""
    shown = {name: value for name, value in facts.items() if isinstance(value, int | float | str)}
    return " ".join(
        f"{name}={value:,}" if isinstance(value, int) else f"{name}={value}" for name, value in shown.items()
    )


def find_run(store: Store, run_id: str) -> dict[str, Any]:
    """The record of a run by its id, a unique prefix, or ``latest``."""
    found = list_runs(store)
    if run_id == "latest" and found:
        return found[-1]
    matching = [row for row in found if run_id and row["run_id"].startswith(run_id)]
    if len(matching) != 1:
        known = ", ".join(row["run_id"] for row in found[-5:]) or "none yet"
        what = "no run" if not matching else f"{len(matching)} runs"
        raise RequestError(f"store {store.uri}: {what} with id '{run_id}'; the newest are: {known}")
    return matching[0]


def list_runs(store: Store) -> list[dict[str, Any]]:
    """Every run of the store, oldest first; one whose process is gone without a word has the status ``died``."""
    query = """
        SELECT run.*, count(stages.run_id) AS steps, count(*) FILTER (outcome = 'made') AS made,
               count(*) FILTER (outcome = 'reused') AS reused,
               arg_max(step, stages.started_at) FILTER (outcome IN ('failed', 'running')) AS stopped_at
        FROM run LEFT JOIN stages USING (run_id) GROUP BY ALL ORDER BY run.started_at, run_id
    """
    found = rows(store, query)
    for row in found:
        row["status"] = status_now(row)
    return found


def interrupted(error: BaseException) -> bool:
    """Whether ``error`` means that somebody stopped the run, and not that a step failed."""
    return not isinstance(error, Exception)


def what_to_do(run: Run) -> str:
    """The lines that end the message about a run that stopped: where, what is kept, what to type."""
    again = f"zscir rerun {run.run_id}"
    if run.store.uri != Settings.from_env().store.rstrip("/"):
        again += f" --store {shlex.quote(run.store.uri)}"
    step = run.recorder.last_step()
    where = f"stopped at '{step}'" if step else "stopped before its first step"
    return f"run {run.run_id} {where}; what was finished is kept. Go on with:\n  {again}"
