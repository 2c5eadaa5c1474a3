"""Holdings: what was found in many tars becomes pairs, a plan of which picture to take from where, and the rest.

DuckDB does the sorting: it spills to disk, so tars with 10^8 samples need no memory of that size.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from zscir.data.download.chunks import BATCH_ROWS, Target
from zscir.data.readers.local_images import Place
from zscir.data.readers.sql_joins import answers, literal, query
from zscir.data.readers.webdataset_samples import LeftOut, Sample
from zscir.runtime.schemas import PAIRS, schema_of, table_of, table_writer
from zscir.store.artifacts import finished

IGNORED = "ignored"
FOUND = schema_of(
    tar="i32", row="i64", place="str", url="str?", text="str?", licence="str?", offset="i64?", size="i64?",
    reason="str?", detail="str?", count="i64",
)  # fmt: skip
TAKEN = schema_of(tar="i32", image_key="str", url="str", text="str", offset="i64", size="i64")
LEFT_OUT = schema_of(id="str", reason="str", detail="str")
# All that was found, numbered; of samples with the same URL and text the first is the one.
NUMBERED = """
    SELECT *, row_number() OVER (ORDER BY tar, row) - 1 AS source_row,
           reason IS NULL AND row_number() OVER (PARTITION BY reason, url, text ORDER BY tar, row) > 1 AS again
    FROM read_parquet($found) WHERE reason IS DISTINCT FROM $ignored
"""


def write_found(path: Path, tar: int, found: Iterable[Sample | LeftOut]) -> None:
    """Write what is in the ``tar``-th tar, in its order."""
    with finished(path) as part, table_writer(part, FOUND) as writer:
        rows: list[dict[str, Any]] = []
        for row, one in enumerate(found):
            rows.append({"count": 1, **asdict(one), "tar": tar, "row": row})
            if len(rows) == BATCH_ROWS:
                writer.write_table(table_of(rows, FOUND))
                rows = []
        writer.write_table(table_of(rows, FOUND))


def plan(found: list[Path], source: str, licence: str | None, pairs: Path, taken: Path, left_out: Path) -> None:
    """Write the pairs; the distinct pictures, each with the first tar that has its URL; and what is left out.

    Each thing that was found in the tars is in exactly one row of ``pairs`` or of ``left_out``.
    """
    scratch, values = pairs.parent, {"found": [literal(path) for path in found], "ignored": IGNORED}
    _write(pairs, PAIRS, query(f"""
        SELECT left(sha256(url || chr(10) || text), 32) AS pair_id, url, text, $source AS source,
               coalesce(licence, $licence) AS licence, source_row
        FROM ({NUMBERED}) WHERE reason IS NULL AND NOT again ORDER BY source_row
    """, scratch, BATCH_ROWS, PAIRS, source=source, licence=licence, **values))  # noqa: S608 # fmt: skip
    _write(taken, TAKEN, query(f"""
        SELECT tar, sha256(url) AS image_key, url, text, "offset", size
        FROM ({NUMBERED}) WHERE reason IS NULL
        QUALIFY row_number() OVER (PARTITION BY url ORDER BY source_row) = 1 ORDER BY tar, image_key
    """, scratch, BATCH_ROWS, TAKEN, **values))  # noqa: S608 # fmt: skip
    _write(left_out, LEFT_OUT, query(f"""
        SELECT place AS id, coalesce(reason, 'duplicate') AS reason, coalesce(detail, url) AS detail
        FROM ({NUMBERED}) WHERE reason IS NOT NULL OR again ORDER BY source_row
    """, scratch, BATCH_ROWS, LEFT_OUT, **values))  # noqa: S608 # fmt: skip


def taken_from(taken: Path, tar: int, path: Path) -> tuple[list[Target], list[Place]]:
    """What is taken from the ``tar``-th tar, which lies at ``path``; sorted by image key."""
    rows = pq.read_table(taken, filters=[("tar", "=", tar)]).to_pylist()
    targets = [Target(row["image_key"], row["url"], row["text"]) for row in rows]
    return targets, [Place(str(path), row["offset"], row["size"]) for row in rows]


def counts(found: list[Path], left_out: Path) -> dict[str, Any]:
    """For the facts: how many were left out, by reason, and how many members were ignored, by their ending."""
    scratch, files = left_out.parent, {"found": [literal(path) for path in found], "ignored": IGNORED}
    reasons = answers("SELECT reason, count(*) FROM read_parquet($left_out) GROUP BY ALL ORDER BY ALL", scratch,
                      left_out=literal(left_out))  # fmt: skip
    ignored = answers(
        "SELECT detail, sum(count) FROM read_parquet($found) WHERE reason = $ignored "
        "GROUP BY ALL ORDER BY sum(count) DESC, detail LIMIT 20", scratch, **files,
    )  # fmt: skip
    return {"left_out_by_reason": dict(reasons), "ignored_members": {kind: int(count) for kind, count in ignored}}


def _write(path: Path, schema: pa.Schema, tables: Iterator[pa.Table]) -> None:
    with finished(path) as part, table_writer(part, schema) as writer:
        for table in tables:
            writer.write_table(table)
