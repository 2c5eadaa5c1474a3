"""import_images: pictures in a folder become JPEGs in byte-stable WebDataset shards, and one row per pair says how.

What ``download`` does for pairs with web addresses, this does for pairs whose URLs begin with ``file:``: the same
vetting, the same resizing, the same tables. A ``file:`` URL is a path relative to the folder, never an absolute one:
a picture's key, the hash of that URL, is the same wherever the folder lies.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from zscir.data.download.chunks import Target, chunk, distinct, write_chunks
from zscir.data.download.merge_chunks import Records, assemble, summary
from zscir.data.download.resize import ImageSpec
from zscir.data.readers.import_shard import take_in, write_rejects
from zscir.data.readers.local_images import Place, Presses, Refused
from zscir.data.readers.pairs import FILE
from zscir.pipeline.stage import stage
from zscir.runtime.errors import RequestError
from zscir.runtime.progress import track
from zscir.store.artifacts import Artifact, Facts

CHUNKS = ".chunks"
RECORDS = ".records"


class ImportImagesSpec(ImageSpec):
    """Which pictures of a folder are taken, to which pixels, in shards of how many."""

    chunk_rows: Annotated[int, Field(ge=1, le=100_000)] = 10_000  # the most pictures of a shard


@stage(version=1)
def import_images(spec: ImportImagesSpec, pairs: Artifact, images: Artifact, out: Path) -> Facts:
    """Write NNNNN.tar, images.parquet and rejects.parquet; shards that an attempt before finished are kept.

    ``pairs`` are those of ``ingest`` with url_prefix = "file:". RequestError when not one picture could be read.
    """
    pair_table = pairs.path("pairs.parquet")
    write_chunks(distinct(pair_table, out), out / CHUNKS, spec.chunk_rows)
    chunks = sorted((out / CHUNKS).glob("*.parquet"))
    records = [out / RECORDS / path.name for path in chunks]
    with Presses(spec) as presses:
        for path, record in track(zip(chunks, records, strict=True), len(chunks), "import_images (shards)"):
            if not record.exists():
                targets = chunk(path)
                take_in(targets, list(_places(targets, images)), presses, out / f"{path.stem}.tar", record)
    assemble(pair_table, Records(tuple(records)), out / "images.parquet")
    write_rejects("import_images", out / "images.parquet", out / "rejects.parquet")
    facts = summary(out / "images.parquet") | {"chunks": len(chunks)}
    if facts["rows"] and not facts["ok"]:
        raise RequestError(
            f"not one of {facts['rows']:,} pictures could be read: {facts['failed_by_class']}; the list asks for "
            f"{_first(chunks)!r} and the like, the folder holds {images.files()[:3]}: is it the folder that the "
            "paths in the list begin in?"
        )
    return facts


def _first(chunks: list[Path]) -> str:
    return chunk(chunks[0])[0].url


def _places(targets: tuple[Target, ...], images: Artifact) -> Iterator[Place | Refused]:
    return (_place(target.url, images) for target in targets)


def _place(url: str, images: Artifact) -> Place | Refused:
    """Where the picture of a ``file:`` URL lies. A link may lead to another file of the folder, never out of it."""
    name = url.removeprefix(FILE)
    if name == url:
        return Refused("not_local", "the URL does not begin with file:; `download` is for addresses on the web")
    if name not in images.entries:
        return Refused("not_found", "the folder has no such file")
    path = images.path(name)
    root = path.parents[len(Path(name).parts) - 1]
    if not path.resolve().is_relative_to(root.resolve()):
        return Refused("forbidden_path", "a link that leads out of the folder; put the file itself there")
    return Place(str(path))
