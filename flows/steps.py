"""Steps: a step of a pipeline becomes a Prefect task named after its stage, or a flow whose tasks are its pieces."""

from collections.abc import Iterator, Sequence
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import as_completed

from flows.remote_dispatch import dispatch_job
from flows.task_runners import make_task_runner
from flows.ui_artifacts import with_progress
from zscir.pipeline.chunk_job import chunk_job_for, chunk_result_of, run_chunk_job_or_raise
from zscir.pipeline.run import execute_step, is_remote_step
from zscir.pipeline.stage import Chunk, ChunkResult, stage_named
from zscir.runtime.settings import WorkerSettings
from zscir.store.store import Store


@task(cache_policy=NO_CACHE, task_run_name="{name}", persist_result=False)
def step_task(run_id: str, name: str) -> str:
    """The key of the step's artifact; the store decides whether it is made or reused, the step's pool by whom."""
    return execute_step(run_id, name, elsewhere=dispatch_job)


@flow(flow_run_name="{name}-{run_id}", validate_parameters=False, persist_result=False)
def chunked_step_flow(run_id: str, name: str) -> str:
    """The same for a step that is cut: a flow of its own, whose tasks are the pieces."""
    return execute_step(run_id, name, with_progress(map_chunks, run_id, name))


@task(cache_policy=NO_CACHE, task_run_name="{name}", persist_result=False)
def chunk_task(name: str, ticket: dict[str, Any]) -> ChunkResult:
    """What became of one piece, wherever the task runner put it."""
    return run_chunk_job_or_raise(ticket)


def map_chunks(store: Store, pieces: Sequence[Chunk]) -> Iterator[ChunkResult]:
    """Each piece as a task on the flow's task runner, in the order in which they end."""
    named = chunk_task.with_options(name=pieces[0].stage.name)
    futures = named.map([piece.name for piece in pieces], [chunk_job_for(store, piece) for piece in pieces])
    asked = {id(future): piece for future, piece in zip(futures, pieces, strict=True)}
    for future in as_completed(list(futures)):
        yield chunk_result_of(asked[id(future)], future.result(raise_on_failure=False))


def run_step(run_id: str, name: str, stage: str) -> str:
    """Run a step under its stage's name, so that the stage is what the UI shows."""
    if stage_named(stage).cut is None or is_remote_step(run_id, name):
        key: str = step_task.with_options(name=stage)(run_id, name)
        return key
    on = chunked_step_flow.with_options(name=stage, task_runner=make_task_runner(WorkerSettings.from_env()))
    return on(run_id, name)
