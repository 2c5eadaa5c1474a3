"""A benchmarks artifact becomes the squares of pixels that a benchmark's ids stand for; what is missing is listed.

Images lie in ``<benchmark>/images.tar`` beside ``images.parquet`` (image_id, member, offset, size), or loose below
``<benchmark>/images/`` under their official names (GeneCIS: in ``vg/`` and ``coco/``).
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from zscir.benchmarks import Benchmark, load_part
from zscir.benchmarks.checksums import check_official_counts, official_release, refuse_mixed_files, require_official
from zscir.benchmarks.genecis import Genecis
from zscir.benchmarks.load import annotation_files
from zscir.benchmarks.missing_images import missing_images_problem
from zscir.benchmarks.preprocess import region_crop
from zscir.data.images.decode import BadImage, decode_image
from zscir.data.images.shards import MAX_MEMBER_BYTES, BadShard, ShardReader
from zscir.methods.image_tensors import MAX_DECODED_PIXELS, resize_to_square
from zscir.methods.specs import ModelPixelSpec
from zscir.runtime.errors import RequestError, StageError
from zscir.runtime.progress import track
from zscir.runtime.schemas import read_rows, schema_of
from zscir.store.artifacts import Artifact, digest_of_files

BENCHMARK_IMAGES = schema_of(image_id="str", member="str", offset="i64", size="i64")
LOOSE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
ENCODE_BATCH_SIZE = 128
PixelArray = NDArray[np.uint8]


def annotations_root(benchmarks: Artifact, name: str) -> Path:
    """A local folder that holds all annotation files of one benchmark; RequestError when there are none."""
    files = [file for file in benchmarks.files(".json") if file.startswith(f"{name}/")]
    if not files:
        raise RequestError(f"the benchmarks hold no {name}: no file {name}/**.json among {benchmarks.files()[:5]}")
    paths = [benchmarks.path(file) for file in files]
    return paths[0].parents[len(PurePosixPath(files[0]).parts) - 2]


def load_benchmark_parts(
    benchmarks: Artifact,
    name: str,
    split: str,
    parts: Sequence[str],
    protocol: str | None,
    sha256: dict[str, str] | None,
) -> list[Benchmark]:
    """The categories or tasks of one benchmark. RequestError when its files are official ones only in part or not the
    official ones that ``sha256`` (file -> digest) asks for, or when an official gallery has another size."""
    root, facts = annotations_root(benchmarks, name), official_release(name)
    if sha256 is not None:
        require_official(root, facts, sha256)
    loaded = []
    for part in parts:
        known = refuse_mixed_files(root, facts, annotation_files(name, split, part))
        loaded.append(load_part(name, root, split, part, protocol))
        if known:
            check_official_counts(loaded[-1], facts)
    return loaded


def images_digest(benchmarks: Artifact, name: str) -> str:
    """The content digest of one benchmark's images: what cached features are good for."""
    own = [entry for file, entry in benchmarks.entries.items() if file.startswith(f"{name}/images")]
    return digest_of_files(own)


