"""Record tables: rows become Parquet files whose schema is checked when written and when read."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from zscir.runtime.errors import RequestError


def schema_of(**columns: str) -> pa.Schema:
    """A schema from short names: ``str``, ``i32``, ``i64``, ``f32``, ``f64``, ``time``; ``?`` allows null."""
    types = {
        "str": pa.string(),
        "i32": pa.int32(),
        "i64": pa.int64(),
        "f32": pa.float32(),
        "f64": pa.float64(),
        "bool": pa.bool_(),
        "time": pa.timestamp("us", tz="UTC"),
    }
    return pa.schema(
        [pa.field(name, types[kind.rstrip("?")], nullable=kind.endswith("?")) for name, kind in columns.items()]
    )


PAIRS_SCHEMA = schema_of(pair_id="str", url="str", text="str", source="str", licence="str?", source_row="i64")
IMAGES_SCHEMA = schema_of(
    image_key="str", pair_id="str", url="str", text="str", status="str", error_class="str?", error="str?",
    http_status="i32?", attempts="i32", sha256="str?", width="i32?", height="i32?", original_width="i32?",
    original_height="i32?", shard="str?", offset="i64?", size="i64?",
)  # fmt: skip
TRIPLETS_SCHEMA = schema_of(
    triplet_id="str",
    source="str",
    reference_key="str",
    target_key="str",
    text="str",
    mask_seed="i64?",
    mask_ratio="f64?",
    response_id="str?",
    reference_caption="str?",
    target_caption="str?",
)
CANDIDATES_SCHEMA = schema_of(
    candidate_id="str",
    reference_key="str",
    target_key="str",
    reference_caption="str",
    target_caption="str",
    image_similarity="f64?",
    text_similarity="f64?",
)
RESPONSES_SCHEMA = schema_of(
    response_id="str",
    prompt_digest="str",
    model="str",
    model_revision="str?",
    request="str",
    response="str?",
    error="str?",
    tokens_in="i64?",
    tokens_out="i64?",
    attempts="i32",
)
KEEP_SCHEMA = schema_of(image_key="str")  # the images that a filter leaves in play, in the order of images.parquet
PACKED_SCHEMA = schema_of(
    triplet_id="str", shard="str", reference_offset="i64", reference_size="i64", target_offset="i64?",
    target_size="i64?", source="str", reference_key="str", target_key="str", text="str", mask_seed="i64?",
    mask_ratio="f64?", response_id="str?", reference_caption="str?", target_caption="str?",
)  # fmt: skip
HOSTS_SCHEMA = schema_of(host="str", error_class="str?", urls="i64")  # of a download; no class: the URLs that came
REJECTS_SCHEMA = schema_of(stage="str", id="str", reason="str", detail="str")
RANKINGS_SCHEMA = schema_of(benchmark="str", split="str", query_id="str", rank="i32", image_id="str", score="f32")
SCORES_SCHEMA = schema_of(
    benchmark="str", split="str", protocol="str", method="str", backbone="str", metric="str", value="f64", n="i64"
)
# Scores with what stands beside them. ``control``: image, text or sum of an untrained backbone; null for a method.
# ``allow_missing``: how many images were allowed to be missing; null where none.
INTERVALS_SCHEMA = schema_of(
    benchmark="str", split="str", protocol="str", method="str", backbone="str", metric="str", value="f64", n="i64",
    hits="i64?", low="f64", high="f64", control="str?", allow_missing="i64?",
)  # fmt: skip
PER_QUERY_SCHEMA = schema_of(benchmark="str", split="str", metric="str", query_id="str", value="f64")
CURVE_SCHEMA = schema_of(step="i64", name="str", value="f64")


def check_table(table: pa.Table, schema: pa.Schema, where: str) -> pa.Table:
    """``table`` in the column order of ``schema``; RequestError names the first column that does not fit."""
    missing = [name for name in schema.names if name not in table.column_names]
    extra = [name for name in table.column_names if name not in schema.names]
    if missing or extra:
        raise RequestError(f"{where}: columns missing {missing}, not allowed {extra}; expected {schema.names}")
    for field in schema:
        column = table.column(field.name)
        if column.type != field.type:
            raise RequestError(f"{where}: column '{field.name}' is {column.type}, expected {field.type}")
        if not field.nullable and column.null_count:
            raise RequestError(f"{where}: column '{field.name}' holds {column.null_count} nulls; none are allowed")
    return pa.Table.from_arrays([table.column(name) for name in schema.names], schema=schema)


def checked_table(rows: Iterable[dict[str, Any]], schema: pa.Schema, where: str = "rows") -> pa.Table:
    """A checked table of dictionaries; a missing key is null."""
    listed = list(rows)
    unknown = {key for row in listed for key in row} - set(schema.names)
    if unknown:
        raise RequestError(f"{where}: columns not allowed {sorted(unknown)}; expected {schema.names}")
    for name in (field.name for field in schema if pa.types.is_integer(field.type)):
        if any(isinstance(row.get(name), float) for row in listed):  # pyarrow would cut the fraction off
            raise RequestError(f"{where}: column '{name}' holds a float; expected whole numbers")
    try:
        table = pa.Table.from_pylist(listed, schema=pa.schema([field.with_nullable(True) for field in schema]))
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise RequestError(f"{where}: {error}") from None
    return check_table(table, schema, where)


def write_table(path: Path, schema: pa.Schema, rows: pa.Table | Iterable[dict[str, Any]]) -> int:
    """Write checked rows as Parquet and return their number; equal rows give equal bytes."""
    table = (
        check_table(rows, schema, path.name) if isinstance(rows, pa.Table) else checked_table(rows, schema, path.name)
    )
    with table_writer(path, schema) as writer:
        writer.write_table(table)
    return int(table.num_rows)


@contextmanager
def table_writer(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """A streaming writer of byte-stable Parquet (zstd, fixed row groups, no timestamps)."""
    with pq.ParquetWriter(path, schema, compression="zstd", compression_level=3, store_schema=True) as writer:
        yield writer


def read_table(path: Path, schema: pa.Schema) -> pa.Table:
    """The checked rows of a Parquet file; RequestError when it is missing, broken or of another shape."""
    try:
        table = pq.read_table(path, partitioning=None)
    except FileNotFoundError:
        raise RequestError(f"{path}: no such table") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise RequestError(f"{path}: not a readable Parquet file: {error}") from None
    return check_table(table, schema, str(path))


def read_rows(path: Path, schema: pa.Schema) -> list[dict[str, Any]]:
    """The rows of a checked table as dictionaries."""
    rows: list[dict[str, Any]] = read_table(path, schema).to_pylist()
    return rows
