"""Walks: a pipeline file and options become a finished run; the engine that walks the steps is given from above."""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zscir.lineage.previous_runs import PreviousRuns
from zscir.pipeline.input_references import FILE_PREFIX
from zscir.pipeline.pipeline_file import Pipeline, Step, load_pipeline
from zscir.pipeline.plan import PlannedStep, make_plan
from zscir.pipeline.plan_token import check_plan_token
from zscir.pipeline.run import (
    Run,
    begin_run,
    choose_steps,
    end_run,
    find_run,
    format_facts,
    is_interruption,
    record_all_reused,
    resume_advice,
)
from zscir.pipeline.step_pools import LOCAL_POOL
from zscir.runtime.errors import GateError, Interrupted, OverBudget, RequestError, StageError, ZscirError
from zscir.runtime.progress import log_info
from zscir.runtime.settings import is_shipped_spec, spec_path
from zscir.store.store import Store
from zscir.store.touch import touch_artifact

StepEngine = Callable[[Run, list[str]], None]
PoolCheck = Callable[[list[str]], None]  # RequestError unless these work pools can be given work


@dataclass(frozen=True)
class RunRequest:
    """What a person asked for: the pipeline file, changed fields, and which part of it to walk."""

    path: Path
    changes: list[str]
    only: str | None = None
    start: str | None = None
    parent_run_id: str | None = None
    trigger: str = "cli"
    flow_run_id: str | None = None  # of the flow run that asks, if it is one of Prefect's
    token: str | None = None  # of the plan that is to be carried out, and no other

    def config(self, store: Store) -> dict[str, Any]:
        """What the run's record keeps of it, so that ``rerun`` works from any folder."""
        return {
            "pipeline": str(spec_path(str(self.path)).resolve()),
            "set": [absolute_change(change) for change in self.changes],
            "only": self.only,
            "from": self.start,
            "store": store.uri,
        }


def no_pools(pools: list[str]) -> None:
    """The answer of a walk that makes every step here."""
    raise RequestError(f"this way of walking a pipeline reaches no work pool ({', '.join(pools)})")


def execute_run(store: Store, asked: RunRequest, engine: StepEngine, ready: PoolCheck = no_pools) -> Run:
    """Run what was asked and return the run; RequestError before anything is written, else StageError on failure.

    ``ready`` is asked whether the work pools are there in which steps are to be made.
    """
    pipeline = load_pipeline(spec_path(str(asked.path)), asked.changes)
    past = PreviousRuns(store)
    plan, chosen = _plan_run(store, pipeline, asked, past)
    _check_pools([one.step for one in plan if one.step.name in chosen and one.action == "make"], ready)
    run = begin_run(store, pipeline, plan, asked.config(store), asked.trigger, asked.parent_run_id, past)
    try:
        if asked.flow_run_id is not None:
            run.recorder.set_flow_run(asked.flow_run_id)
        _execute_steps(run, plan, chosen, engine)
    except BaseException as error:
        explained = _with_advice(run, error)
        with suppress(StageError):  # a store that is gone cannot take the record either
            end_run(run, _status(error))
        raise explained from error
    end_run(run, "succeeded")
    return run


def rerun_request(store: Store, run_id: str, only: str | None, start: str | None, changes: list[str]) -> RunRequest:
    """What a run asked for, as a request to run it again; finished steps will be found in the store."""
    row = find_run(store, run_id)
    config = json.loads(row["user_config"])
    path = Path(config["pipeline"])
    if not spec_path(str(path)).exists():
        raise RequestError(
            f"run {row['run_id']} came from {path}, which is gone; `zscir run` the pipeline where it is now"
        )
    start = start if start or only else config["from"]
    only = only if start or only else config["only"]
    return RunRequest(path, [*config["set"], *changes], only, start, row["run_id"], "rerun")


