"""Read the images of a benchmark as batches of pixels, by the ids of its queries and gallery; list what is missing.

Images lie in ``<benchmark>/images.tar`` beside ``images.parquet`` (image_id, member, offset, size), or loose below
``<benchmark>/images/`` under their official names (GeneCIS: in ``vg/`` and ``coco/``).
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from zscir.benchmarks import benchmark_info
from zscir.benchmarks.checksums import official_release
from zscir.benchmarks.missing_images import missing_images_problem
from zscir.benchmarks.preprocess import region_crop
from zscir.data.images.decode import BadImage, decode_image
from zscir.data.images.shards import MAX_MEMBER_BYTES, BadShard, ShardReader
from zscir.methods.image_squares import MAX_DECODED_PIXELS, resize_to_square
from zscir.methods.specs import ModelPixelSpec
from zscir.runtime.errors import StageError
from zscir.runtime.progress import track
from zscir.runtime.schemas import read_rows, schema_of
from zscir.store.artifacts import Artifact, digest_of_files

BENCHMARK_IMAGES = schema_of(image_id="str", member="str", offset="i64", size="i64")
LOOSE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
ENCODE_BATCH_SIZE = 128  # images per call of a tower; halved where a GPU's memory is too small
PixelArray = NDArray[np.uint8]


class BenchmarkImages:
    """The images of one benchmark, by the ids of its queries and gallery (GeneCIS: by region).

    ``absent`` collects the ids without pixels and the reasons; more than ``allowed`` of them are an error.
    """

    def __init__(self, benchmarks: Artifact, name: str, allowed: int = 0) -> None:
        self.name, self.allowed = name, allowed
        self._naming = benchmark_info(name).images
        own = [entry for file, entry in benchmarks.entries.items() if file.startswith(f"{name}/images")]
        self.digest = digest_of_files(own)  # cached embeddings are good for these images alone
        self.absent: dict[str, str] = {}
        self._benchmarks = benchmarks
        self._reader = ShardReader(benchmarks.path)
        self._spans, self._loose = self._index()

    def pixel_batches(
        self, ids: Sequence[str], pixels: ModelPixelSpec, label: str
    ) -> Iterator[tuple[list[str], PixelArray]]:
        """Yield (ids, uint8 [B, 3, S, S]) of the ids that have pixels, in order; note the others as ``absent``.

        StageError lists what is missing (at once) or cannot be read (at the end) when it is more than allowed.
        """
        self.absent |= {image_id: "missing" for image_id in ids if not self._is_stored(image_id)}
        self._check_allowed(len(ids))
        stored = [image_id for image_id in ids if image_id not in self.absent]
        starts = range(0, len(stored), ENCODE_BATCH_SIZE)
        with ThreadPoolExecutor(os.cpu_count()) as pool:

            def decode(start: int) -> list[Future[PixelArray | str]]:
                batch = stored[start : start + ENCODE_BATCH_SIZE]
                return [pool.submit(self._pixels_or_reason, image_id, pixels) for image_id in batch]

            # One batch is decoded ahead, so that the threads work while the model encodes the batch before.
            ahead = decode(0)
            for start in track(starts, len(starts), label):
                futures, ahead = ahead, decode(start + ENCODE_BATCH_SIZE)
                batch = stored[start : start + ENCODE_BATCH_SIZE]
                decoded: list[tuple[str, PixelArray]] = []  # pairs, as two queries may share a reference
                for image_id, future in zip(batch, futures, strict=True):
                    result = future.result()
                    if isinstance(result, str):
                        self.absent[image_id] = result
                    else:
                        decoded.append((image_id, result))
                # Once it is too many, nothing is encoded any more, but decoding goes on: the error is to list them all.
                if decoded and len(self.absent) <= self.allowed:
                    yield [image_id for image_id, _ in decoded], np.stack([square for _, square in decoded])
        self._check_allowed(len(ids))

    def add_absent(self, absent: Mapping[str, str], total: int) -> None:
        """Note ids that have no vector although they may have pixels; StageError when that is more than allowed."""
        self.absent |= absent
        self._check_allowed(total)

    def _check_allowed(self, total: int) -> None:
        problem = missing_images_problem(
            self.name, self.absent, total, self.allowed, official_release(self.name).how_to_get_images
        )
        if problem:
            raise StageError(problem)

    def _is_stored(self, image_id: str) -> bool:
        name = self._naming.indexed_name(image_id)
        return name in self._spans or name in self._loose

    def _pixels_or_reason(self, image_id: str, pixels: ModelPixelSpec) -> PixelArray | str:
        """Its pixels, or why there are none."""
        try:
            image = decode_image(self._bytes(self._naming.indexed_name(image_id)), MAX_DECODED_PIXELS)
        except (BadImage, BadShard, OSError) as error:  # raised later, with all others, or counted
            return str(error)
        box = self._naming.region_box(image_id)
        if box is not None:
            image = region_crop(image, box, f"{self.name}: {image_id}")
        return np.ascontiguousarray(resize_to_square(image, pixels).transpose(2, 0, 1))

    def _bytes(self, indexed_name: str) -> bytes:
        if indexed_name in self._spans:
            return self._reader.read(f"{self.name}/images.tar", *self._spans[indexed_name])
        path = self._benchmarks.path(self._loose[indexed_name])
        # The bound that members of tars have: a benchmark's folder is data from outside too.
        if path.stat().st_size > MAX_MEMBER_BYTES:
            raise BadShard(f"{path}: {path.stat().st_size} bytes; allowed are {MAX_MEMBER_BYTES}")
        return path.read_bytes()

    def _index(self) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
        """(offset, size) in the tar, or the loose file, by indexed name."""
        table = f"{self.name}/images.parquet"
        if table in self._benchmarks.entries:
            column = self._naming.index_column
            rows = read_rows(self._benchmarks.path(table), BENCHMARK_IMAGES)
            return {row[column]: (row["offset"], row["size"]) for row in rows}, {}
        folder = f"{self.name}/images/"
        files = [file for file in self._benchmarks.files() if file.startswith(folder)]
        loose = [file for file in files if file.lower().endswith(LOOSE_SUFFIXES)]
        return {}, {self._naming.loose_name(file.removeprefix(folder)): file for file in loose}
