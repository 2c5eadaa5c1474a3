"""Run a step of a pipeline as a Prefect task named after its stage, or as a flow whose tasks are the step's chunks."""

from collections.abc import Iterator, Sequence
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import as_completed

from flows.remote_dispatch import dispatch_job
from flows.task_runners import make_task_runner
from flows.ui_artifacts import with_progress
from zscir.pipeline.chunk_job import chunk_job_for, chunk_result_of, run_chunk_job
from zscir.pipeline.run import execute_step, is_remote_step
from zscir.pipeline.stage import Chunk, ChunkResult, stage_named
from zscir.runtime.settings import WorkerSettings
from zscir.store.store import Store


# NO_CACHE on both tasks: Prefect's default key holds the flow run's id, so a rerun would find nothing, and its other
# policies give stale results when a helper or a file's contents change. The store knows better.
@task(cache_policy=NO_CACHE, task_run_name="{name}", persist_result=False)
def step_task(run_id: str, name: str) -> str:
    """The key of the step's artifact; the store decides whether it is made or reused, the step's pool by whom."""
    return execute_step(run_id, name, run_job=dispatch_job)


@flow(flow_run_name="{name}-{run_id}", validate_parameters=False, persist_result=False)
def chunked_step_flow(run_id: str, name: str) -> str:
    """The same for a step that is split: a flow of its own, whose tasks are the chunks."""
    return execute_step(run_id, name, with_progress(map_chunks, run_id, name))


@task(cache_policy=NO_CACHE, task_run_name="{name}", persist_result=False)
def chunk_task(name: str, job: dict[str, Any]) -> ChunkResult:
    """What became of one chunk, on whatever worker the task runner chose."""
    return run_chunk_job(job)


def map_chunks(store: Store, chunks: Sequence[Chunk]) -> Iterator[ChunkResult]:
    """Each chunk as a task on the flow's task runner, in the order in which they end."""
    named = chunk_task.with_options(name=chunks[0].stage.name)
    futures = named.map([chunk.name for chunk in chunks], [chunk_job_for(store, chunk) for chunk in chunks])
    chunk_of = {id(future): chunk for future, chunk in zip(futures, chunks, strict=True)}
    for future in as_completed(list(futures)):
        yield chunk_result_of(chunk_of[id(future)], future.result(raise_on_failure=False))


def run_step(run_id: str, name: str, stage: str) -> str:
    """Run a step under its stage's name, so that the stage is what Prefect's page shows; return the artifact's key."""
    if stage_named(stage).split is None or is_remote_step(run_id, name):
        key: str = step_task.with_options(name=stage)(run_id, name)
        return key
    task_runner = make_task_runner(WorkerSettings.from_env())
    return chunked_step_flow.with_options(name=stage, task_runner=task_runner)(run_id, name)
