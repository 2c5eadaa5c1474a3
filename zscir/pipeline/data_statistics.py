"""Compute the statistics that quality checks bound: success rate, sizes, text lengths, duplicates, kept rows.

DuckDB reads the record tables of an artifact and spills to disk beyond 1 GB. Nothing is held whole: texts and sizes are
counted by their value first, distinct values by hash.
"""

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from zscir.lineage.sql_views import RECORD_FILES, RECORD_SCHEMAS
from zscir.runtime.errors import RequestError
from zscir.runtime.schemas import KEEP_SCHEMA, conform_table, is_table_of, parquet_columns, parquet_sql
from zscir.store.artifacts import Artifact

if TYPE_CHECKING:
    import duckdb

TABLE_SCHEMAS = RECORD_SCHEMAS | {"keep": KEEP_SCHEMA}
# DuckDB takes 80 % of the machine otherwise, beside a run that has its own use for it.
DUCKDB_MEMORY_LIMIT = "1GB"
TEXT_TABLES = ("pairs", "images", "triplets")
WITH_SIZE_SQL = "status = 'ok' AND original_width IS NOT NULL"
FETCHED_SQL = "status = 'ok' AND sha256 IS NOT NULL"


@dataclass(frozen=True)
class Statistic:
    """A number about the first of ``tables`` that an artifact has; ``sql`` gives it, the table's rows being ``t``."""

    description: str
    tables: tuple[str, ...]
    sql: str


def _quantile_sql(value: str, share: float, where: str = "true") -> str:
    """The smallest value that at least this share of the rows does not exceed; exact, one row held per value."""
    return f"""
        SELECT min(v) FROM (
            SELECT v, sum(n) OVER (ORDER BY v) AS upto, sum(n) OVER () AS n
            FROM (SELECT {value} AS v, count(*) AS n FROM t WHERE {where} GROUP BY v)
        ) WHERE upto >= {share} * n
    """  # noqa: S608 - expressions of this file, no outside text


def _duplicate_share_sql(value: str, thing: str = "", where: str = "true") -> str:
    # Hashes of 64 bits keep no text in memory; among 10^7 values a collision has a chance of about 3 in 10^6.
    things = f"count(DISTINCT hash({thing}))" if thing else "count(*)"
    return f"SELECT 1 - count(DISTINCT hash({value})) / nullif({things}, 0) FROM t WHERE {where}"  # noqa: S608 - likewise


KEPT_SHARE_SQL = "SELECT count(*) / nullif(count(*) + (SELECT count(*) FROM r), 0) FROM t"
STATISTICS = {
    "success_rate": Statistic(
        "share of the URLs that gave an image", ("images",), "SELECT avg(CAST(status = 'ok' AS DOUBLE)) FROM t"
    ),
    "width_px": Statistic(
        "median width of the pictures as they came, in pixels",
        ("images",),
        _quantile_sql("original_width", 0.5, WITH_SIZE_SQL),
    ),
    "height_px": Statistic(
        "median height of the pictures as they came, in pixels",
        ("images",),
        _quantile_sql("original_height", 0.5, WITH_SIZE_SQL),
    ),
    "side_px_p10": Statistic(
        "shorter side that a tenth of the pictures does not exceed, in pixels",
        ("images",),
        _quantile_sql("least(original_width, original_height)", 0.1, WITH_SIZE_SQL),
    ),
    "text_chars": Statistic(
        "median length of the texts, in characters", TEXT_TABLES, _quantile_sql("length(text)", 0.5)
    ),
    "text_chars_p10": Statistic(
        "length that a tenth of the texts does not exceed", TEXT_TABLES, _quantile_sql("length(text)", 0.1)
    ),
    "text_chars_p90": Statistic(
        "length that nine tenths of the texts do not exceed", TEXT_TABLES, _quantile_sql("length(text)", 0.9)
    ),
    "duplicate_share": Statistic(
        "share of the pictures whose bytes another one has too",
        ("images",),
        # Per image, not per row: an image has a row for each of its captions, and is no copy of itself.
        _duplicate_share_sql("sha256", "image_key", FETCHED_SQL),
    ),
    "duplicate_text_share": Statistic(
        "share of the texts that are repeats of another", TEXT_TABLES, _duplicate_share_sql("text")
    ),
    "kept_share": Statistic(
        "rows that stayed, of those and the rejects", ("keep", "pairs", "triplets", "candidates"), KEPT_SHARE_SQL
    ),
    "answered_share": Statistic(
        "share of the requests that were answered",
        ("responses",),
        "SELECT avg(CAST(response IS NOT NULL AS DOUBLE)) FROM t",
    ),
}


