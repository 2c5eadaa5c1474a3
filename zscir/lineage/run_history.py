"""Read the history of a store from its lineage: its runs with their dates, and what each run used."""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from zscir.lineage.heartbeats import run_status
from zscir.lineage.sql_views import query_store_rows
from zscir.store.inventory import ObjectStat, list_objects
from zscir.store.store import LINEAGE_FOLDER, Store

LINKS_SQL = """
SELECT 'used' AS kind, run_id AS source, key AS target FROM stages WHERE key IS NOT NULL
UNION SELECT 'used', run_id, key FROM pieces WHERE key IS NOT NULL
UNION SELECT 'piece', stages.key, pieces.key FROM pieces JOIN stages USING (run_id, step)
    WHERE stages.key IS NOT NULL AND pieces.key IS NOT NULL
UNION SELECT 'edge', child_key, parent_key FROM edges
"""
KeyLinks = dict[str, set[str]]


@dataclass(frozen=True)
class PastRun:
    """A run, as far as retention needs it.

    ``first_seen`` is the earlier, ``last_seen`` the later of the times that the run recorded and the store's dates of
    its tables: whichever clock was wrong, its artifacts are kept for longer.
    """

    run_id: str
    pipeline: str
    status: str
    started_at: datetime
    first_seen: datetime
    last_seen: datetime
    is_complete_run: bool  # of all steps, not --only or --from
    partition: tuple[str, ...] = ()
    parent_run_id: str | None = None


@dataclass(frozen=True)
class RunHistory:
    """The runs, oldest first; run -> keys that it used; key -> keys of its chunks; key -> keys of its inputs."""

    runs: list[PastRun]
    used: KeyLinks = field(default_factory=dict)
    chunks: KeyLinks = field(default_factory=dict)
    edges: KeyLinks = field(default_factory=dict)


def read_run_history(store: Store) -> RunHistory:
    """The history of a store as its lineage tables have it now."""
    found: dict[str, KeyLinks] = {kind: defaultdict(set) for kind in ("used", "piece", "edge")}
    for row in query_store_rows(store, LINKS_SQL):
        found[row["kind"]][row["source"]].add(row["target"])
    files: dict[str, dict[str, ObjectStat]] = defaultdict(dict)
    for path, stat in list_objects(store, LINEAGE_FOLDER).items():
        files[path.split("/")[0]][path.rpartition("/")[2]] = stat
    # The packages of a run are kilobytes of JSON that nothing here reads.
    query = "SELECT * EXCLUDE (packages) FROM run ORDER BY started_at, run_id"
    runs = [_past_run(row, run_status(store, row), files[row["run_id"]]) for row in query_store_rows(store, query)]
    return RunHistory(runs, *(dict(found[kind]) for kind in ("used", "piece", "edge")))


def _past_run(row: dict[str, Any], status: str, files: dict[str, ObjectStat]) -> PastRun:
    config = json.loads(row["user_config"])
    table = files.get("run.parquet")
    return PastRun(
        run_id=row["run_id"],
        pipeline=row["pipeline"],
        status=status,
        started_at=row["started_at"],
        first_seen=min([row["started_at"], *([table.modified_at] if table is not None else [])]),
        last_seen=max([row["finished_at"] or row["started_at"], *(stat.modified_at for stat in files.values())]),
        is_complete_run=not (config.get("only") or config.get("from")),
        # A backfill names its partition by such changes; ``keep_runs`` counts for each partition by itself.
        partition=tuple(sorted(change for change in config.get("set") or [] if change.startswith("partition."))),
        parent_run_id=row["parent_run_id"],
    )
