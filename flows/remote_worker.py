"""The flow by which a worker makes one step of a run that is under way elsewhere; its last state holds the report."""

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


# ``errand`` is the parameter's name on the server: flow runs that wait there, and requests by REST, use it.
@flow(name="make-dispatched", version=__version__, persist_result=False)
def remote_job_flow(errand: dict[str, Any]) -> State[Any]:
    """Make one step of a run that is under way elsewhere; `[dispatch]` of its pipeline requests it.

    Args:
        errand: stage, spec, the keys of the inputs and where the store is, as the run wrote them
    """
    survive_worker_exit()
    report = _execute(errand)
    # The state's message is the way back: results would need a storage that the run and the worker share.
    if report.key is not None:
        return Completed(message=report.message())
    return Failed(message=report.message(), name=GATE_STATE if report.kind == "gate" else None)


@flow(flow_run_name="{name}", validate_parameters=False, persist_result=False)
def remote_chunks_flow(name: str, job: dict[str, Any]) -> JobReport:
    """The same for a step that is split: its chunks are tasks, on what this machine's settings say."""
    return execute_job(job, map_chunks)


def _execute(job: dict[str, Any]) -> JobReport:
    stage = job["stage"]
    if stage_named(stage).split is None:
        return execute_job(job)
    task_runner = make_task_runner(WorkerSettings.from_env())
    return remote_chunks_flow.with_options(name=stage, task_runner=task_runner)(job["name"], job)
