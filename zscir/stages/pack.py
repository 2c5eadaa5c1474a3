"""pack: triplets and the images that they name become WebDataset training shards and an index of their images."""

import json
import os
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from zscir.data.images.decode import BadImage, decode_image, encode_jpeg, read_image_header, resize_short_side
from zscir.data.images.shards import MemberSpan, ShardReader, check_member_name, write_shard
from zscir.data.sql_joins import query_tables, rows_sql
from zscir.pipeline.stage import stage
from zscir.runtime.errors import StageError
from zscir.runtime.progress import track
from zscir.runtime.schemas import (
    IMAGES_SCHEMA,
    PACKED_SCHEMA,
    REJECTS_SCHEMA,
    TRIPLETS_SCHEMA,
    checked_table,
    read_rows,
    schema_of,
    table_writer,
    write_table,
)
from zscir.runtime.specs import Spec
from zscir.store.artifacts import Artifact, Facts, atomic_path

LOCATION_COLUMNS = {"shard": "str", "offset": "i64", "size": "i64", "status": "str", "error_class": "str"}
NUMBER_COLUMNS = {"mask_seed": "i64?", "mask_ratio": "f64?"}
JOINED_SCHEMA = schema_of(
    **{name: NUMBER_COLUMNS.get(name, "str?") for name in TRIPLETS_SCHEMA.names},
    **{f"{role}_{name}": f"{kind}?" for role in ("reference", "target") for name, kind in LOCATION_COLUMNS.items()},
)
JSON_FIELDS = (
    "text",
    "source",
    "reference_key",
    "target_key",
    "reference_caption",
    "target_caption",
    "mask_seed",
    "mask_ratio",
)
SHARD_PARTS_FOLDER = ".parts"  # per finished shard: its index rows and its rejects


class PackSpec(Spec):
    """How triplets are packed."""

    shard_rows: Annotated[int, Field(ge=1, le=100_000)] = 2000  # triplets per shard
    size_px: Annotated[int, Field(ge=16, le=4096)] | None = None  # short side; larger images are shrunk; None copies
    # Of a second JPEG generation; only copying (size_px = None) loses nothing.
    quality: Annotated[int, Field(ge=1, le=100)] = 92  # of the JPEGs that are shrunk


@stage(version=1)
def pack(spec: PackSpec, triplets: Artifact, images: Artifact, out: Path) -> Facts:
    """Write 00000.tar, ..., index.parquet and rejects.parquet; shards that a crashed attempt finished are kept.

    A triplet without one of its images, or with one that cannot be decoded, is a reject.
    """
    shards = 0
    with ShardReader(images.path) as reader, ThreadPoolExecutor(os.cpu_count()) as pool:
        for number, rows in enumerate(track(_groups(spec, triplets, images, out), None, "pack (shards)")):
            name = f"{number:05d}"
            # The rejects are written last, so their file says that the whole shard is there.
            if not (out / SHARD_PARTS_FOLDER / f"{name}.rejects.parquet").exists():
                _write(spec, name, rows, reader, pool, out)
            shards = number + 1
    kept = _join_parts(out, shards, "index", PACKED_SCHEMA)
    left_out = _join_parts(out, shards, "rejects", REJECTS_SCHEMA)
    return {"rows": kept, "rejects": left_out, "shards": len(list(out.glob("*.tar")))}


def _groups(spec: PackSpec, triplets: Artifact, images: Artifact, out: Path) -> Iterator[list[dict[str, Any]]]:
    """The triplets of each shard, in their order, with the places of their images (nulls where there are none)."""
    places = ", ".join(
        f"{role}.{name} AS {role}_{name}" for role in ("reference", "target") for name in LOCATION_COLUMNS
    )
    sql = f"""
        WITH known AS (
            SELECT image_key,
                {", ".join(f'first("{name}" ORDER BY file_row_number) AS "{name}"' for name in LOCATION_COLUMNS)}
            FROM {rows_sql([images.path("images.parquet")], IMAGES_SCHEMA)} GROUP BY image_key
        )
        SELECT {", ".join(f"t.{name}" for name in TRIPLETS_SCHEMA.names)}, {places}
        FROM {rows_sql([triplets.path("triplets.parquet")], TRIPLETS_SCHEMA)} t
        LEFT JOIN known reference ON reference.image_key = t.reference_key
        LEFT JOIN known target ON target.image_key = t.target_key
        ORDER BY t.file_row_number
    """  # noqa: S608 - names of our own schemas
    # Ordered in SQL: DuckDB's joins do not keep the order of rows, and the tars must be the same each time.
    for table in query_tables(sql, out, spec.shard_rows, JOINED_SCHEMA):
        yield table.to_pylist()


