"""Write one shard of local images, its record, and the rejects of an import, as a download does."""

from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from zscir.data.download.chunks import ChunkUrl
from zscir.data.download.merge_chunks import RECORD_SCHEMA
from zscir.data.download.repack import sample_members, verify_tar
from zscir.data.images.shards import write_shard
from zscir.data.readers.local_images import DecodedImage, DecodePool, ImageFailure, ImageLocation
from zscir.data.sql_joins import write_query
from zscir.runtime.schemas import REJECTS_SCHEMA, write_table
from zscir.store.artifacts import atomic_path

RECORDS_FOLDER = ".records"  # of a stage's folder: a record file per finished shard; no file of the artifact


def write_import_shard(
    targets: Sequence[ChunkUrl],
    locations: Sequence[ImageLocation | ImageFailure],
    decode_pool: DecodePool,
    tar: Path,
    record: Path,
) -> None:
    """Write ``tar`` (none when no image is good), its members sorted by key, then ``record``: a row per target.

    Targets must be sorted by image key. Raises BadShard when the finished tar does not say what the record says.
    """
    decoded = zip(targets, decode_pool.map(locations), strict=True)
    rows: dict[str, dict[str, Any]] = {}
    samples = _samples(decoded, rows)
    first = next(samples, None)
    if first is not None:
        with atomic_path(tar) as part:
            spans = {span.name: span for span in write_shard(part, _members([first], samples))}
            images = {key: spans[f"{key}.jpg"] for key, row in rows.items() if row["status"] == "ok"}
            for key, span in images.items():
                rows[key] |= {"offset": span.offset, "size": span.size}
            verify_tar(part, images, {key: str(rows[key]["sha256"]) for key in images})
    with atomic_path(record) as part:
        write_table(part, RECORD_SCHEMA, rows.values())


ImportedSample = tuple[ChunkUrl, DecodedImage, str]  # the str is the SHA-256 of its data


def _samples(
    decoded: Iterator[tuple[ChunkUrl, DecodedImage | ImageFailure]], rows: dict[str, dict[str, Any]]
) -> Iterator[ImportedSample]:
    """The samples that decoded, one at a time; each target leaves a row in ``rows``."""
    for target, image in decoded:
        row: dict[str, Any] = {**vars(target), "attempts": 1}
        if isinstance(image, ImageFailure):
            rows[target.image_key] = row | {"status": "failed", "error_class": image.error_class, "error": image.error}
            continue
        digest = sha256(image.data).hexdigest()
        rows[target.image_key] = row | {
            "status": "ok",
            "sha256": digest,
            "width": image.width,
            "height": image.height,
            "original_width": image.original_width,
            "original_height": image.original_height,
        }
        yield target, image, digest


def _members(*parts: Sequence[ImportedSample] | Iterator[ImportedSample]) -> Iterator[tuple[str, bytes]]:
    for samples in parts:
        for target, image, digest in samples:
            facts = {
                "width": image.width,
                "height": image.height,
                "original_width": image.original_width,
                "original_height": image.original_height,
                "original_sha256": image.original_sha256,
                "sha256": digest,
            }
            yield from sample_members(target, image.data, facts)


def write_import_rejects(stage: str, images: Path, rejects: Path, left_out: Path | None = None) -> None:
    """Write what ``stage`` left out before there were pairs (id, reason, detail), then each pair that failed."""
    before = """
        SELECT 0 AS part, file_row_number AS number, id, reason, detail
        FROM read_parquet($left_out, file_row_number = true) UNION ALL
    """
    sql = f"""
        SELECT $stage AS stage, id, reason, detail FROM ({before if left_out is not None else ""}
            SELECT 1 AS part, file_row_number AS number, pair_id AS id, error_class AS reason,
                   coalesce(error, '') AS detail
            FROM read_parquet($images, file_row_number = true) WHERE status <> 'ok'
        ) ORDER BY part, number
    """  # noqa: S608 - our own expressions
    values = {"left_out": left_out} if left_out is not None else {}
    write_query(rejects, REJECTS_SCHEMA, sql, stage=stage, images=images, **values)
