"""Backfill: run a pipeline once for each partition that is not made yet, each an ordinary run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zscir.pipeline.execute import PoolCheck, RunRequest, StepEngine, execute_run, no_pools
from zscir.pipeline.partitions import Partition
from zscir.pipeline.pipeline_file import Pipeline, load_pipeline
from zscir.pipeline.plan import check_external_files, resolve_inputs
from zscir.pipeline.stage import stage_key
from zscir.runtime.errors import Interrupted, RequestError, StageError, ZscirError
from zscir.runtime.progress import log_info
from zscir.runtime.settings import spec_path
from zscir.store.artifacts import Artifact
from zscir.store.store import Store

Row = dict[str, Any]


def run_backfill(
    store: Store,
    request: RunRequest,
    partitions: Sequence[Partition],
    engine: StepEngine,
    check_pools: PoolCheck = no_pools,
) -> list[Row]:
    """One row for each partition: ``done`` by a run of its own, ``found`` finished, or ``failed`` and why.

    A failed partition stops no other. RequestError before anything is run when the pipeline is wrong or when two
    partitions read the same files; Interrupted, with what is done by then, when a person or the system stops it.
    """
    _check_distinct_inputs(request, partitions)
    rows: list[Row] = []
    for number, partition in enumerate(partitions, start=1):
        log_info(f"backfill {number} of {len(partitions)}: {partition.name}")
        own = _partition_request(request, partition)
        try:
            rows.append(_run_partition(store, own, partition, engine, check_pools))
        # Before ZscirError, which it is too: who stops a backfill does not mean this one partition.
        except Interrupted as error:
            before = f"{number - 1} of {len(partitions)} partitions came before"
            raise Interrupted(f"{partition.name}: {error}\n{before}") from error
        except ZscirError as error:
            log_info(f"{partition.name}: failed")
            rows.append({"partition": partition.name, "outcome": "failed", "run_id": None, "reason": str(error)})
    return rows


def raise_failed_partitions(rows: Sequence[Row], command: str) -> None:
    """StageError that lists the partitions that failed and ends with ``command``, the line to type."""
    failed = [row for row in rows if row["outcome"] == "failed"]
    if not failed:
        return
    lines = [f"  {row['partition']}: {row['reason'].splitlines()[0]}" for row in failed[:20]]
    # A year of partitions that fail for one reason would push the command to type off the screen.
    if len(failed) > 20:
        lines.append(f"  ... and {len(failed) - 20} more")
    head = f"{len(failed)} of {len(rows)} partitions failed; the others are made:"
    raise StageError("\n".join([head, *lines, "Go on with:", f"  {command}"]))


def is_pipeline_complete(store: Store, pipeline: Pipeline) -> bool:
    """Whether every step's artifact is in the store already; RequestError when a file that is read is missing."""
    made: dict[str, Artifact] = {}
    for step in pipeline.steps:  # before any artifact is looked for, so that a missing file is always an error
        check_external_files(step)
    for step in pipeline.steps:
        key = stage_key(step.stage, step.spec, resolve_inputs(step, made))
        artifact = store.lookup(step.stage.name, key).artifact
        if artifact is None:
            return False
        made[step.name] = artifact
    return True


def _run_partition(
    store: Store, request: RunRequest, partition: Partition, engine: StepEngine, check_pools: PoolCheck
) -> Row:
    # Looked for here and not left to the run: a backfill of a year must not record 365 runs that did nothing.
    if is_pipeline_complete(store, _load(request)):
        return {"partition": partition.name, "outcome": "found", "run_id": None, "reason": "finished before"}
    run = execute_run(store, request, engine, check_pools)
    made = sum(row["outcome"] == "made" for row in run.recorder.steps())
    return {"partition": partition.name, "outcome": "done", "run_id": run.run_id, "reason": f"{made} steps made"}


def _partition_request(request: RunRequest, partition: Partition) -> RunRequest:
    changes = [*request.changes, partition.set_option]
    return RunRequest(request.path, changes, trigger="backfill", flow_run_id=request.flow_run_id)


def _load(request: RunRequest) -> Pipeline:
    return load_pipeline(spec_path(str(request.path)), request.changes)


def _check_distinct_inputs(request: RunRequest, partitions: Sequence[Partition]) -> None:
    """Every partition's pipeline loads, and no two of them read the same files: one of them would make nothing."""
    first_reader: dict[str, str] = {}
    for partition in partitions:
        steps = _load(_partition_request(request, partition)).steps
        # The usual cause is a source without {date}: its first partition would be made, all others only "found".
        files = sorted(reference for step in steps for reference in step.references())
        earlier = first_reader.setdefault("\n".join(files), partition.name)
        if earlier != partition.name:
            field = partition.field
            raise RequestError(
                f"{Path(request.path)}: {earlier} and {partition.name} read the same files; write {{{field}}} into the "
                f'source\'s `urls` (as "lists/{{{field}}}/*.parquet") or give a longer --every'
            )
