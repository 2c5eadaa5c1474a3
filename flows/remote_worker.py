"""The dispatched flow: a step of somebody's run is made by a worker of another work pool, whose state is its report."""

from typing import Any

from prefect import State, flow
from prefect.states import Completed, Failed

from flows.outcome import GATE, outlive_the_worker
from flows.steps import map_pieces
from flows.task_runners import task_runner
from zscir import __version__
from zscir.pipeline.remote_step import Report, carry_out
from zscir.pipeline.stage import stage_named
from zscir.runtime.settings import Workers


@flow(name="make-dispatched", version=__version__, persist_result=False)
def make_dispatched(errand: dict[str, Any]) -> State[Any]:
    """Make one step of a run that is under way elsewhere; `[dispatch]` of its pipeline asks for it.

    Args:
        errand: stage, spec, the keys of the inputs and where the store is, as the run wrote them
    """
    outlive_the_worker()
    report = _carried_out(errand)
    if report.key is not None:
        return Completed(message=report.words())
    return Failed(message=report.words(), name=GATE if report.kind == "gate" else None)


@flow(flow_run_name="{name}", validate_parameters=False, persist_result=False)
def make_pieces(name: str, errand: dict[str, Any]) -> Report:
    """The same for a step that is cut: its pieces are tasks, on what this machine's settings say."""
    return carry_out(errand, map_pieces)


def _carried_out(errand: dict[str, Any]) -> Report:
    name = errand["stage"]
    if stage_named(name).cut is None:
        return carry_out(errand)
    return make_pieces.with_options(name=name, task_runner=task_runner(Workers.from_env()))(errand["name"], errand)