def absolute_change(change: str) -> str:
    """A ``--set`` change that means the same in any folder."""
    field, _, value = change.partition("=")
    return f"source={Path(value).resolve()}" if field.strip() == "source" else change


def _plan_run(
    store: Store, pipeline: Pipeline, asked: RunRequest, past: PreviousRuns
) -> tuple[list[PlannedStep], list[str]]:
    """The plan and the steps to walk; what the plan reuses is claimed, so that it stays until the run is over."""
    while True:
        plan = make_plan(store, pipeline, past)
        if asked.token is not None:
            check_plan_token(store, plan, asked.token)
        chosen = choose_steps(pipeline, plan, asked.only, asked.start)
        if all(touch_artifact(store, one.artifact) for one in plan if one.artifact is not None):
            return plan, chosen


def _execute_steps(run: Run, plan: list[PlannedStep], chosen: list[str], engine: StepEngine) -> None:
    picked = [planned for planned in plan if planned.step.name in chosen]
    if all(planned.action == "reuse" for planned in picked):
        log_info(f"run {run.run_id}: all {len(picked)} steps are made already")
        record_all_reused(run, picked)
    else:
        log_info(f"run {run.run_id}: {sum(one.action == 'make' for one in picked)} of {len(picked)} steps to make")
        try:
            engine(run, chosen)
        except Exception as error:
            if not run.has_done(chosen):
                raise
            # Every artifact is there and recorded: what went wrong is the engine's own book-keeping.
            log_info(f"run {run.run_id}: done, but Prefect could not be told: {type(error).__name__}: {error}")


def _check_pools(to_make: list[Step], ready: PoolCheck) -> None:
    away = {step.name: step.pool for step in to_make if step.pool is not None}
    for step in to_make:
        files = [one.removeprefix(FILE_PREFIX) for one in step.references() if one.startswith(FILE_PREFIX)]
        outside = [one for one in files if not is_shipped_spec(Path(one))]
        if step.pool is not None and outside:
            raise RequestError(
                f"step '{step.name}' cannot be made in work pool '{step.pool}': it reads {outside[0]}, and only what "
                f"is in the store reaches another machine; --set dispatch.{step.name}={LOCAL_POOL} makes it here"
            )
    if away:
        try:
            ready(sorted(set(away.values())))
        except RequestError as error:
            name, pool = next(iter(away.items()))
            raise RequestError(f"step '{name}' is to be made in work pool '{pool}': {error}") from error


def _status(error: BaseException) -> str:
    if is_interruption(error):
        return "interrupted"
    return "over_budget" if isinstance(error, OverBudget) else "failed"


def _with_advice(run: Run, error: BaseException) -> ZscirError:
    if is_interruption(error):
        return Interrupted(f"interrupted; {resume_advice(run)}")
    if isinstance(error, OverBudget):
        return OverBudget(f"{error}\n{resume_advice(run, error.again)}", error.again)
    kind = GateError if isinstance(error, GateError) else StageError
    words = str(error) if isinstance(error, ZscirError) else f"{type(error).__name__}: {error}"
    return kind(f"{words}\n{resume_advice(run)}")


def plan_rows(plan: list[PlannedStep]) -> list[dict[str, Any]]:
    """The plan as rows."""
    return [
        {
            "step": one.step.name,
            "stage": one.step.stage.name,
            "action": one.action,
            "reason": one.reason,
            "key": one.key[:12] if one.key else None,
            "last_s": one.last_wall_s,
            "pool": one.step.pool if one.action == "make" else None,
        }
        for one in plan
    ]


def run_summary(run: Run) -> list[dict[str, Any]]:
    """One row for each step of a run that has just ended: outcome, seconds, and what it made."""
    return [
        {
            "step": row["step"],
            "outcome": row["outcome"],
            "wall_s": row.get("wall_s"),
            "key": row["key"],
            "facts": format_facts(run.made[row["step"]].facts) if row["step"] in run.made else "",
        }
        for row in run.recorder.steps()
    ]