def _write(
    spec: PackSpec, name: str, rows: list[dict[str, Any]], reader: ShardReader, pool: Executor, out: Path
) -> None:
    """Finish one shard: the tar (none when no triplet is left), then its index rows, then its rejects."""
    usable = [row for row in rows if _missing_image(row) is None]
    # map keeps the order, whichever thread is done first.
    packed = list(zip(usable, pool.map(lambda row: _images(spec, row, reader), usable), strict=True))
    good = [(row, data) for row, data in packed if isinstance(data, dict)]
    bad = [(row["triplet_id"], "no_image", why) for row in rows if (why := _missing_image(row)) is not None]
    bad += [(row["triplet_id"], "bad_image", data) for row, data in packed if isinstance(data, str)]
    spans: list[MemberSpan] = []
    if good:
        with atomic_path(out / f"{name}.tar") as part:
            spans = write_shard(part, (member for row, data in good for member in _members(row, data)))
    found = {span.name: span for span in spans}
    with atomic_path(out / SHARD_PARTS_FOLDER / f"{name}.index.parquet") as part:
        write_table(part, PACKED_SCHEMA, [_index_row(row, found, f"{name}.tar") for row, _ in good])
    with atomic_path(out / SHARD_PARTS_FOLDER / f"{name}.rejects.parquet") as part:
        write_table(part, REJECTS_SCHEMA, [{"stage": "pack", "id": i, "reason": r, "detail": d} for i, r, d in bad])


def _missing_image(row: dict[str, Any]) -> str | None:
    """Which image of a triplet is not there, and why; None when both are."""
    for role in ("reference", "target"):
        if row[f"{role}_status"] != "ok":
            why = row[f"{role}_error_class"] or "not in the images"
            return f"{role} {row[f'{role}_key']}: {why}"
    return None


def _images(spec: PackSpec, row: dict[str, Any], reader: ShardReader) -> dict[str, bytes] | str:
    """The bytes to pack by role, or why an image cannot be shrunk. Masked triplets need only the reference."""
    roles = ["reference"] if row["target_key"] == row["reference_key"] else ["reference", "target"]
    found = {}
    for role in roles:
        data = reader.read(row[f"{role}_shard"], row[f"{role}_offset"], row[f"{role}_size"])
        try:
            found[role] = data if spec.size_px is None else _shrunk(data, spec.size_px, spec.quality)
        except BadImage as error:
            return f"{role} {row[f'{role}_key']}: {error}"
    return found


def _shrunk(data: bytes, size_px: int, quality: int) -> bytes:
    header = read_image_header(data)
    # A turned image is decoded and stored upright: other readers of the shards may ignore its EXIF orientation.
    if header.format == "JPEG" and header.is_upright and min(header.width, header.height) <= size_px:
        return data
    return encode_jpeg(resize_short_side(decode_image(data), size_px), quality)


def _members(row: dict[str, Any], data: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    key = row["triplet_id"]
    # WebDataset takes all up to the first dot of a name for the sample's key.
    if "." in key or "/" in key:
        raise StageError(f"pack: the triplet id {key!r} holds a dot or a slash; WebDataset would cut it there")
    check_member_name(key)
    yield (
        f"{key}.json",
        json.dumps({name: row[name] for name in JSON_FIELDS}, sort_keys=True, ensure_ascii=False).encode(),
    )
    for role, image in data.items():
        yield f"{key}.{role}.jpg", image


def _index_row(row: dict[str, Any], found: dict[str, MemberSpan], shard: str) -> dict[str, Any]:
    places: dict[str, Any] = {"shard": shard, "target_offset": None, "target_size": None}
    for role in ("reference", "target"):
        span = found.get(f"{row['triplet_id']}.{role}.jpg")
        if span is not None:
            places |= {f"{role}_offset": span.offset, f"{role}_size": span.size}
    return {name: places[name] if name in places else row[name] for name in PACKED_SCHEMA.names}


def _join_parts(out: Path, shards: int, kind: str, schema: Any) -> int:
    """Write ``kind``.parquet from the parts of all shards and return its number of rows."""
    rows = 0
    with atomic_path(out / f"{kind}.parquet") as part, table_writer(part, schema) as writer:
        for number in range(shards):
            table = checked_table(read_rows(out / SHARD_PARTS_FOLDER / f"{number:05d}.{kind}.parquet", schema), schema)
            writer.write_table(table)
            rows += table.num_rows
    return rows
