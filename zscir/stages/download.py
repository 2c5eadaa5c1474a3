"""download: the URLs of pairs become JPEGs in byte-stable WebDataset shards, and one row per pair says what happened.

img2dataset is the engine, in processes of its own. It sees only our gateway on loopback, which fetches, bounds, vets
and accounts for each URL (zscir/fetch); what img2dataset leaves is repacked, read back and checked before it counts.
"""

import shutil
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from zscir.artifacts import Artifact, finished
from zscir.errors import StageError
from zscir.fetch.chunks import Chunk, assemble, chunk, plan, reject, summary
from zscir.fetch.gateway import Gateway
from zscir.fetch.limits import FetchSpec
from zscir.fetch.repack import repack
from zscir.fetch.supervise import Job, raw_shards
from zscir.progress import note, track
from zscir.shards import BadShard
from zscir.stage import Facts, stage
from zscir.tabletop.server import serving
from zscir.tabletop.spec import TabletopSpec
from zscir.tabletop.web import HOST

SCRATCH = ".scratch"
RECORDS = ".chunks"
PLAN = ".plan.parquet"
ENGINE_ATTEMPTS = 3
STALL_S = 90.0  # beyond the deadline of a URL: the start of img2dataset alone may take a minute on a busy machine
CHUNKS_PER_ENGINE = 32  # img2dataset and the gateway hold their URLs in memory
TABLETOP = (HOST.removeprefix("http://"), 80)


class DownloadSpec(FetchSpec):
    """What is downloaded, how far (FetchSpec) and to which pixels. Resize modes are img2dataset's."""

    chunk_rows: Annotated[int, Field(ge=1, le=100_000)] = 10_000  # URLs per shard; a crash costs one per worker
    resize_mode: Literal["keep_ratio", "keep_ratio_largest", "center_crop", "border", "no"] = "keep_ratio"
    image_size: Annotated[int, Field(ge=16, le=4096)] = 256  # px: short side (keep_ratio, center_crop) or long
    only_if_bigger: bool = True
    quality: Annotated[int, Field(ge=1, le=100)] = 92
    keep_jpegs: bool = False  # a plain JPEG that needs no resizing keeps its bytes (and its metadata)
    tabletop: TabletopSpec | None = None  # serve the tabletop world on loopback while downloading

    @model_validator(mode="after")
    def _chunks_are_tars(self) -> "DownloadSpec":
        if self.chunk_rows == 1:
            raise ValueError("chunk_rows = 1: img2dataset cannot number the images of such shards; take 2 or more")
        return self

    def engine_options(self) -> dict[str, Any]:
        """The arguments of img2dataset that decide pixels."""
        return {
            "resize_mode": self.resize_mode, "image_size": self.image_size,
            "resize_only_if_bigger": self.only_if_bigger, "encode_quality": self.quality,
            "encode_format": "jpg", "skip_reencode": self.keep_jpegs,
        }  # fmt: skip


@stage(version=1)
def download(spec: DownloadSpec, pairs: Artifact, out: Path) -> Facts:
    """Download what is missing in ``out``, chunk by chunk, then write images.parquet and rejects.parquet."""
    pair_table = pairs.path("pairs.parquet")
    total = plan(pair_table, out / PLAN, spec.chunk_rows)
    missing = [number for number in range(total) if not _record(out, number).exists()]
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, out / SCRATCH, ignore_errors=True)
        work = _fetched(spec, missing, out)
        stack.callback(work.close)
        for _ in track(work, len(missing), "download (chunks)"):
            pass
    assemble(pair_table, out / RECORDS, out / "images.parquet")
    reject(out / "images.parquet", out / "rejects.parquet")
    return summary(out / "images.parquet") | {"chunks": total}


def _record(out: Path, number: int) -> Path:
    return out / RECORDS / f"{number:05d}.parquet"


def _fetched(spec: DownloadSpec, missing: list[int], out: Path) -> Generator[int]:
    """Yield the number of each chunk that is finished. Raises StageError when the engine fails again and again."""
    if not missing:
        return
    with ExitStack() as stack:
        pinned = {}
        if spec.tabletop is not None:
            pinned[TABLETOP] = ("127.0.0.1", stack.enter_context(serving(spec.tabletop)))
        gateway = stack.enter_context(Gateway(spec, pinned))
        for attempt in range(ENGINE_ATTEMPTS):
            for first in range(0, len(missing), CHUNKS_PER_ENGINE):
                yield from _run(spec, missing[first : first + CHUNKS_PER_ENGINE], gateway, out)
            missing = [number for number in missing if not _record(out, number).exists()]
            if not missing:
                return
            note(f"download: {len(missing)} chunks are not done after attempt {attempt + 1} of {ENGINE_ATTEMPTS}")
    raise StageError(
        f"download: img2dataset could not finish the chunks {missing[:10]} in {ENGINE_ATTEMPTS} attempts; "
        "the finished chunks are kept, and the next attempt goes on with these"
    )


def _run(spec: DownloadSpec, numbers: list[int], gateway: Gateway, out: Path) -> Iterator[int]:
    """One run of img2dataset over some chunks; a raw shard that is no good is left to the next attempt."""
    scratch = out / SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)
    job = Job(scratch / "urls.parquet", scratch / "raw", spec.chunk_rows, len(numbers), spec.engine_options())
    _expect((chunk(out / PLAN, number) for number in numbers), gateway, job.urls)
    for shard in raw_shards(job, lambda: gateway.last_news, STALL_S + spec.deadline_s):
        raw_tar = job.folder / f"{shard:05d}.tar"
        one = chunk(out / PLAN, numbers[shard])
        try:
            repack(raw_tar, one, gateway.outcome, out, _record(out, one.number))
        except BadShard as error:
            note(f"download: chunk {one.name} is made again: {error}")
            continue
        finally:
            raw_tar.unlink(missing_ok=True)
        gateway.forget([target.image_key for target in one.targets])
        yield one.number


def _expect(chunks: Iterable[Chunk], gateway: Gateway, urls: Path) -> None:
    """Tell the gateway what will be asked for, and write the list of what img2dataset shall ask."""
    keys: list[str] = []
    for one in chunks:
        wanted = {target.image_key: target.url for target in one.targets}
        gateway.forget(list(wanted))
        gateway.expect(wanted)
        keys += wanted
    with finished(urls) as part:
        pq.write_table(pa.table({"url": [f"http://127.0.0.1:{gateway.port}/{key}" for key in keys]}), part)
