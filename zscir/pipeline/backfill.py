"""Backfills: a pipeline and a row of partitions become one ordinary run for each partition that is not made yet."""

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
    store: Store, asked: RunRequest, partitions: Sequence[Partition], engine: StepEngine, ready: PoolCheck = no_pools
) -> list[Row]:
    """One row for each partition: ``done`` by a run of its own, ``found`` finished, or ``failed`` and why.

    A failed partition stops no other. RequestError before anything is run when the pipeline is wrong or when two
    partitions read the same files; Interrupted, with what is done by then, when somebody stops it.
    """
    _check_distinct_inputs(asked, partitions)
    rows: list[Row] = []
    for number, one in enumerate(partitions, start=1):
        log_info(f"backfill {number} of {len(partitions)}: {one.name}")
        try:
            rows.append(_run_partition(store, _partition_request(asked, one), one, engine, ready))
        except Interrupted as error:
            raise Interrupted(
                f"{one.name}: {error}\n{number - 1} of {len(partitions)} partitions came before"
            ) from error
        except ZscirError as error:
            log_info(f"{one.name}: failed")
            rows.append({"partition": one.name, "outcome": "failed", "run_id": None, "reason": str(error)})
    return rows


def raise_failed_partitions(rows: Sequence[Row], again: str) -> None:
    """StageError that lists the partitions that failed and ends with ``again``, the line to type."""
    failed = [row for row in rows if row["outcome"] == "failed"]
    if not failed:
        return
    lines = [f"  {row['partition']}: {row['reason'].splitlines()[0]}" for row in failed[:20]]
    if len(failed) > 20:
        lines.append(f"  ... and {len(failed) - 20} more")
    head = f"{len(failed)} of {len(rows)} partitions failed; the others are made:"
    raise StageError("\n".join([head, *lines, "Go on with:", f"  {again}"]))


def is_pipeline_complete(store: Store, pipeline: Pipeline) -> bool:
    """Whether every step's artifact is in the store already; RequestError when a file that is read is missing."""
    made: dict[str, Artifact] = {}
    for step in pipeline.steps:
        check_external_files(step)
    for step in pipeline.steps:
        key = stage_key(step.stage, step.spec, resolve_inputs(step, made))
        artifact = store.look(step.stage.name, key).artifact
        if artifact is None:
            return False
        made[step.name] = artifact
    return True


def _run_partition(store: Store, asked: RunRequest, one: Partition, engine: StepEngine, ready: PoolCheck) -> Row:
    if is_pipeline_complete(store, _load(asked)):
        return {"partition": one.name, "outcome": "found", "run_id": None, "reason": "finished before"}
    run = execute_run(store, asked, engine, ready)
    made = sum(row["outcome"] == "made" for row in run.recorder.steps())
    return {"partition": one.name, "outcome": "done", "run_id": run.run_id, "reason": f"{made} steps made"}


def _partition_request(asked: RunRequest, one: Partition) -> RunRequest:
    changes = [*asked.changes, one.change]
    return RunRequest(asked.path, changes, trigger="backfill", flow_run_id=asked.flow_run_id)


def _load(asked: RunRequest) -> Pipeline:
    return load_pipeline(spec_path(str(asked.path)), asked.changes)


def _check_distinct_inputs(asked: RunRequest, partitions: Sequence[Partition]) -> None:
    """Every partition's pipeline loads, and no two of them read the same files."""
    seen: dict[str, str] = {}
    for one in partitions:
        files = sorted(
            reference for step in _load(_partition_request(asked, one)).steps for reference in step.references()
        )
        earlier = seen.setdefault("\n".join(files), one.name)
        if earlier != one.name:
            raise RequestError(
                f"{Path(asked.path)}: {earlier} and {one.name} read the same files; write {{{one.field}}} into the "
                f'source\'s `urls` (as "lists/{{{one.field}}}/*.parquet") or give a longer --every'
            )
