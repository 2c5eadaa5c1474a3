"""Chunks: pairs become groups of distinct URLs, each fetched, checked and finished on its own.

DuckDB does the grouping and joining: both spill to disk, so a list of 10^8 pairs needs no memory of that size.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from zscir.artifacts import finished
from zscir.fetch.joins import answers, literal, query
from zscir.records import IMAGES, REJECTS, schema_of, table_writer

# What a chunk records of each of its URLs: an images row without the columns that belong to a pair.
RECORD = schema_of(
    image_key="str", status="str", error_class="str?", error="str?", http_status="i32?", attempts="i32",
    sha256="str?", width="i32?", height="i32?", original_width="i32?", original_height="i32?",
    shard="str?", offset="i64?", size="i64?",
)  # fmt: skip
PLAN = schema_of(image_key="str", url="str", text="str")
BATCH_ROWS = 50_000


@dataclass(frozen=True)
class Target:
    """One distinct URL of a chunk, with the text of the first pair that has it."""

    image_key: str
    url: str
    text: str


@dataclass(frozen=True)
class Chunk:
    """Consecutive distinct URLs, in the order of their first pairs."""

    number: int
    targets: tuple[Target, ...]

    @property
    def name(self) -> str:
        """The name that its files share."""
        return f"{self.number:05d}"


def plan(pairs: Path, plan_file: Path, chunk_rows: int) -> int:
    """Write the distinct URLs of ``pairs`` to ``plan_file``, a row group per chunk; return the number of chunks."""
    if not plan_file.exists():
        sql = """
            SELECT sha256(url) AS image_key, url, arg_min(text, file_row_number) AS text
            FROM read_parquet($pairs, file_row_number = true)
            GROUP BY url ORDER BY min(file_row_number)
        """
        with finished(plan_file) as part, table_writer(part, PLAN) as writer:
            for table in query(sql, plan_file.parent, chunk_rows, PLAN, pairs=literal(pairs)):
                writer.write_table(table, row_group_size=chunk_rows)
    return int(pq.ParquetFile(plan_file).num_row_groups)


def chunk(plan_file: Path, number: int) -> Chunk:
    """One chunk of a plan."""
    rows = pq.ParquetFile(plan_file).read_row_group(number).to_pylist()
    return Chunk(number, tuple(Target(**row) for row in rows))


def assemble(pairs: Path, records: Path, images: Path) -> None:
    """Join the records of all chunks (a folder) with the pairs: one images row for every pair, in the pairs' order."""
    sql = f"""
        SELECT {", ".join(f"r.{n}" if n in RECORD.names else f"p.{n}" for n in IMAGES.names)}
        FROM read_parquet($pairs, file_row_number = true) p
        JOIN read_parquet($records) r ON r.image_key = sha256(p.url)
        ORDER BY p.file_row_number
    """  # noqa: S608 - column names of our own schemas
    with finished(images) as part, table_writer(part, IMAGES) as writer:
        if not records.exists():
            return  # an empty list has no chunks
        files = {"pairs": literal(pairs), "records": f"{literal(records)}/*.parquet"}
        for table in query(sql, images.parent, BATCH_ROWS, IMAGES, **files):
            writer.write_table(table)


def reject(images: Path, rejects: Path) -> None:
    """Write the rejects of an images table: every row that is not ok, by pair, with its error class as the reason."""
    sql = """
        SELECT 'download' AS stage, pair_id AS id, error_class AS reason, coalesce(error, '') AS detail
        FROM read_parquet($images, file_row_number = true) WHERE status <> 'ok' ORDER BY file_row_number
    """
    with finished(rejects) as part, table_writer(part, REJECTS) as writer:
        for table in query(sql, rejects.parent, BATCH_ROWS, REJECTS, images=literal(images)):
            writer.write_table(table)


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
