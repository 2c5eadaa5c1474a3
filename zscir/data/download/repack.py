"""Repack img2dataset's raw shard as a byte-stable tar, read it back, and write a record of every URL.

img2dataset's tars are in the order of completion and may be truncated. An image is ok when its bytes are in the
finished tar, where the record says.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from zscir.data.download.chunks import ChunkUrl
from zscir.data.download.gateway import FetchOutcome
from zscir.data.download.merge_chunks import RECORD_SCHEMA
from zscir.data.images.decode import BadImage, read_image_header
from zscir.data.images.shards import BadShard, MemberSpan, ShardReader, read_members, write_shard
from zscir.runtime.schemas import write_table
from zscir.store.artifacts import atomic_path

IMAGES_TAR = "images.tar"
LookUpOutcome = Callable[[str], FetchOutcome | None]


@dataclass(frozen=True)
class RawImage:
    """An image as img2dataset stored it. ``span`` lies in the raw tar."""

    span: MemberSpan
    width: int
    height: int
    sha256: str


def repack(raw_tar: Path, targets: Sequence[ChunkUrl], outcome: LookUpOutcome, out: Path) -> int:
    """Finish a chunk: write ``out/images.tar`` (if any image came) and ``record.parquet``; return how many are ok.

    Raises BadShard when the raw shard cannot be read, or the finished one does not say what the record says.
    """
    unrequested = sum(outcome(target.image_key) is None for target in targets)
    if unrequested:
        raise BadShard(f"{raw_tar.name}: img2dataset did not request {unrequested} of {len(targets)} URLs")
    raw_images = dict(_raw_images(raw_tar))
    img2dataset_error = dict(_error_messages(raw_tar.with_suffix(".parquet")))
    # In the order of keys, not of completion: the same images give the same bytes.
    present = sorted((target for target in targets if target.image_key in raw_images), key=lambda t: t.image_key)
    spans: dict[str, MemberSpan] = {}
    if present:
        with atomic_path(out / IMAGES_TAR) as part, ShardReader(lambda _: raw_tar) as reader:
            written = write_shard(part, _samples(present, raw_images, outcome, reader))
            spans = {span.name.removesuffix(".jpg"): span for span in written if span.name.endswith(".jpg")}
            verify_tar(part, spans, {key: stored.sha256 for key, stored in raw_images.items()})
    rows = []
    for target in targets:
        key, fetched = target.image_key, outcome(target.image_key)
        if key in spans:
            rows.append(_base_row(target, fetched) | _location_columns(raw_images[key], spans[key]))
        else:
            rows.append(
                _base_row(target, fetched) | {"status": "failed", **_error_columns(fetched, img2dataset_error.get(key))}
            )
    with atomic_path(out / "record.parquet") as part:
        write_table(part, RECORD_SCHEMA, rows)
    return len(present)


def verify_tar(tar: Path, spans: dict[str, MemberSpan], digests: dict[str, str]) -> None:
    """Read a finished tar member by member; BadShard unless it holds exactly the images of ``spans``, byte for byte."""
    expected = {span.name: (span, digests[key]) for key, span in spans.items()}
    for there, data in read_members(tar):
        if there.name.endswith(".jpg") and expected.pop(there.name, None) != (there, sha256(data).hexdigest()):
            raise BadShard(f"{tar.name}: {there.name} is not what was written")
    if expected:
        raise BadShard(f"{tar.name}: {len(expected)} images of its record are not in it")


def _raw_images(raw_tar: Path) -> Iterator[tuple[str, RawImage]]:
    """Image key and stored image of each sample in a raw tar; a sample without a readable JPEG is left out."""
    images: dict[str, tuple[MemberSpan, bytes]] = {}
    for span, data in read_members(raw_tar):
        stem, _, kind = span.name.partition(".")
        if kind == "jpg":
            images[stem] = (span, data)
        elif kind == "json" and stem in images:
            image_span, image = images.pop(stem)
            try:
                header = read_image_header(image)
            except BadImage:
                continue
            yield (
                _key_of(json.loads(data)["url"]),
                RawImage(image_span, header.width, header.height, sha256(image).hexdigest()),
            )


def _error_messages(raw_parquet: Path) -> Iterator[tuple[str, str]]:
    """Image key and error message of the rows for which img2dataset has one."""
    try:
        table = pq.read_table(raw_parquet, columns=["url", "error_message"])
    except (OSError, pa.ArrowInvalid) as error:
        raise BadShard(f"{raw_parquet.name}: img2dataset left no readable table: {error}") from None
    for row in table.to_pylist():
        if row["error_message"] is not None:
            yield _key_of(row["url"]), str(row["error_message"])


def _key_of(gateway_url: str) -> str:
    return gateway_url.rpartition("/")[2]


def _samples(
    targets: list[ChunkUrl], raw_images: dict[str, RawImage], outcome: LookUpOutcome, reader: ShardReader
) -> Iterator[tuple[str, bytes]]:
    for target in targets:
        key, stored = target.image_key, raw_images[target.image_key]
        original = outcome(key)
        facts = {
            "width": stored.width,
            "height": stored.height,
            "original_width": original.width if original else None,
            "original_height": original.height if original else None,
            "original_sha256": original.sha256 if original else None,
            "sha256": stored.sha256,
        }
        yield from sample_members(target, reader.read("raw", stored.span.offset, stored.span.size), facts)


def sample_members(target: ChunkUrl, image: bytes, facts: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """The members of one sample in a shard: the image, its URL, text and ``facts`` as JSON, and the text alone."""
    key, described = target.image_key, {"url": target.url, "text": target.text, **facts}
    yield f"{key}.jpg", image
    yield f"{key}.json", json.dumps(described, sort_keys=True, ensure_ascii=False).encode()
    yield f"{key}.txt", target.text.encode()


def _base_row(target: ChunkUrl, outcome: FetchOutcome | None) -> dict[str, Any]:
    if outcome is None:
        return {**vars(target), "attempts": 0}
    return {
        **vars(target),
        "attempts": outcome.attempts,
        "http_status": outcome.http_status,
        "original_width": outcome.width,
        "original_height": outcome.height,
    }


def _location_columns(stored: RawImage, span: MemberSpan) -> dict[str, Any]:
    return {
        "status": "ok",
        "sha256": stored.sha256,
        "width": stored.width,
        "height": stored.height,
        "offset": span.offset,
        "size": span.size,
    }


def _error_columns(outcome: FetchOutcome | None, img2dataset_error: str | None) -> dict[str, str | None]:
    """The gateway knows why a URL failed; if it passed an image on, img2dataset may know why it dropped that."""
    if outcome is not None and outcome.error_class is not None:
        return {"error_class": outcome.error_class, "error": outcome.error}
    if img2dataset_error is not None:
        return {"error_class": "bad_image", "error": f"img2dataset: {' '.join(img2dataset_error.split())[:200]}"}
    return {"error_class": "engine", "error": "img2dataset lost this URL"}
