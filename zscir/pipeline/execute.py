"""Execute a run request: load the pipeline, plan, touch what is reused, run the steps by the engine given, record."""

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

StepEngine = Callable[[Run, list[str]], None]  # runs the steps of these names; Prefect's is given from above
PoolCheck = Callable[[list[str]], None]  # RequestError unless these work pools can be given work


@dataclass(frozen=True)
class RunRequest:
    """A request to run a pipeline: its file, changed fields (``--set``), and which part of it."""

    path: Path
    changes: list[str]
    only: str | None = None
    from_step: str | None = None
    parent_run_id: str | None = None
    trigger: str = "cli"
    flow_run_id: str | None = None  # of the flow run that makes the request, if it is one of Prefect's
    plan_token: str | None = None  # the plan must be the one of this token

    def config(self, store: Store) -> dict[str, Any]:
        """What the run's record keeps of it, so that ``rerun`` works from any folder."""
        return {
            "pipeline": str(spec_path(str(self.path)).resolve()),
            "set": [absolute_change(change) for change in self.changes],
            "only": self.only,
            "from": self.from_step,
            "store": store.uri,
        }


def no_pools(pools: list[str]) -> None:
    """The pool check of an engine that makes every step in its own process."""
    raise RequestError(f"this way of running a pipeline reaches no work pool ({', '.join(pools)})")


def execute_run(store: Store, request: RunRequest, engine: StepEngine, check_pools: PoolCheck = no_pools) -> Run:
    """Run what was requested and return the finished run.

    RequestError before anything is written, also where ``check_pools`` refuses the work pools of steps to be made.
    After that StageError, GateError, OverBudget or Interrupted, whose message ends with the ``zscir rerun`` to type.
    """
    pipeline = load_pipeline(spec_path(str(request.path)), request.changes)
    previous_runs = PreviousRuns(store)
    plan, chosen = _plan_run(store, pipeline, request, previous_runs)
    to_make = [planned.step for planned in plan if planned.step.name in chosen and planned.action == "make"]
    # Before begin_run: a request that cannot be met leaves no run in the record.
    _check_pools(to_make, check_pools)
    config = request.config(store)
    run = begin_run(store, pipeline, plan, config, request.trigger, request.parent_run_id, previous_runs)
    try:
        if request.flow_run_id is not None:
            run.recorder.set_flow_run(request.flow_run_id)
        _execute_steps(run, plan, chosen, engine)
    # Ctrl-C and SIGTERM are no Exception, and must close the record too: else the run shows as died.
    except BaseException as error:
        explained = _with_advice(run, error)
        with suppress(StageError):  # a store that is gone cannot take the record either
            end_run(run, _status(error))
        raise explained from error
    end_run(run, "succeeded")
    return run


def rerun_request(store: Store, run_id: str, only: str | None, from_step: str | None, changes: list[str]) -> RunRequest:
    """The request of an earlier run, to be run again; ``only``, ``from_step`` and ``changes`` go before its own."""
    row = find_run(store, run_id)
    config = json.loads(row["user_config"])
    path = Path(config["pipeline"])
    if not spec_path(str(path)).exists():
        raise RequestError(
            f"run {row['run_id']} came from {path}, which is gone; `zscir run` the pipeline where it is now"
        )
    # Both or neither: the old --only beside a new --from would select steps that nobody named.
    if not from_step and not only:
        from_step, only = config["from"], config["only"]
    return RunRequest(path, [*config["set"], *changes], only, from_step, row["run_id"], "rerun")


def absolute_change(change: str) -> str:
    """A ``--set`` change that means the same in any folder."""
    field, _, value = change.partition("=")
    # Only ``source`` is a path from the current folder; those in the file start at the file's folder.
    return f"source={Path(value).resolve()}" if field.strip() == "source" else change


