"""The dispatched flow: a step of somebody's run is made by a worker of another work pool, whose state is its report."""

from typing import Any

from prefect import State, flow
from prefect.states import Completed, Failed

from flows.outcome import GATE_STATE, survive_worker_exit
from flows.steps import map_chunks
from flows.task_runners import make_task_runner
from zscir import __version__
from zscir.pipeline.remote_step import JobReport, execute_job
from zscir.pipeline.stage import stage_named
from zscir.runtime.settings import WorkerSettings


@flow(name="make-dispatched", version=__version__, persist_result=False)
def remote_job_flow(errand: dict[str, Any]) -> State[Any]:
    """Make one step of a run that is under way elsewhere; `[dispatch]` of its pipeline asks for it.

    Args:
        errand: stage, spec, the keys of the inputs and where the store is, as the run wrote them
    """
    survive_worker_exit()
    report = _execute(errand)
    if report.key is not None:
        return Completed(message=report.words())
    return Failed(message=report.words(), name=GATE_STATE if report.kind == "gate" else None)


@flow(flow_run_name="{name}", validate_parameters=False, persist_result=False)
def remote_chunks_flow(name: str, errand: dict[str, Any]) -> JobReport:
    """The same for a step that is cut: its pieces are tasks, on what this machine's settings say."""
    return execute_job(errand, map_chunks)


def _execute(errand: dict[str, Any]) -> JobReport:
    name = errand["stage"]
    if stage_named(name).cut is None:
        return execute_job(errand)
    return remote_chunks_flow.with_options(name=name, task_runner=make_task_runner(WorkerSettings.from_env()))(
        errand["name"], errand
    )
