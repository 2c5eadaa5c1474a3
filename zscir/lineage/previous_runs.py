"""Read what earlier runs of a store recorded, from the newest run back and no further than is needed.

To find a finished pipeline finished takes a few small files, however many runs the store has; SQL over the same tables
(``sql_views``) reads those of every run.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from zscir.lineage.tables import LINEAGE_SCHEMAS
from zscir.runtime.errors import RequestError
from zscir.runtime.schemas import conform_table
from zscir.store.file_sizes import PARALLEL_LISTINGS
from zscir.store.store import LINEAGE_FOLDER, Store

Row = dict[str, Any]
TIMESTAMP_CHARS = len("20260131-235959")  # the ids of runs sort as their starts do, to the second


class PreviousRuns:
    """The runs that a store had when this was made."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ids = sorted(store.list_folders(LINEAGE_FOLDER), reverse=True)
        self._artifacts = self._tables("artifacts", self._ids)
        self._makers: dict[tuple[str, str], Row] = {}
        self._read: dict[tuple[str, str], list[Row]] = {}

    def runs(self, pipeline: str) -> Iterator[Row]:
        """The rows of a pipeline's runs, newest first; each is read when the iteration reaches it."""
        tables = self._tables("run", self._ids)
        for _, same_second in groupby(self._ids, lambda run_id: run_id[:TIMESTAMP_CHARS]):
            # Ids of one second end in random characters: only the tables say which of those runs was first.
            rows = [row for _ in same_second for row in next(tables) if row["pipeline"] == pipeline]
            yield from sorted(rows, key=lambda row: row["started_at"], reverse=True)

    def stages(self, run_id: str) -> list[Row]:
        """The steps that a run recorded; none where it is gone."""
        return self._table("stages", run_id)

    def wall_s(self, run_id: str, key: str) -> float | None:
        """How long it took to make an artifact that a run made or reused, in seconds; None if no run recorded it."""
        makers = [row["created_by_run"] for row in self._table("artifacts", run_id) if row["key"] == key]
        made = [row for maker in makers for row in self.stages(maker) if (row["key"], row["outcome"]) == (key, "made")]
        return made[0]["wall_s"] if made else None

    def artifact(self, key: str, digest: str) -> Row | None:
        """The row of the ``artifacts`` table that runs before this one wrote about an artifact of these bytes."""
        while (key, digest) not in self._makers:
            rows = next(self._artifacts, None)
            if rows is None:
                return None
            for row in rows:
                # The newest row wins; by the digest, since a key may have been made again to other bytes.
                self._makers.setdefault((row["key"], row["digest"]), row)
        return self._makers[key, digest]

    def _tables(self, name: str, run_ids: list[str]) -> Iterator[list[Row]]:
        """One table of each run, in this order; from S3 a few are read at the same time."""
        many = PARALLEL_LISTINGS if self._store.remote else 1
        for first in range(0, len(run_ids), many):
            some = run_ids[first : first + many]
            if len(some) == 1:
                yield self._table(name, some[0])
                continue
            with ThreadPoolExecutor(many) as pool:
                yield from pool.map(partial(self._table, name), some)

    def _table(self, name: str, run_id: str) -> list[Row]:
        if (name, run_id) not in self._read:
            self._read[name, run_id] = self._rows(name, run_id)
        return self._read[name, run_id]

    def _rows(self, name: str, run_id: str) -> list[Row]:
        data = self._store.read_bytes(LINEAGE_FOLDER, run_id, f"{name}.parquet")
        if data is None:
            return []
        where = f"store {self._store.uri}: {LINEAGE_FOLDER}/{run_id}/{name}.parquet"
        try:
            # From memory: a run under way may replace the file at any moment.
            table = pq.ParquetFile(pa.BufferReader(data)).read()
        except (pa.ArrowInvalid, OSError) as error:
            raise RequestError(f"{where}: {error}") from None
        # A row about an artifact is copied into the tables of later runs: it must have their columns, no others.
        rows: list[Row] = conform_table(table, LINEAGE_SCHEMAS[name], where).to_pylist()
        return rows
