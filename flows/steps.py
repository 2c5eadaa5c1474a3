"""Steps: a step of a pipeline becomes a Prefect task named after its stage, or a flow whose tasks are its pieces."""

from collections.abc import Iterator, Sequence
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import as_completed

from flows.remote_dispatch import dispatch
from flows.task_runners import task_runner
from flows.ui_artifacts import with_progress
from zscir.pipeline.chunk_job import done_of, made_or_raised, ticket_of
from zscir.pipeline.run import do_step, is_dispatched
from zscir.pipeline.stage import Piece, PieceDone, stage_named
from zscir.runtime.settings import Workers
from zscir.store.store import Store


@task(cache_policy=NO_CACHE, task_run_name="{name}", persist_result=False)
def make_step(run_id: str, name: str) -> str:
    """The key of the step's artifact; the store decides whether it is made or reused, the step's pool by whom."""
    return do_step(run_id, name, elsewhere=dispatch)


@flow(flow_run_name="{name}-{run_id}", validate_parameters=False, persist_result=False)
def make_cut_step(run_id: str, name: str) -> str:
    """The same for a step that is cut: a flow of its own, whose tasks are the pieces."""
    return do_step(run_id, name, with_progress(map_pieces, run_id, name))


@task(cache_policy=NO_CACHE, task_run_name="{name}", persist_result=False)
def make_piece(name: str, ticket: dict[str, Any]) -> PieceDone:
    """What became of one piece, wherever the task runner put it."""
    return made_or_raised(ticket)


def map_pieces(store: Store, pieces: Sequence[Piece]) -> Iterator[PieceDone]:
    """Each piece as a task on the flow's task runner, in the order in which they end."""
    named = make_piece.with_options(name=pieces[0].stage.name)
    futures = named.map([piece.name for piece in pieces], [ticket_of(store, piece) for piece in pieces])
    asked = {id(future): piece for future, piece in zip(futures, pieces, strict=True)}
    for future in as_completed(list(futures)):
        yield done_of(asked[id(future)], future.result(raise_on_failure=False))


def run_step(run_id: str, name: str, stage: str) -> str:
    """Run a step under its stage's name, so that the stage is what the UI shows."""
    if stage_named(stage).cut is None or is_dispatched(run_id, name):
        key: str = make_step.with_options(name=stage)(run_id, name)
        return key
    on = make_cut_step.with_options(name=stage, task_runner=task_runner(Workers.from_env()))
    return on(run_id, name)
