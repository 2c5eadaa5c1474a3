"""The schemas of the record tables, and Parquet files that are checked against one when written and when read.

Schemas may grow: a nullable column that an older file lacks reads as null, and a column that only a newer version knows
is ignored. A missing column that may not be null is an error, in every table and view.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from zscir.runtime.errors import RequestError

COLUMN_TYPES = {
    "str": pa.string(),
    "i32": pa.int32(),
    "i64": pa.int64(),
    "f32": pa.float32(),
    "f64": pa.float64(),
    "bool": pa.bool_(),
    "time": pa.timestamp("us", tz="UTC"),
}
DUCKDB_TYPES = {
    pa.string(): "VARCHAR",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.bool_(): "BOOLEAN",
    pa.timestamp("us", tz="UTC"): "TIMESTAMPTZ",
}


def schema_of(**columns: str) -> pa.Schema:
    """A schema from short names: ``str``, ``i32``, ``i64``, ``f32``, ``f64``, ``bool``, ``time``; ``?`` allows null."""
    return pa.schema(
        [pa.field(name, COLUMN_TYPES[kind.rstrip("?")], nullable=kind.endswith("?")) for name, kind in columns.items()]
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
    """``table``, about to be written, in the column order of ``schema``.

    RequestError names the first column that does not fit. Every column must be there: only files grow old.
    """
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
        if any(isinstance(row.get(name), float) for row in listed):  # pyarrow would drop the fraction
            raise RequestError(f"{where}: column '{name}' holds a float; expected whole numbers")
    try:
        # Nullable throughout: pyarrow takes nulls in any column, and check_table then names the one that may hold none.
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


def is_table_of(columns: Iterable[str], schema: pa.Schema) -> bool:
    """Whether a file with these columns is a table of this schema, whole or not.

    A stage's own table may share the file name of a record table (``pairs.parquet`` of ``tabulate``); it then has fewer
    than half of the columns that may not be null.
    """
    required = {field.name for field in schema if not field.nullable}
    return 2 * len(required & set(columns)) >= len(required)


def conform_table(table: pa.Table, schema: pa.Schema, where: str) -> pa.Table:
    """``table``, read from a file of any version, with exactly the columns of ``schema``.

    A missing nullable column is null and an unknown column is dropped. RequestError names ``where`` and the column when
    one that may not be null is missing or holds nulls, or when a type differs.
    """
    _require_columns(table.column_names, schema, where)
    present = set(table.column_names)
    arrays = [
        table.column(field.name) if field.name in present else pa.nulls(table.num_rows, field.type) for field in schema
    ]
    return check_table(pa.Table.from_arrays(arrays, names=schema.names), schema, where)


def _require_columns(columns: Iterable[str], schema: pa.Schema, where: str) -> None:
    missing = {field.name for field in schema if not field.nullable} - set(columns)
    if missing:
        listed = [name for name in schema.names if name in missing]
        raise RequestError(f"{where}: columns missing {listed}; expected {schema.names}")


@contextmanager
def _readable(path: Path | str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise RequestError(f"{path}: no such table") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise RequestError(f"{path}: not a readable Parquet file: {error}") from None


def select_fields(schema: pa.Schema, columns: Sequence[str] | None) -> pa.Schema:
    """The part of ``schema`` with these columns, in their order; all of it for None."""
    return schema if columns is None else pa.schema([schema.field(name) for name in columns])


def read_table(path: Path, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
    """The checked rows of a Parquet file (only these ``columns`` of it).

    RequestError when it is missing, broken or of another shape; an older or newer file reads as ``conform_table`` says.
    """
    wanted = select_fields(schema, columns)
    with _readable(path), pq.ParquetFile(path) as file:
        table = file.read(columns=[name for name in file.schema_arrow.names if name in set(wanted.names)])
    return conform_table(table, wanted, str(path))


def table_batches(
    path: Path, schema: pa.Schema, batch_rows: int, columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """As ``read_table``, ``batch_rows`` rows at a time, for tables that may not fit into memory."""
    wanted = select_fields(schema, columns)
    with _readable(path), pq.ParquetFile(path) as file:
        conform_table(file.schema_arrow.empty_table(), schema, str(path))  # a file without rows has a shape too
        present = [name for name in file.schema_arrow.names if name in set(wanted.names)]
        for batch in file.iter_batches(batch_rows, columns=present):
            yield conform_table(pa.Table.from_batches([batch]), wanted, str(path))


def read_rows(path: Path, schema: pa.Schema) -> list[dict[str, Any]]:
    """The rows of a checked table as dictionaries."""
    rows: list[dict[str, Any]] = read_table(path, schema).to_pylist()
    return rows


def parquet_columns(paths: Iterable[str]) -> dict[str, list[str]]:
    """Path -> the names of its columns, from the footers (0.2 ms each); RequestError where one is not readable."""
    found = {}
    for path in paths:
        with _readable(path):
            found[path] = pq.read_schema(path).names
    return found


def parquet_sql(files: Mapping[str, Sequence[str]], schema: pa.Schema, options: str = "") -> str:
    """A DuckDB table expression of Parquet files (path -> columns) of any version, with at least ``schema``'s columns.

    ``options`` are further arguments of ``read_parquet``: ``, filename = true``. RequestError names the file and the
    column when one that may not be null is missing.
    """
    for path, columns in files.items():
        _require_columns(columns, schema, path)
    present = {name for columns in files.values() for name in columns}
    absent = "".join(
        f', CAST(NULL AS {DUCKDB_TYPES[field.type]}) AS "{field.name}"' for field in schema if field.name not in present
    )
    if not files:
        return f"(SELECT {absent.removeprefix(', ')} WHERE false)"
    # DuckDB takes the columns of the first file for those of all, unless ``union_by_name`` is given.
    union = ", union_by_name = true" if len({tuple(sorted(columns)) for columns in files.values()}) > 1 else ""
    listed = ", ".join("'" + escape_glob(path).replace("'", "''") + "'" for path in files)
    return f"(SELECT *{absent} FROM read_parquet([{listed}]{options}{union}))"  # noqa: S608 - columns of our own schemas


def escape_glob(path: Path | str) -> str:
    """A path in which DuckDB sees no wildcard."""
    return re.sub(r"([*?[])", r"[\1]", str(path))
