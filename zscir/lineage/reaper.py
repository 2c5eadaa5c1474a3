"""Mark runs whose process died as failed in their own tables, at the time of their last heartbeat.

Nothing else changes: what they finished stays, and leases and locks end by themselves. A run with a heartbeat is never
touched, and neither is a table that changes while it is read.
"""

import json
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from zscir.lineage.heartbeats import heartbeat_times, run_status
from zscir.lineage.sql_views import query_store_rows
from zscir.lineage.tables import LINEAGE_SCHEMAS
from zscir.runtime.progress import log_info
from zscir.runtime.schemas import read_rows, write_table
from zscir.runtime.specs import canonical_json
from zscir.store.conditional_writes import ConditionsUnsupported, PreconditionFailed, etag_of, write_object
from zscir.store.storage_errors import translate_storage_errors
from zscir.store.store import LINEAGE_FOLDER, Store


def reap_dead_runs(store: Store) -> list[str]:
    """Mark every run that has died as failed; return their ids. Doing it again, or twice at once, changes nothing."""
    running = query_store_rows(store, "SELECT * FROM run WHERE status = 'running' ORDER BY started_at, run_id")
    return [run["run_id"] for run in running if run_status(store, run) == "died" and _mark_failed(store, run["run_id"])]


def _mark_failed(store: Store, run_id: str) -> bool:
    table, stages, times = _read(store, run_id, "run"), _read(store, run_id, "stages"), heartbeat_times(store, run_id)
    (run,) = table.rows
    if run["status"] != "running":
        return False  # it ended in the meantime
    # The heartbeat has the store's time, the row its machine's: a run must not end before it began.
    at = run["started_at"] if times is None else max(times[0], run["started_at"])
    message = f"died: no heartbeat since {at:%Y-%m-%d %H:%M:%S} UTC"
    ended = [row | _failed_step_row(row, message, at) for row in stages.rows]
    config = canonical_json(json.loads(run["user_config"]) | {"died": message})
    failed = run | {"status": "failed", "finished_at": at, "user_config": config}
    # The run's row last: a reaper that dies in between leaves it ``running``, and the next one does both again.
    if not (_replace(store, stages, ended) and _replace(store, table, [failed])):
        return False
    log_info(f"run {run_id}: {message}; marked as failed; resume it with: zscir rerun {run_id}")
    return True


def _failed_step_row(row: dict[str, Any], message: str, at: datetime) -> dict[str, Any]:
    if row["outcome"] != "running":
        return {}
    return {"outcome": "failed", "error": message, "finished_at": max(at, row["started_at"])}


@dataclass(frozen=True)
class _Table:
    run_id: str
    name: str
    etag: str | None
    rows: list[dict[str, Any]]


def _read(store: Store, run_id: str, name: str) -> _Table:
    path = store.address(LINEAGE_FOLDER, run_id, f"{name}.parquet")
    with tempfile.TemporaryDirectory(prefix="zscir-reaper-") as folder, translate_storage_errors(store.uri):
        # The ETag before the bytes: if the run writes in between, the replacement fails, as it should.
        etag = etag_of(store.fs, path) if store.remote else None
        local = Path(folder) / f"{name}.parquet"
        store.fs.get_file(path, str(local))
        return _Table(run_id, name, etag, read_rows(local, LINEAGE_SCHEMAS[name]))


def _replace(store: Store, table: _Table, changed: list[dict[str, Any]]) -> bool:
    """Replace a table by ``changed``; False when it was written meanwhile: then its run is alive."""
    with tempfile.TemporaryDirectory(prefix="zscir-reaper-") as folder, translate_storage_errors(store.uri):
        local = Path(folder) / f"{table.name}.parquet"
        write_table(local, LINEAGE_SCHEMAS[table.name], changed)
        if table.etag is not None:
            try:
                write_object(
                    store.fs, store.address(LINEAGE_FOLDER, table.run_id, local.name), local.read_bytes(), table.etag
                )
            except PreconditionFailed:
                return False
            except ConditionsUnsupported:
                store.write_file(local, LINEAGE_FOLDER, table.run_id, local.name)
        else:
            store.write_file(local, LINEAGE_FOLDER, table.run_id, local.name)
    return True
