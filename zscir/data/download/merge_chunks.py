"""Merge the records of a download's chunks into its images table, its rejects, and its counts by host."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from zscir.data.download.chunks import URLS_SCHEMA
from zscir.data.sql_joins import BATCH_ROWS, query_tables, query_values, rows_sql, write_query
from zscir.runtime.schemas import HOSTS_SCHEMA, IMAGES_SCHEMA, PAIRS_SCHEMA, REJECTS_SCHEMA, schema_of, table_writer
from zscir.store.artifacts import atomic_path

# What a chunk records of each of its URLs: an images row without the columns that belong to a pair or to the whole.
RECORD_SCHEMA = schema_of(
    image_key="str", url="str", text="str", status="str", error_class="str?", error="str?", http_status="i32?",
    attempts="i32", sha256="str?", width="i32?", height="i32?", original_width="i32?", original_height="i32?",
    offset="i64?", size="i64?",
)  # fmt: skip
# The last record of each URL: a patch round tries again what an earlier chunk could not get. Attempts add up.
LAST_RECORD_SQL = """
    SELECT r.*, c.shard, sum(r.attempts) OVER (PARTITION BY r.image_key) AS all_attempts
    FROM {records} r
    JOIN (SELECT unnest($paths) AS filename, unnest($shards) AS shard, unnest(range(len($paths))) AS number) c
    USING (filename)
    QUALIFY row_number() OVER (PARTITION BY r.image_key ORDER BY c.number DESC) = 1
"""
URL_HOST_SQL = "regexp_extract(lower(url), '^[a-z]+://(?:[^/?#]*@)?(\\[[^\\]]*\\]|[^/?#:]*)', 1)"
IMAGES_COLUMN_SQL = {name: f"r.{name}" for name in RECORD_SCHEMA.names if name not in ("url", "text")} | {
    "attempts": "CAST(r.all_attempts AS INTEGER)",
    "shard": "CASE WHEN r.status = 'ok' THEN r.shard END",
}


@dataclass(frozen=True)
class ChunkRecords:
    """The record files of the chunks of a download, in order: the n-th one's images are in the shard ``n.tar``."""

    paths: tuple[Path, ...]

    def last_sql(self) -> str:
        """``LAST_RECORD_SQL`` over these files."""
        return LAST_RECORD_SQL.format(records=rows_sql(self.paths, RECORD_SCHEMA, ", filename = true"))

    def values(self) -> dict[str, Any]:
        """The values of the $names in ``LAST_RECORD_SQL``."""
        return {
            "paths": [str(path) for path in self.paths],
            "shards": [f"{number:05d}.tar" for number in range(len(self.paths))],
        }


def merge_records(pairs: Path, records: ChunkRecords, images: Path) -> None:
    """Join the records with the pairs: one images row for every pair, in the pairs' order."""
    if not records.paths:  # read_parquet refuses an empty list
        with atomic_path(images) as part, table_writer(part, IMAGES_SCHEMA):
            return
    sql = f"""
        WITH last AS ({records.last_sql()})
        SELECT {", ".join(f"{IMAGES_COLUMN_SQL.get(name, 'p.' + name)} AS {name}" for name in IMAGES_SCHEMA.names)}
        FROM {rows_sql([pairs], PAIRS_SCHEMA)} p JOIN last r ON r.image_key = sha256(p.url)
        ORDER BY p.file_row_number
    """  # noqa: S608 - column names of our own schemas
    write_query(images, IMAGES_SCHEMA, sql, **records.values())


def read_retriable_urls(records: ChunkRecords, error_classes: frozenset[str], scratch: Path) -> Iterator[pa.Table]:
    """The URLs whose last record has one of these error classes, in the order of their chunks."""
    if not records.paths:
        return iter(())
    sql = f"""
        SELECT image_key, url, text FROM ({records.last_sql()})
        WHERE error_class IN (SELECT unnest($classes)) ORDER BY ALL
    """  # noqa: S608 - our own expression
    return query_tables(sql, scratch, BATCH_ROWS, URLS_SCHEMA, classes=sorted(error_classes), **records.values())


def write_download_rejects(images: Path, rejects: Path) -> None:
    """Write the rejects of an images table: every row that is not ok, by pair, with its error class as the reason."""
    sql = """
        SELECT 'download' AS stage, pair_id AS id, error_class AS reason, coalesce(error, '') AS detail
        FROM read_parquet($images, file_row_number = true) WHERE status <> 'ok' ORDER BY file_row_number
    """
    write_query(rejects, REJECTS_SCHEMA, sql, images=images)


def write_host_counts(images: Path, hosts: Path) -> None:
    """Write how many distinct URLs of each host came (no error class) or failed, by class; the worst hosts first."""
    sql = f"""
        WITH counted AS (
            SELECT {URL_HOST_SQL} AS host, error_class, CAST(count(DISTINCT image_key) AS BIGINT) AS urls
            FROM read_parquet($images) GROUP BY ALL)
        SELECT * FROM counted ORDER BY
            sum(urls) FILTER (error_class IS NOT NULL) OVER (PARTITION BY host) DESC NULLS LAST, host,
            error_class NULLS FIRST
    """  # noqa: S608 - our own expression
    write_query(hosts, HOSTS_SCHEMA, sql, images=images)


def download_facts(images: Path) -> dict[str, Any]:
    """The facts of an images table: rows, ok, rejects, success rate, distinct images, failures by error class."""
    table = "FROM read_parquet($images)"
    counts_sql = (
        f"SELECT count(*), count(*) FILTER (status = 'ok'), count(DISTINCT image_key) FILTER (status = 'ok') {table}"
    )
    classes_sql = f"SELECT error_class, count(*) {table} WHERE status <> 'ok' GROUP BY ALL ORDER BY ALL"
    [(rows, ok, distinct)] = query_values(counts_sql, images.parent, images=images)
    return {
        "rows": rows,
        "ok": ok,
        "rejects": rows - ok,
        "success_rate": round(ok / rows, 6) if rows else None,
        "images": distinct,
        "failed_by_class": dict(query_values(classes_sql, images.parent, images=images)),
    }
