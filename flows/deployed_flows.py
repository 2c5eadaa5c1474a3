"""The deployed flows: a schedule, the REST API or a form on Prefect's page starts one, and it runs a pipeline."""

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from prefect import flow, get_client
from prefect.context import FlowRunContext
from prefect.runtime import flow_run

from flows.outcome import FlowResult, as_flow_result
from flows.pipeline import pipeline_flow
from flows.work_pools import ensure_work_pools
from zscir import __version__
from zscir.pipeline.backfill import raise_failed_partitions, run_backfill
from zscir.pipeline.execute import RunRequest, execute_run, rerun_request
from zscir.pipeline.partitions import PartitionLength, last_complete_partition, partitions_between
from zscir.pipeline.run import Run
from zscir.pipeline.stage import step_stage_names
from zscir.runtime.errors import RequestError
from zscir.runtime.settings import spec_path
from zscir.store.store import Store

WHERE_IT_STOPPED = "where it stopped"
UI_MESSAGE_PREFIX = "Run from the Prefect UI"  # the page sets this message on the first state of a run that it starts
if TYPE_CHECKING:  # a Literal must be written out for a type checker, and only the folder zscir/stages knows the names
    StageName = str
    StageChoice = str
else:  # Prefect reads these at run time: the choices in its forms, and what its server accepts
    StageName = Literal[tuple(step_stage_names())]
    StageChoice = Literal[(WHERE_IT_STOPPED, *step_stage_names())]
PartitionChoice = Literal["none", PartitionLength]


def flow_run_title() -> str:
    """The flow run's name: what it runs and the time it was meant to start."""
    given = flow_run.parameters
    name = Path(str(given["pipeline"])).stem if "pipeline" in given else f"rerun-{given.get('run_id', 'latest')}"
    return f"{name}-{flow_run.scheduled_start_time:%Y%m%d-%H%M%S}"


@flow(name="run-pipeline", version=__version__, flow_run_name=flow_run_title, persist_result=False)
def run_pipeline(
    pipeline: str,
    set: list[str] = [],  # noqa: A002, B006 - the REST API names it; Prefect reads the default and never changes it
    only: str | None = None,
    start: str | None = None,
    partition: PartitionChoice = "none",
    timezone: str = "UTC",
) -> FlowResult:
    """Run a pipeline; artifacts that exist are reused, and a finished pipeline ends at once.

    Args:
        pipeline: a pipeline file: an absolute path on the worker's machine, or data_specs/... for a shipped one
        set: changed fields, each STEP.field=value, source=FILE or partition.date=2026-11-04
        only: run this step or stage only
        start: run this step or stage and what depends on it
        partition: fill the source's {date} with the last whole hour, day, ... before the scheduled time
        timezone: the time zone of that date
    """
    return as_flow_result(
        _execute_request(
            lambda store: RunRequest(
                _find_pipeline(pipeline), [*set, *_partition_change(partition, timezone)], only, start
            )
        )
    )


@flow(name="run-stage", version=__version__, flow_run_name=flow_run_title, persist_result=False)
def run_stage(
    stage: StageName,
    pipeline: str,
    set: list[str] = [],  # noqa: A002, B006 - the REST API names it; Prefect reads the default and never changes it
) -> FlowResult:
    """Run all steps of one stage of a pipeline; the steps before it must be made.

    Args:
        stage: the stage
        pipeline: a pipeline file: an absolute path on the worker's machine, or data_specs/... for a shipped one
        set: changed fields, each STEP.field=value or source=FILE
    """
    return as_flow_result(_execute_request(lambda store: RunRequest(_find_pipeline(pipeline), [*set], only=stage)))


@flow(name="rerun", version=__version__, flow_run_name=flow_run_title, persist_result=False)
def rerun_flow(
    run_id: str = "latest",
    stage: StageChoice = WHERE_IT_STOPPED,
    step: str = "",
    walk_on: Literal["from there on", "only that"] = "from there on",
    set: list[str] = [],  # noqa: A002, B006 - the REST API names it; Prefect reads the default and never changes it
) -> FlowResult:
    """Run again after a failure; finished steps are reused.

    Args:
        run_id: the run's id as `zscir runs` lists it, a unique prefix, or latest
        stage: the stage to begin with
        step: a step to begin with, where a stage has several; it goes before the stage
        walk_on: that stage and what depends on it, or only that
        set: changed fields, each STEP.field=value or source=FILE
    """
    chosen = step or (None if stage == WHERE_IT_STOPPED else stage)
    only, from_step = (chosen, None) if walk_on == "only that" else (None, chosen)
    return as_flow_result(_execute_request(lambda store: rerun_request(store, run_id, only, from_step, set)))


@flow(name="backfill", version=__version__, flow_run_name=flow_run_title, persist_result=False)
def backfill_flow(
    pipeline: str,
    first: str,
    last: str,
    every: PartitionLength = "day",
    set: list[str] = [],  # noqa: A002, B006 - the REST API names it; Prefect reads the default and never changes it
) -> FlowResult:
    """Run a pipeline for each date or shard that is not made yet.

    Args:
        pipeline: a pipeline file: an absolute path on the worker's machine, or data_specs/... for a shipped one
        first: the first partition, as 2026-11-01, 2026-11-01T05, or the number of a shard
        last: the last partition; it is included
        every: how far apart the dates are
        set: changed fields, each STEP.field=value or source=FILE
    """

    def fill(store: Store) -> dict[str, str]:
        request = RunRequest(_find_pipeline(pipeline), [*set], flow_run_id=str(flow_run.id))
        rows = run_backfill(store, request, partitions_between(first, last, every), _run_in_flow, ensure_work_pools)
        command = ["zscir", "backfill", pipeline, "--from", first, "--to", last, "--every", every]
        for change in set:
            command += ["--set", change]
        raise_failed_partitions(rows, shlex.join(command))
        return {row["partition"]: row["outcome"] for row in rows}

    return as_flow_result(fill)


def _execute_request(make_request: Callable[[Store], RunRequest]) -> Callable[[Store], dict[str, str]]:
    """Execute a request, given the store that it may look up; the result is step name -> key."""

    def execute(store: Store) -> dict[str, str]:
        request = replace(make_request(store), trigger=_trigger(), flow_run_id=str(flow_run.id))
        run = execute_run(store, request, _run_in_flow, ensure_work_pools)
        return {name: artifact.key for name, artifact in run.artifacts.items()}

    return execute


def _run_in_flow(run: Run, chosen: list[str]) -> None:
    """The engine: the pipeline flow's own body, whose tasks belong to this flow run."""
    stages = {step.name: step.stage.name for step in run.pipeline.steps}
    pipeline_flow.fn(run.run_id, run.pipeline.name, [[name, stages[name]] for name in chosen])


def _find_pipeline(pipeline: str) -> Path:
    path = spec_path(pipeline)
    if not path.is_absolute() and not path.exists():
        raise RequestError(
            f"{pipeline}: no such shipped pipeline, and a worker runs in a folder of its own; give an absolute path of "
            "the worker's machine"
        )
    return path.resolve()


def _partition_change(every: PartitionChoice, timezone: str) -> list[str]:
    return (
        [] if every == "none" else [last_complete_partition(every, flow_run.scheduled_start_time, timezone).set_option]
    )


def _trigger() -> str:
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return "api"
    if context.flow_run.auto_scheduled:
        return "schedule"
    with get_client(sync_client=True) as client:
        states = client.read_flow_run_states(context.flow_run.id)
    first = min(states, key=lambda state: state.timestamp)
    return "ui" if (first.message or "").startswith(UI_MESSAGE_PREFIX) else "api"
