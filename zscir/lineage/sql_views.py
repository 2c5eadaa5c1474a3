"""Query the lineage and record tables of a store in SQL: each table is a DuckDB view over its Parquet files."""

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

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
    is_table_of,
    parquet_columns,
    parquet_sql,
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
ANCESTRY_TABLES = ("artifacts", "edges")  # every run that uses an artifact lists it: equal rows are shown once
ARTIFACT_KEY_SQL = "regexp_extract(filename, '/([0-9a-f]{64})/[^/]*$', 1)"  # the folder in which a file lies
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
    """Give the connection a view for each table that ``query`` names; all of the lineage's when it names none.

    A view has the columns of its schema, whatever version of zscir wrote the files; ``artifact_key`` is added to the
    record tables. RequestError names the file and the column when one that may not be null is missing.
    """
    # DuckDB shows times with a zone in the machine's own, unless the connection has another.
    connection.execute("SET TimeZone = 'UTC'")
    named = _tables_named(query)
    lineage = set(LINEAGE_TABLES) & named if named else set(LINEAGE_TABLES)
    for name in sorted(lineage):
        schema, copies = LINEAGE_TABLES[name], scratch / name
        with _named_in_store(store, copies):
            rows = parquet_sql(parquet_columns(store.lineage_tables(name, copies)), schema)
        distinct = "DISTINCT " if name in ANCESTRY_TABLES else ""
        connection.execute(f"CREATE VIEW {name} AS SELECT {distinct}{_quoted(schema)} FROM {rows}")  # noqa: S608 - our own names
    if lineage.issuperset(ANCESTRY_TABLES):
        connection.execute(ANCESTRY_SQL)
    for name, schema in RECORD_SCHEMAS.items():
        if name in named:
            rows = _record_rows(store, name, scratch / name)
            connection.execute(f"CREATE VIEW {name} AS SELECT {_quoted(schema)}, artifact_key FROM {rows}")  # noqa: S608 - our own names


def _record_rows(store: Store, name: str, copies: Path) -> str:
    """The rows of a record table in all artifacts, and ``artifact_key``, as a DuckDB table expression."""
    schema = RECORD_SCHEMAS[name]
    with _named_in_store(store, copies):
        found = parquet_columns(store.artifact_files(RECORD_FILES.get(name, f"{name}.parquet"), copies))
        files = {path: columns for path, columns in found.items() if is_table_of(columns, schema)}
        rows = parquet_sql(files, schema, ", filename = true")
    # Without a file there is no column ``filename`` to take the key from.
    key = ARTIFACT_KEY_SQL if files else "CAST(NULL AS VARCHAR)"
    return f"(SELECT *, {key} AS artifact_key FROM {rows})"  # noqa: S608 - our own expressions


@contextmanager
def _named_in_store(store: Store, copies: Path) -> Iterator[None]:
    """An error about a copy of a file names the file in the store, which is there for longer."""
    try:
        yield
    except RequestError as error:
        raise RequestError(str(error).replace(str(copies), store.uri)) from None


def _quoted(schema: pa.Schema) -> str:
    return ", ".join(f'"{column}"' for column in schema.names)


def _tables_named(query: str) -> set[str]:
    """The tables that ``query`` names, and those that they are made of."""
    known = [*LINEAGE_TABLES, *RECORD_SCHEMAS, "ancestry"]
    # By its words, not by its grammar: a name inside a string makes one view too many, which does no harm.
    found = {name for name in known if re.search(rf"\b{name}\b", query, re.IGNORECASE)}
    return found | set(ANCESTRY_TABLES) if "ancestry" in found else found