def _plan_run(
    store: Store, pipeline: Pipeline, request: RunRequest, previous_runs: PreviousRuns
) -> tuple[list[PlannedStep], list[str]]:
    """The plan and the steps to run. What the plan reuses is touched, so that a gc keeps it until the run is over."""
    while True:  # planned again where a gc removed an artifact between the look at it and the touch
        plan = make_plan(store, pipeline, previous_runs)
        if request.plan_token is not None:
            check_plan_token(store, plan, request.plan_token)
        chosen = choose_steps(pipeline, plan, request.only, request.from_step)
        if all(touch_artifact(store, planned.artifact) for planned in plan if planned.artifact is not None):
            return plan, chosen


def _execute_steps(run: Run, plan: list[PlannedStep], chosen: list[str], engine: StepEngine) -> None:
    picked = [planned for planned in plan if planned.step.name in chosen]
    if all(planned.action == "reuse" for planned in picked):
        log_info(f"run {run.run_id}: all {len(picked)} steps are made already")
        record_all_reused(run, picked)
    else:
        to_make = sum(planned.action == "make" for planned in picked)
        log_info(f"run {run.run_id}: {to_make} of {len(picked)} steps to make")
        try:
            engine(run, chosen)
        except Exception as error:
            if not run.is_complete(chosen):
                raise
            # Every artifact is there and recorded: the error is one of Prefect's server, which went away meanwhile.
            log_info(f"run {run.run_id}: done, but Prefect did not record it: {type(error).__name__}: {error}")


def _check_pools(to_make: list[Step], check_pools: PoolCheck) -> None:
    pools = {step.name: step.pool for step in to_make if step.pool is not None}
    for step in to_make:
        files = [ref.removeprefix(FILE_PREFIX) for ref in step.references() if ref.startswith(FILE_PREFIX)]
        outside = [file for file in files if not is_shipped_spec(Path(file))]
        if step.pool is not None and outside:
            raise RequestError(
                f"step '{step.name}' cannot be made in work pool '{step.pool}': it reads {outside[0]}, and only what "
                f"is in the store reaches another machine; --set dispatch.{step.name}={LOCAL_POOL} makes it here"
            )
    if pools:
        try:
            check_pools(sorted(set(pools.values())))
        except RequestError as error:
            name, pool = next(iter(pools.items()))
            raise RequestError(f"step '{name}' is to be made in work pool '{pool}': {error}") from error


def _status(error: BaseException) -> str:
    if is_interruption(error):
        return "interrupted"
    return "over_budget" if isinstance(error, OverBudget) else "failed"


def _with_advice(run: Run, error: BaseException) -> ZscirError:
    if is_interruption(error):
        return Interrupted(f"interrupted; {resume_advice(run)}")
    if isinstance(error, OverBudget):
        return OverBudget(f"{error}\n{resume_advice(run, error.options)}", error.options)
    kind = GateError if isinstance(error, GateError) else StageError
    message = str(error) if isinstance(error, ZscirError) else f"{type(error).__name__}: {error}"
    return kind(f"{message}\n{resume_advice(run)}")


def plan_rows(plan: list[PlannedStep]) -> list[dict[str, Any]]:
    """One row for each planned step: what would happen to it, why, and the seconds that its last making took."""
    return [
        {
            "step": planned.step.name,
            "stage": planned.step.stage.name,
            "action": planned.action,
            "reason": planned.reason,
            "key": planned.key[:12] if planned.key else None,
            "last_s": planned.last_wall_s,
            "pool": planned.step.pool if planned.action == "make" else None,
        }
        for planned in plan
    ]


def run_summary(run: Run) -> list[dict[str, Any]]:
    """One row for each step of a run that has just ended: outcome, seconds, and what it made."""
    return [
        {
            "step": row["step"],
            "outcome": row["outcome"],
            "wall_s": row.get("wall_s"),
            "key": row["key"],
            "facts": format_facts(run.artifacts[row["step"]].facts) if row["step"] in run.artifacts else "",
        }
        for row in run.recorder.steps()
    ]