def table_files(artifact: Artifact, table: str) -> list[str]:
    """The files of an artifact that are this record table; empty when it has none."""
    pattern = RECORD_FILES.get(table, f"{table}.parquet")
    return [name for name in artifact.files(".parquet") if fnmatch(name, pattern)]


def count_rows(artifact: Artifact, table: str) -> int | None:
    """The rows of a record table, read from its Parquet footers; None when the artifact has no such table."""
    names = table_files(artifact, table)
    return sum(pq.read_metadata(artifact.path(name)).num_rows for name in names) if names else None


def schema_problems(artifact: Artifact) -> tuple[int, list[str]]:
    """How many record tables an artifact holds, and what differs from their declared schemas.

    Columns, types and null counts are read from the footers; a nullable column may be missing, as in older files. A
    stage's own table that only has the name of a record table is none.
    """
    tables, wrong = 0, []
    for table, schema in TABLE_SCHEMAS.items():
        for name in table_files(artifact, table):
            try:
                found = pq.read_metadata(artifact.path(name))
                columns = found.schema.to_arrow_schema()
                # ``tabulate`` writes a pairs.parquet of its own, which holds paired tests.
                if not is_table_of(columns.names, schema):
                    continue
                # An empty table of the file's columns: names and types are checked without reading a row.
                conform_table(columns.empty_table(), schema, name)
                unknown = [column for column in columns.names if column not in schema.names]
                wrong += [f"{name}: columns not allowed {unknown}"] if unknown else []
                wrong += _nulls(found, schema, name)
            except (RequestError, pa.ArrowException) as error:
                wrong.append(str(error) if isinstance(error, RequestError) else f"{name}: not readable: {error}")
            tables += 1
    return tables, wrong


def _nulls(found: pq.FileMetaData, schema: pa.Schema, name: str) -> list[str]:
    strict = {field.name for field in schema if not field.nullable}
    counted = dict.fromkeys(strict, 0)
    for group in range(found.num_row_groups):
        for place in range(found.num_columns):
            column = found.row_group(group).column(place)
            if column.path_in_schema in strict and column.statistics is not None:
                counted[column.path_in_schema] += column.statistics.null_count or 0
    return [f"{name}: column '{column}' holds {count} nulls" for column, count in sorted(counted.items()) if count]


def compute_statistics(artifact: Artifact, statistic_names: Iterable[str]) -> dict[str, float | None]:
    """Name -> number; None where the artifact has no table of the statistic, or no row. RequestError if unreadable."""
    import duckdb

    found: dict[str, float | None] = {}
    with tempfile.TemporaryDirectory(prefix="zscir-measure-") as folder, duckdb.connect() as connection:
        connection.execute(f"SET memory_limit = '{DUCKDB_MEMORY_LIMIT}'; SET temp_directory = '{folder}'")
        for name in statistic_names:
            try:
                found[name] = _compute_one(connection, artifact, STATISTICS[name])
            except (duckdb.Error, RequestError) as error:
                where = f"{artifact.stage}/{artifact.key[:12]}"
                raise RequestError(f"{where}: {name} cannot be measured: {str(error).splitlines()[0]}") from None
    return found


def _compute_one(connection: "duckdb.DuckDBPyConnection", artifact: Artifact, statistic: Statistic) -> float | None:
    table = next((table for table in statistic.tables if table_files(artifact, table)), None)
    if table is None:
        return None
    # An artifact without rejects gives an empty view, so that every statistic is one query.
    for view, name in (("t", table), ("r", "rejects")):
        files = parquet_columns(str(artifact.path(file)) for file in table_files(artifact, name))
        source = parquet_sql(files, TABLE_SCHEMAS[name])
        connection.execute(f"CREATE OR REPLACE TEMP VIEW {view} AS SELECT * FROM {source}")  # noqa: S608 - files of our own
    row = connection.execute(statistic.sql).fetchone()
    return None if row is None or row[0] is None else float(row[0])
