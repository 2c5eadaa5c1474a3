"""import_images: images in a folder become JPEGs in byte-stable WebDataset shards, and one row per pair says how.

What ``download`` does for pairs with web addresses, this does for pairs whose URLs begin with ``file:``: the same
validation, the same resizing, the same tables. A ``file:`` URL is a path relative to the folder, never an absolute one:
a picture's key, the hash of that URL, is the same wherever the folder lies.
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from zscir.data.download.chunks import distinct_urls, read_chunk, write_chunks
from zscir.data.download.fetch_spec import ResizeSpec
from zscir.data.download.merge_chunks import ChunkRecords, download_facts, merge_records
from zscir.data.readers.import_shard import RECORDS_FOLDER, write_import_rejects, write_import_shard
from zscir.data.readers.local_images import DecodePool, ImageFailure, ImageLocation
from zscir.data.readers.pairs import FILE_SCHEME
from zscir.pipeline.stage import stage
from zscir.runtime.errors import RequestError
from zscir.runtime.progress import track
from zscir.store.artifacts import Artifact, Facts

CHUNKS_FOLDER = ".chunks"


class ImportImagesSpec(ResizeSpec):
    """Which pictures of a folder are taken, to which pixels, in shards of how many."""

    chunk_rows: Annotated[int, Field(ge=1, le=100_000)] = 10_000  # the most pictures of a shard


@stage(version=1)
def import_images(spec: ImportImagesSpec, pairs: Artifact, images: Artifact, out: Path) -> Facts:
    """Write NNNNN.tar, images.parquet and rejects.parquet; shards that an attempt before finished are kept.

    ``pairs`` are those of ``ingest`` with url_prefix = "file:". RequestError when not one picture could be read.
    """
    pair_table = pairs.path("pairs.parquet")
    # Split as ``download`` splits its URLs: a picture that is added changes one shard, not all behind it.
    write_chunks(distinct_urls(pair_table, out), out / CHUNKS_FOLDER, spec.chunk_rows)
    chunks = sorted((out / CHUNKS_FOLDER).glob("*.parquet"))
    records = [out / RECORDS_FOLDER / path.name for path in chunks]
    with DecodePool(spec) as decode_pool:
        for path, record in track(zip(chunks, records, strict=True), len(chunks), "import_images (shards)"):
            if not record.exists():
                targets = read_chunk(path)
                locations = [_location(target.url, images) for target in targets]
                write_import_shard(targets, locations, decode_pool, out / f"{path.stem}.tar", record)
    merge_records(pair_table, ChunkRecords(tuple(records)), out / "images.parquet")
    write_import_rejects("import_images", out / "images.parquet", out / "rejects.parquet")
    facts = download_facts(out / "images.parquet") | {"chunks": len(chunks)}
    # One wrong folder makes every path wrong: reported here, not as an empty table three steps later.
    if facts["rows"] and not facts["ok"]:
        raise RequestError(
            f"not one of {facts['rows']:,} pictures could be read: {facts['failed_by_class']}; the list names "
            f"{read_chunk(chunks[0])[0].url!r} and the like, the folder holds {images.files()[:3]}: is it the folder "
            "that the paths in the list begin in?"
        )
    return facts


def _location(url: str, images: Artifact) -> ImageLocation | ImageFailure:
    """Where the picture of a ``file:`` URL lies. A link may lead to another file of the folder, never out of it."""
    name = url.removeprefix(FILE_SCHEME)
    if name == url:
        return ImageFailure("not_local", "the URL does not begin with file:; `download` is for addresses on the web")
    if name not in images.entries:
        return ImageFailure("not_found", "the folder has no such file")
    path = images.path(name)
    # The artifact gives paths of files, not its root: as many levels up as the name has parts.
    root = path.parents[len(Path(name).parts) - 1]
    if not path.resolve().is_relative_to(root.resolve()):
        return ImageFailure("forbidden_path", "a link that leads out of the folder; put the file itself there")
    return ImageLocation(str(path))
