"""Queries: the lineage and record tables of a store become DuckDB views that SQL can ask."""

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from zscir.lineage.tables import LINEAGE_SCHEMAS, REMOVED_SCHEMA
from zscir.runtime.errors import RequestError
from zscir.runtime.schemas import (
    CANDIDATES_SCHEMA,
    CURVE_SCHEMA,
    HOSTS_SCHEMA,
    IMAGES_SCHEMA,
    INTERVALS_SCHEMA,
    PACKED_SCHEMA,
    PAIRS_SCHEMA,
    RANKINGS_SCHEMA,
    REJECTS_SCHEMA,
    RESPONSES_SCHEMA,
    SCORES_SCHEMA,
    TRIPLETS_SCHEMA,
    write_table,
)
from zscir.store.store import Store

if TYPE_CHECKING:
    import duckdb

RECORD_SCHEMAS = {
    "pairs": PAIRS_SCHEMA,
    "images": IMAGES_SCHEMA,
    "triplets": TRIPLETS_SCHEMA,
    "candidates": CANDIDATES_SCHEMA,
    "responses": RESPONSES_SCHEMA,
    "rankings": RANKINGS_SCHEMA,
    "scores": SCORES_SCHEMA,
    "intervals": INTERVALS_SCHEMA,
    "rejects": REJECTS_SCHEMA,
    "hosts": HOSTS_SCHEMA,
    "curve": CURVE_SCHEMA,
    "packed": PACKED_SCHEMA,
}
RECORD_FILES = {"packed": "index.parquet", "responses": "responses-*.parquet"}
LINEAGE_TABLES = LINEAGE_SCHEMAS | {"removed": REMOVED_SCHEMA}
ANCESTRY_TABLES = ("artifacts", "edges")  # every run that came by an artifact lists it: their rows are told once
ANCESTRY_SQL = """
CREATE VIEW ancestry AS WITH RECURSIVE up(key, ancestor_key) AS (
    SELECT key, key FROM artifacts
    UNION SELECT up.key, edges.parent_key FROM up JOIN edges ON edges.child_key = up.ancestor_key
) SELECT * FROM up
"""

# Scores on real benchmarks: the tabletop world's carry the same names and belong beside no published number.
REAL_SCORES_SQL = """
SELECT scores.*, intervals.hits, intervals.low, intervals.high, intervals.control
FROM scores LEFT JOIN intervals USING (artifact_key, benchmark, split, protocol, metric) WHERE artifact_key NOT IN (
    SELECT ancestry.key FROM ancestry JOIN artifacts ON artifacts.key = ancestor_key WHERE stage = 'tabletop_benchmarks'
) ORDER BY ALL
"""


def query_store(store: Store, query: str, values: Sequence[Any] = ()) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Column names and rows of ``query`` (``values`` stand in for its $1, $2, ...).

    RequestError with DuckDB's own words when the query is wrong.
    """
    import duckdb

    with tempfile.TemporaryDirectory(prefix="zscir-sql-") as folder, duckdb.connect() as connection:
        try:
            make_views(connection, store, query, Path(folder))
            result = connection.execute(query, list(values))
            names = [column[0] for column in result.description or []]
            return names, result.fetchall()
        except duckdb.Error as error:
            tables = ", ".join([*LINEAGE_TABLES, "ancestry", *RECORD_SCHEMAS])
            raise RequestError(f"sql: {str(error).splitlines()[0]}\nthe tables are: {tables}") from None


def query_store_rows(store: Store, query: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
    """The rows of ``query`` as dictionaries."""
    names, found = query_store(store, query, values)
    return [dict(zip(names, row, strict=True)) for row in found]


def make_views(connection: "duckdb.DuckDBPyConnection", store: Store, query: str, scratch: Path) -> None:
    """Give the connection a view for each table that ``query`` names; all of the lineage's when it names none."""
    connection.execute("SET TimeZone = 'UTC'")
    named = _tables_named(query)
    lineage = set(LINEAGE_TABLES) & named if named else set(LINEAGE_TABLES)
    for name in sorted(lineage):
        _create_view(connection, scratch, name, LINEAGE_TABLES[name], store.lineage_tables(name, scratch / name), "")
    if lineage.issuperset(ANCESTRY_TABLES):
        connection.execute(ANCESTRY_SQL)
    for name, schema in RECORD_SCHEMAS.items():
        if name in named:
            found = store.artifact_files(RECORD_FILES.get(name, f"{name}.parquet"), scratch / name)
            paths = [path for path in found if set(schema.names) <= set(pq.read_schema(path).names)]
            key = ", regexp_extract(filename, '/([0-9a-f]{64})/[^/]*$', 1) AS artifact_key"
            _create_view(connection, scratch, name, schema, paths, key)


def _tables_named(query: str) -> set[str]:
    """The tables that ``query`` names, and those that they are made of."""
    known = [*LINEAGE_TABLES, *RECORD_SCHEMAS, "ancestry"]
    found = {name for name in known if re.search(rf"\b{name}\b", query, re.IGNORECASE)}
    return found | set(ANCESTRY_TABLES) if "ancestry" in found else found


def _create_view(
    connection: "duckdb.DuckDBPyConnection", scratch: Path, name: str, schema: Any, paths: list[str], extra: str
) -> None:
    if not paths:
        empty = scratch / f"{name}-{'0' * 64}" / "empty.parquet"
        empty.parent.mkdir(parents=True)
        write_table(empty, schema, [])
        paths = [str(empty)]
    listed = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
    columns = ", ".join(f'"{column}"' for column in schema.names)
    source = f"read_parquet([{listed}], union_by_name=true, filename=true)"
    kind = "DISTINCT " if name in ANCESTRY_TABLES else ""
    connection.execute(f"CREATE VIEW {name} AS SELECT {kind}{columns}{extra} FROM {source}")  # noqa: S608 - our own names