class BenchmarkImages:
    """The images of one benchmark, by the ids of its queries and gallery (GeneCIS: by region).

    ``absent`` collects the ids without pixels and the reasons; more than ``allowed`` of them are an error.
    """

    def __init__(self, benchmarks: Artifact, name: str, parts: Sequence[Benchmark], allowed: int = 0) -> None:
        self.name, self.allowed = name, allowed
        self.regions = {key: one for part in parts if isinstance(part, Genecis) for key, one in part.regions.items()}
        self.digest = images_digest(benchmarks, name)
        self.absent: dict[str, str] = {}
        self._benchmarks = benchmarks
        self._reader = ShardReader(benchmarks.path)
        self._spans, self._loose = self._index()

    def squares(self, ids: Sequence[str], pixels: ModelPixelSpec, label: str) -> Iterator[tuple[list[str], PixelArray]]:
        """Yield (ids, uint8 [B, 3, S, S]) of the ids that have pixels, in order; note the others as ``absent``.

        StageError lists what is missing (at once) or cannot be read (at the end) when it is more than allowed.
        """
        self.absent |= {one: "missing" for one in ids if not self._has(one)}
        self._refuse(len(ids))
        there = [one for one in ids if one not in self.absent]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            starts = range(0, len(there), ENCODE_BATCH_SIZE)
            ahead = [pool.submit(self._square, one, pixels) for one in there[:ENCODE_BATCH_SIZE]]
            for start in track(starts, len(starts), label):
                now, batch = ahead, there[start : start + ENCODE_BATCH_SIZE]
                ahead = [
                    pool.submit(self._square, one, pixels)
                    for one in there[start + ENCODE_BATCH_SIZE : start + 2 * ENCODE_BATCH_SIZE]
                ]
                found = [(one, future.result()) for one, future in zip(batch, now, strict=True)]
                self.absent |= {one: square for one, square in found if isinstance(square, str)}
                seen = [(one, square) for one, square in found if not isinstance(square, str)]
                if seen and len(self.absent) <= self.allowed:
                    yield [one for one, _ in seen], np.stack([square for _, square in seen])
        self._refuse(len(ids))

    def do_without(self, absent: Mapping[str, str], total: int) -> None:
        """Note ids that have no vector although they may have pixels; StageError when that is more than allowed."""
        self.absent |= absent
        self._refuse(total)

    def _refuse(self, total: int) -> None:
        problem = missing_images_problem(
            self.name, self.absent, total, self.allowed, official_release(self.name).get_images
        )
        if problem:
            raise StageError(problem)

    def _has(self, image_id: str) -> bool:
        key = self._key(image_id)
        return key in self._spans or key in self._loose

    def _square(self, image_id: str, pixels: ModelPixelSpec) -> PixelArray | str:
        """Its pixels, or why there are none."""
        try:
            image = decode_image(self._bytes(self._key(image_id)), MAX_DECODED_PIXELS)
        except (BadImage, BadShard, OSError) as error:
            return str(error)
        region = self.regions.get(image_id)
        if region is not None and region.box is not None:
            image = region_crop(image, region.box, f"{self.name}: {image_id}")
        return np.ascontiguousarray(resize_to_square(image, pixels).transpose(2, 0, 1))

    def _bytes(self, key: str) -> bytes:
        if key in self._spans:
            return self._reader.read(f"{self.name}/images.tar", *self._spans[key])
        path = self._benchmarks.path(self._loose[key])
        if path.stat().st_size > MAX_MEMBER_BYTES:
            raise BadShard(f"{path}: {path.stat().st_size} bytes; allowed are {MAX_MEMBER_BYTES}")
        return path.read_bytes()

    def _key(self, image_id: str) -> str:
        """How the index knows an image: a GeneCIS region by its file, any other by its id."""
        region = self.regions.get(image_id)
        if region is None:
            return image_id
        return f"{'coco' if region.box is None else 'vg'}/{region.file_name}"

    def _index(self) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
        by_member = self.name == "genecis"
        table = f"{self.name}/images.parquet"
        if table in self._benchmarks.entries:
            rows = read_rows(self._benchmarks.path(table), BENCHMARK_IMAGES)
            return {row["member" if by_member else "image_id"]: (row["offset"], row["size"]) for row in rows}, {}
        folder = f"{self.name}/images/"
        names = [name for name in self._benchmarks.files() if name.startswith(folder)]
        loose = [name for name in names if name.lower().endswith(LOOSE_SUFFIXES)]
        return {}, {name.removeprefix(folder) if by_member else self._loose_id(name): name for name in loose}

    def _loose_id(self, name: str) -> str:
        stem = PurePosixPath(name).stem
        return str(int(stem)) if self.name == "circo" and stem.isdigit() else stem
