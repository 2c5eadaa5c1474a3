"""Plan an import of tars: which samples become pairs, which picture is taken from which tar, what is left out."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from zscir.data.download.chunks import ChunkUrl
from zscir.data.readers.local_images import ImageLocation
from zscir.data.readers.webdataset_samples import IGNORED_REASON, LeftOutMember, TarSample
from zscir.data.sql_joins import BATCH_ROWS, query_values, write_query
from zscir.runtime.schemas import PAIRS_SCHEMA, checked_table, schema_of, table_writer
from zscir.store.artifacts import atomic_path

FOUND_SCHEMA = schema_of(
    tar="i32",
    row="i64",
    place="str",
    url="str?",
    text="str?",
    licence="str?",
    offset="i64?",
    size="i64?",
    reason="str?",
    detail="str?",
    count="i64",
)
TAKEN_SCHEMA = schema_of(tar="i32", image_key="str", url="str", text="str", offset="i64", size="i64")
LEFT_OUT_SCHEMA = schema_of(id="str", reason="str", detail="str")
# All that was found, numbered; of samples with the same URL and text the first is the one.
NUMBERED_SQL = """
    SELECT *, row_number() OVER (ORDER BY tar, row) - 1 AS source_row,
           reason IS NULL AND row_number() OVER (PARTITION BY reason, url, text ORDER BY tar, row) > 1 AS again
    FROM read_parquet($found) WHERE reason IS DISTINCT FROM $ignored
"""


def write_tar_index(path: Path, tar: int, found: Iterable[TarSample | LeftOutMember]) -> None:
    """Write what is in the ``tar``-th tar, in its order."""
    with atomic_path(path) as part, table_writer(part, FOUND_SCHEMA) as writer:
        rows: list[dict[str, Any]] = []
        for row, member in enumerate(found):
            rows.append({"count": 1, **asdict(member), "tar": tar, "row": row})
            if len(rows) == BATCH_ROWS:
                writer.write_table(checked_table(rows, FOUND_SCHEMA))
                rows = []
        writer.write_table(checked_table(rows, FOUND_SCHEMA))


def write_tar_plan(
    found: list[Path], source: str, licence: str | None, pairs: Path, taken: Path, left_out: Path
) -> None:
    """Write the pairs; the distinct pictures, each with the first tar that has its URL; and what is left out.

    Each thing that was found in the tars is in exactly one row of ``pairs`` or of ``left_out``.
    """
    values = {"found": found, "ignored": IGNORED_REASON}
    pairs_sql = f"""
        SELECT left(sha256(url || chr(10) || text), 32) AS pair_id, url, text, $source AS source,
               coalesce(licence, $licence) AS licence, source_row
        FROM ({NUMBERED_SQL}) WHERE reason IS NULL AND NOT again ORDER BY source_row
    """  # noqa: S608 - our own expressions
    taken_sql = f"""
        SELECT tar, sha256(url) AS image_key, url, text, "offset", size
        FROM ({NUMBERED_SQL}) WHERE reason IS NULL
        QUALIFY row_number() OVER (PARTITION BY url ORDER BY source_row) = 1 ORDER BY tar, image_key
    """  # noqa: S608 - our own expressions
    left_out_sql = f"""
        SELECT place AS id, coalesce(reason, 'duplicate') AS reason, coalesce(detail, url) AS detail
        FROM ({NUMBERED_SQL}) WHERE reason IS NOT NULL OR again ORDER BY source_row
    """  # noqa: S608 - our own expressions
    write_query(pairs, PAIRS_SCHEMA, pairs_sql, source=source, licence=licence, **values)
    write_query(taken, TAKEN_SCHEMA, taken_sql, **values)
    write_query(left_out, LEFT_OUT_SCHEMA, left_out_sql, **values)


def planned_images(taken: Path, tar: int, path: Path) -> tuple[list[ChunkUrl], list[ImageLocation]]:
    """What is taken from the ``tar``-th tar, which lies at ``path``; sorted by image key."""
    rows = pq.read_table(taken, filters=[("tar", "=", tar)]).to_pylist()
    targets = [ChunkUrl(row["image_key"], row["url"], row["text"]) for row in rows]
    return targets, [ImageLocation(str(path), row["offset"], row["size"]) for row in rows]


def left_out_counts(found: list[Path], left_out: Path) -> dict[str, Any]:
    """For the facts: how many were left out, by reason, and how many members were ignored, by their ending."""
    scratch = left_out.parent
    reasons_sql = "SELECT reason, count(*) FROM read_parquet($left_out) GROUP BY ALL ORDER BY ALL"
    reasons = query_values(reasons_sql, scratch, left_out=left_out)
    ignored = query_values(
        "SELECT detail, sum(count) FROM read_parquet($found) WHERE reason = $ignored "
        "GROUP BY ALL ORDER BY sum(count) DESC, detail LIMIT 20",
        scratch,
        found=found,
        ignored=IGNORED_REASON,
    )
    return {"left_out_by_reason": dict(reasons), "ignored_members": {kind: int(count) for kind, count in ignored}}
