"""Backfills: a pipeline and a row of partitions become one ordinary run for each partition that is not made yet."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zscir.pipeline.execute import Asked, Ready, Walk, no_pools, walk
from zscir.pipeline.partitions import Partition
from zscir.pipeline.pipeline_file import Pipeline, load_pipeline
from zscir.pipeline.plan import check_files, resolve_inputs
from zscir.pipeline.stage import key_of
from zscir.runtime.errors import Interrupted, RequestError, StageError, ZscirError
from zscir.runtime.progress import note
from zscir.runtime.settings import spec_path
from zscir.store.artifacts import Artifact
from zscir.store.store import Store

Row = dict[str, Any]


def backfill(store: Store, asked: Asked, partitions: Sequence[Partition], engine: Walk,
             ready: Ready = no_pools) -> list[Row]:  # fmt: skip
    """One row for each partition: ``done`` by a run of its own, ``found`` finished, or ``failed`` and why.

    A failed partition stops no other. RequestError before anything is run when the pipeline is wrong or when two
    partitions read the same files; Interrupted, with what is done by then, when somebody stops it.
    """
    _check_apart(asked, partitions)
    rows: list[Row] = []
    for number, one in enumerate(partitions, start=1):
        note(f"backfill {number} of {len(partitions)}: {one.name}")
        try:
            rows.append(_fill_one(store, _asked_for(asked, one), one, engine, ready))
        except Interrupted as error:
            raise Interrupted(
                f"{one.name}: {error}\n{number - 1} of {len(partitions)} partitions came before"
            ) from error
        except ZscirError as error:
            note(f"{one.name}: failed")
            rows.append({"partition": one.name, "outcome": "failed", "run_id": None, "reason": str(error)})
    return rows


def check_all_done(rows: Sequence[Row], again: str) -> None:
    """StageError that lists the partitions that failed and ends with ``again``, the line to type."""
    failed = [row for row in rows if row["outcome"] == "failed"]
    if not failed:
        return
    lines = [f"  {row['partition']}: {row['reason'].splitlines()[0]}" for row in failed[:20]]
    if len(failed) > 20:
        lines.append(f"  ... and {len(failed) - 20} more")
    head = f"{len(failed)} of {len(rows)} partitions failed; the others are made:"
    raise StageError("\n".join([head, *lines, "Go on with:", f"  {again}"]))


def is_finished(store: Store, pipeline: Pipeline) -> bool:
    """Whether every step's artifact is in the store already; RequestError when a file that is read is missing."""
    made: dict[str, Artifact] = {}
    for step in pipeline.steps:
        check_files(step)
    for step in pipeline.steps:
        key = key_of(step.stage, step.spec, resolve_inputs(step, made))
        artifact = store.look(step.stage.name, key).artifact
        if artifact is None:
            return False
        made[step.name] = artifact
    return True


def _fill_one(store: Store, asked: Asked, one: Partition, engine: Walk, ready: Ready) -> Row:
    if is_finished(store, _load(asked)):
        return {"partition": one.name, "outcome": "found", "run_id": None, "reason": "finished before"}
    run = walk(store, asked, engine, ready)
    made = sum(row["outcome"] == "made" for row in run.recorder.steps())
    return {"partition": one.name, "outcome": "done", "run_id": run.run_id, "reason": f"{made} steps made"}


def _asked_for(asked: Asked, one: Partition) -> Asked:
    changes = [*asked.changes, one.change]
    return Asked(asked.path, changes, trigger="backfill", flow_run_id=asked.flow_run_id)


def _load(asked: Asked) -> Pipeline:
    return load_pipeline(spec_path(str(asked.path)), asked.changes)


def _check_apart(asked: Asked, partitions: Sequence[Partition]) -> None:
    """Every partition's pipeline loads, and no two of them read the same files."""
    seen: dict[str, str] = {}
    for one in partitions:
        files = sorted(reference for step in _load(_asked_for(asked, one)).steps for reference in step.references())
        earlier = seen.setdefault("\n".join(files), one.name)
        if earlier != one.name:
            raise RequestError(
                f"{Path(asked.path)}: {earlier} and {one.name} read the same files; write {{{one.field}}} into the "
                f'source\'s `urls` (as "lists/{{{one.field}}}/*.parquet") or give a longer --every'
            )
