"""Measures: the record tables of an artifact become a few numbers that say what its data are like.

Nothing is held whole: texts and sizes are counted by their value first, and distinct values are counted by hash, by
DuckDB, which spills to disk beyond 1 GB.
"""

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from zscir.lineage.sql_views import FILES, RECORDS
from zscir.runtime.errors import RequestError
from zscir.runtime.schemas import KEEP, check
from zscir.store.artifacts import Artifact

if TYPE_CHECKING:
    import duckdb

SCHEMAS = RECORDS | {"keep": KEEP}
MEMORY = "1GB"
TEXTS = ("pairs", "images", "triplets")
SIZED = "status = 'ok' AND original_width IS NOT NULL"
FETCHED = "status = 'ok' AND sha256 IS NOT NULL"


@dataclass(frozen=True)
class Measure:
    """A number about the first of ``tables`` that an artifact has; ``sql`` gives it, the table's rows being ``t``."""

    about: str
    tables: tuple[str, ...]
    sql: str


def _quantile(value: str, share: float, where: str = "true") -> str:
    """The smallest value that at least this share of the rows does not exceed; exact, one row held per value."""
    return f"""
        SELECT min(v) FROM (
            SELECT v, sum(n) OVER (ORDER BY v) AS upto, sum(n) OVER () AS n
            FROM (SELECT {value} AS v, count(*) AS n FROM t WHERE {where} GROUP BY v)
        ) WHERE upto >= {share} * n
    """  # noqa: S608 - our own names


def _repeated(value: str, thing: str = "", where: str = "true") -> str:
    things = f"count(DISTINCT hash({thing}))" if thing else "count(*)"
    return f"SELECT 1 - count(DISTINCT hash({value})) / nullif({things}, 0) FROM t WHERE {where}"  # noqa: S608 - our own names


KEPT = "SELECT count(*) / nullif(count(*) + (SELECT count(*) FROM r), 0) FROM t"
MEASURES = {
    "success_rate": Measure("share of the URLs that gave an image", ("images",),
                            "SELECT avg(CAST(status = 'ok' AS DOUBLE)) FROM t"),
    "width_px": Measure("median width of the pictures as they came, in pixels", ("images",),
                        _quantile("original_width", 0.5, SIZED)),
    "height_px": Measure("median height of the pictures as they came, in pixels", ("images",),
                         _quantile("original_height", 0.5, SIZED)),
    "side_px_p10": Measure("shorter side that a tenth of the pictures does not exceed, in pixels", ("images",),
                           _quantile("least(original_width, original_height)", 0.1, SIZED)),
    "text_chars": Measure("median length of the texts, in characters", TEXTS, _quantile("length(text)", 0.5)),
    "text_chars_p10": Measure("length that a tenth of the texts does not exceed", TEXTS,
                              _quantile("length(text)", 0.1)),
    "text_chars_p90": Measure("length that nine tenths of the texts do not exceed", TEXTS,
                              _quantile("length(text)", 0.9)),
    "duplicate_share": Measure("share of the pictures whose bytes another one has too", ("images",),
                               _repeated("sha256", "image_key", FETCHED)),
    "duplicate_text_share": Measure("share of the texts that are repeats of another", TEXTS, _repeated("text")),
    "kept_share": Measure("rows that stayed, of those and the rejects", ("keep", "pairs", "triplets", "candidates"),
                          KEPT),
    "answered_share": Measure("share of the requests that were answered", ("responses",),
                              "SELECT avg(CAST(response IS NOT NULL AS DOUBLE)) FROM t"),
}  # fmt: skip


def files_of(artifact: Artifact, table: str) -> list[str]:
    """The files of an artifact that are this record table; empty when it has none."""
    pattern = FILES.get(table, f"{table}.parquet")
    return [name for name in artifact.files(".parquet") if fnmatch(name, pattern)]


def count_rows(artifact: Artifact, table: str) -> int | None:
    """The rows of a record table, from its footers; None when the artifact has no such table."""
    names = files_of(artifact, table)
    return sum(_footer(artifact, name).num_rows for name in names) if names else None


def misshapen(artifact: Artifact) -> tuple[int, list[str]]:
    """How many record tables an artifact holds, and what is wrong with the shape of each that is not as declared.

    Columns, types and nulls are read from the footers. A table of a stage's own that only shares its name with a record
    table (fewer than half of its columns) is none.
    """
    tables, wrong = 0, []
    for table, schema in SCHEMAS.items():
        for name in files_of(artifact, table):
            try:
                found = _footer(artifact, name)
                columns = found.schema.to_arrow_schema()
                if 2 * len(set(columns.names) & set(schema.names)) < len(schema.names):
                    continue
                check(columns.empty_table(), schema, name)
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
    return [f"{name}: column '{one}' holds {count} nulls" for one, count in sorted(counted.items()) if count]


def _footer(artifact: Artifact, name: str) -> pq.FileMetaData:
    return pq.read_metadata(artifact.path(name))


def measure(artifact: Artifact, names: Iterable[str]) -> dict[str, float | None]:
    """Name -> number. None where the artifact has no table that is measured so, or no row to measure."""
    import duckdb

    found: dict[str, float | None] = {}
    with tempfile.TemporaryDirectory(prefix="zscir-measure-") as folder, duckdb.connect() as connection:
        connection.execute(f"SET memory_limit = '{MEMORY}'; SET temp_directory = '{folder}'")
        for name in names:
            try:
                found[name] = _measured(connection, artifact, MEASURES[name])
            except duckdb.Error as error:
                where = f"{artifact.stage}/{artifact.key[:12]}"
                raise RequestError(f"{where}: {name} cannot be measured: {str(error).splitlines()[0]}") from None
    return found


def _measured(connection: "duckdb.DuckDBPyConnection", artifact: Artifact, one: Measure) -> float | None:
    table = next((table for table in one.tables if files_of(artifact, table)), None)
    if table is None:
        return None
    for view, name in (("t", table), ("r", "rejects")):
        paths = [str(artifact.path(file)) for file in files_of(artifact, name)]
        listed = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
        source = f"read_parquet([{listed}])" if paths else "(SELECT 1 WHERE false)"
        connection.execute(f"CREATE OR REPLACE TEMP VIEW {view} AS SELECT * FROM {source}")  # noqa: S608 - files of our own
    row = connection.execute(one.sql).fetchone()
    return None if row is None or row[0] is None else float(row[0])
