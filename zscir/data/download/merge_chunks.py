"""Assembly: what each chunk recorded becomes the images table of a download, its rejects and its counts.

DuckDB does the joining: it spills to disk, so a list of 10^8 pairs needs no memory of that size.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from zscir.data.download.chunks import BATCH_ROWS, URLS
from zscir.data.readers.sql_joins import answers, literal, query
from zscir.runtime.schemas import HOSTS, IMAGES, REJECTS, schema_of, table_writer
from zscir.store.artifacts import finished

# What a chunk records of each of its URLs: an images row without the columns that belong to a pair or to the whole.
RECORD = schema_of(
    image_key="str", url="str", text="str", status="str", error_class="str?", error="str?", http_status="i32?",
    attempts="i32", sha256="str?", width="i32?", height="i32?", original_width="i32?", original_height="i32?",
    offset="i64?", size="i64?",
)  # fmt: skip
# The last word on each URL: a later chunk asked again what an earlier one could not get. Attempts add up.
LAST = """
    SELECT r.*, c.shard, sum(r.attempts) OVER (PARTITION BY r.image_key) AS all_attempts
    FROM read_parquet($records, filename = true) r
    JOIN (SELECT unnest($paths) AS filename, unnest($shards) AS shard, unnest(range(len($paths))) AS number) c
    USING (filename)
    QUALIFY row_number() OVER (PARTITION BY r.image_key ORDER BY c.number DESC) = 1
"""
HOST = "regexp_extract(lower(url), '^[a-z]+://(?:[^/?#]*@)?(\\[[^\\]]*\\]|[^/?#:]*)', 1)"
JOINED = {name: f"r.{name}" for name in RECORD.names if name not in ("url", "text")} | {
    "attempts": "CAST(r.all_attempts AS INTEGER)",
    "shard": "CASE WHEN r.status = 'ok' THEN r.shard END",
}


@dataclass(frozen=True)
class Records:
    """The record files of the chunks of a download, in order: the n-th one's images are in the shard ``n.tar``."""

    paths: tuple[Path, ...]

    def values(self) -> dict[str, Any]:
        """The values that ``LAST`` asks for."""
        return {
            "records": [literal(path) for path in self.paths],
            "paths": [str(path) for path in self.paths],
            "shards": [f"{number:05d}.tar" for number in range(len(self.paths))],
        }


def assemble(pairs: Path, records: Records, images: Path) -> None:
    """Join the records with the pairs: one images row for every pair, in the pairs' order."""
    sql = f"""
        WITH last AS ({LAST})
        SELECT {", ".join(f"{JOINED.get(name, 'p.' + name)} AS {name}" for name in IMAGES.names)}
        FROM read_parquet($pairs, file_row_number = true) p JOIN last r ON r.image_key = sha256(p.url)
        ORDER BY p.file_row_number
    """  # noqa: S608 - column names of our own schemas
    found = query(sql, images.parent, BATCH_ROWS, IMAGES, pairs=literal(pairs), **records.values())
    _write(images, IMAGES, found if records.paths else ())


def list_again(records: Records, classes: frozenset[str], scratch: Path) -> Iterator[pa.Table]:
    """The URLs whose last word is one of these error classes, in the order of their chunks."""
    if not records.paths:
        return iter(())
    sql = f"""
        SELECT image_key, url, text FROM ({LAST}) WHERE error_class IN (SELECT unnest($classes)) ORDER BY ALL
    """  # noqa: S608 - our own expression
    return query(sql, scratch, BATCH_ROWS, URLS, classes=sorted(classes), **records.values())


def reject(images: Path, rejects: Path) -> None:
    """Write the rejects of an images table: every row that is not ok, by pair, with its error class as the reason."""
    sql = """
        SELECT 'download' AS stage, pair_id AS id, error_class AS reason, coalesce(error, '') AS detail
        FROM read_parquet($images, file_row_number = true) WHERE status <> 'ok' ORDER BY file_row_number
    """
    _write(rejects, REJECTS, query(sql, rejects.parent, BATCH_ROWS, REJECTS, images=literal(images)))


def count_hosts(images: Path, hosts: Path) -> None:
    """Write how many distinct URLs of each host came (no error class) or failed, by class; the worst hosts first."""
    sql = f"""
        WITH counted AS (
            SELECT {HOST} AS host, error_class, CAST(count(DISTINCT image_key) AS BIGINT) AS urls
            FROM read_parquet($images) GROUP BY ALL)
        SELECT * FROM counted ORDER BY
            sum(urls) FILTER (error_class IS NOT NULL) OVER (PARTITION BY host) DESC NULLS LAST, host,
            error_class NULLS FIRST
    """  # noqa: S608 - our own expression
    _write(hosts, HOSTS, query(sql, hosts.parent, BATCH_ROWS, HOSTS, images=literal(images)))


def summary(images: Path) -> dict[str, Any]:
    """What the facts say of an images table: rows, ok, rejects, success rate, distinct images, error classes."""
    table = "FROM read_parquet($images)"
    counts = (
        f"SELECT count(*), count(*) FILTER (status = 'ok'), count(DISTINCT image_key) FILTER (status = 'ok') {table}"
    )
    classes = f"SELECT error_class, count(*) {table} WHERE status <> 'ok' GROUP BY ALL ORDER BY ALL"
    [(rows, ok, distinct)] = answers(counts, images.parent, images=literal(images))
    return {
        "rows": rows,
        "ok": ok,
        "rejects": rows - ok,
        "success_rate": round(ok / rows, 6) if rows else None,
        "images": distinct,
        "failed_by_class": dict(answers(classes, images.parent, images=literal(images))),
    }


def _write(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    with finished(path) as part, table_writer(part, schema) as writer:
        for table in tables:
            writer.write_table(table)
