"""import_shards: WebDataset tars become pairs, and their images JPEGs in shards and tables like a download's.

Tars of img2dataset or of any other tool: each is read member by member, within bounds, and nothing is unpacked. A
sample whose .json names a web address keeps that as its URL, and so the key that a download of it has; any other has
``file:``, the tar's name and the image's in it, wherever the tars lie.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from zscir.data.download.fetch_spec import ResizeSpec
from zscir.data.download.merge_chunks import ChunkRecords, download_facts, merge_records
from zscir.data.readers.import_shard import RECORDS_FOLDER, write_import_rejects, write_import_shard
from zscir.data.readers.local_images import DecodePool
from zscir.data.readers.tar_plan import left_out_counts, planned_images, write_tar_index, write_tar_plan
from zscir.data.readers.webdataset_samples import LeftOutMember, SampleLayout, TarSample, read_samples
from zscir.pipeline.stage import stage
from zscir.runtime.errors import RequestError
from zscir.runtime.progress import log_info, track
from zscir.store.artifacts import Artifact, Facts

TAR_INDEX_FOLDER = ".found"
TAKEN_FILE = ".taken.parquet"
LEFT_OUT_FILE = ".left_out.parquet"
COMPRESSED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4")


class ImportShardsSpec(ResizeSpec):
    """How the samples of tars are read, and to which pixels their pictures are brought."""

    source: str  # a short name of the tars; it goes with every pair
    text_column: str | None = None  # a field of the .json member; by default the text is the .txt member
    url_column: str = "url"  # a field of the .json member, where there is one
    licence: str | None = None  # of all pictures
    licence_column: str | None = None  # of each picture: a field of the .json member
    min_text_chars: Annotated[int, Field(ge=1)] = 1
    max_text_chars: Annotated[int, Field(ge=1)] = 2000
    expected_rows: Annotated[int, Field(ge=1)] | None = None  # samples of all tars; another number is only reported

    @model_validator(mode="after")
    def _bounds(self) -> "ImportShardsSpec":
        if self.max_text_chars < self.min_text_chars:
            raise ValueError(
                f"max_text_chars = {self.max_text_chars}, less than min_text_chars = {self.min_text_chars}"
            )
        return self

    def layout(self) -> SampleLayout:
        """The part of this spec that says how samples are read."""
        return SampleLayout(
            self.url_column, self.text_column, self.licence_column, self.min_text_chars, self.max_text_chars
        )


@stage(version=1)
def import_shards(spec: ImportShardsSpec, shards: Artifact, out: Path) -> Facts:
    """Write NNNNN.tar per tar of ``shards``, pairs.parquet, images.parquet and rejects.parquet.

    Tars that an attempt before finished are kept. RequestError when there is no tar, or not one picture in them.
    """
    names = _tars(shards)
    found = [out / TAR_INDEX_FOLDER / f"{number:05d}.parquet" for number in range(len(names))]
    for number, name in track(list(enumerate(names)), len(names), "import_shards (tars looked through)"):
        if not found[number].exists():
            write_tar_index(found[number], number, _samples(spec, shards, name))
    # All tars are looked through first: whether a pair is a duplicate depends on those before it.
    write_tar_plan(found, spec.source, spec.licence, out / "pairs.parquet", out / TAKEN_FILE, out / LEFT_OUT_FILE)
    records = [out / RECORDS_FOLDER / path.name for path in found]
    with DecodePool(spec) as decode_pool:
        for number, name in track(list(enumerate(names)), len(names), "import_shards (tars)"):
            if not records[number].exists():
                targets, locations = planned_images(out / TAKEN_FILE, number, shards.path(name))
                write_import_shard(targets, locations, decode_pool, out / f"{number:05d}.tar", records[number])
    merge_records(out / "pairs.parquet", ChunkRecords(tuple(records)), out / "images.parquet")
    write_import_rejects("import_shards", out / "images.parquet", out / "rejects.parquet", out / LEFT_OUT_FILE)
    return _facts(spec, names, found, out)


def _tars(shards: Artifact) -> list[str]:
    names = sorted([*shards.files(".tar"), *(name for suffix in COMPRESSED_SUFFIXES for name in shards.files(suffix))])
    if not names:
        raise RequestError(f"no .tar among the {len(shards.files())} files, such as {shards.files()[:3]}")
    return names


def _samples(spec: ImportShardsSpec, shards: Artifact, name: str) -> Iterator[TarSample | LeftOutMember]:
    if name.endswith(COMPRESSED_SUFFIXES):
        return iter([LeftOutMember(name, "packed_tar", "a compressed tar is not read: unpack it to .tar first")])
    return read_samples(shards.path(name), name, spec.layout())


def _facts(spec: ImportShardsSpec, names: list[str], found: list[Path], out: Path) -> Facts:
    facts = download_facts(out / "images.parquet")
    more = left_out_counts(found, out / LEFT_OUT_FILE)
    left_out = sum(more["left_out_by_reason"].values())
    if not facts["ok"]:
        raise RequestError(
            f"not one picture in {names[:3]}; left out: {more['left_out_by_reason']}, failed: "
            f"{facts['failed_by_class']}, ignored: {more['ignored_members']}. Where the texts stand in the .json and "
            "not in a .txt, say text_column = FIELD in [import_shards]"
        )
    facts |= {"rejects": facts["rejects"] + left_out, "shards": len(names), **more}
    if spec.expected_rows is not None:
        facts |= {"expected_rows": spec.expected_rows}
        off = facts["rows"] + left_out - spec.expected_rows
        if off:
            log_info(
                f"import_shards: {spec.source}: the tars hold {facts['rows'] + left_out:,} samples, their source says "
                f"{spec.expected_rows:,} (expected_rows)"
            )
            facts |= {"rows_off": off}
    return facts
