"""Load a pack of triplets as training batches, whose order and contents depend on (seed, step) alone."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zscir.data.images.shards import ShardReader
from zscir.methods.counter_rng import shuffled
from zscir.methods.image_squares import decode_to_square
from zscir.methods.protocol import Batch
from zscir.methods.specs import ModelPixelSpec
from zscir.runtime.errors import RequestError
from zscir.runtime.schemas import PACKED_SCHEMA, read_table
from zscir.store.artifacts import Artifact
from zscir.training.collectives import SINGLE_RANK, RankGroup

PACK_INDEX_FILE = "index.parquet"
PACK_COLUMNS = (
    "triplet_id", "shard", "reference_offset", "reference_size", "target_offset", "target_size", "reference_key",
    "target_key", "text", "reference_caption", "mask_seed", "mask_ratio",
)  # fmt: skip
CACHE_BYTES = 512 * 1024 * 1024  # 3,566 squares of 224 px
PREFETCH_BATCHES = 4
THREADS = 2  # Pillow decodes without the GIL

SquareArray = NDArray[np.uint8]


class Pack:
    """The triplets of a ``pack`` artifact, decoded and squared as ``pixels`` says.

    Decoded images are kept while they fit ``cache_bytes``, so a small pack is decoded once.
    """

    def __init__(self, data: Artifact, pixels: ModelPixelSpec, cache_bytes: int = CACHE_BYTES) -> None:
        self.rows = _read_index(data)
        self.pixels = pixels
        self._reader = ShardReader(data.path)
        self._cache: dict[str, SquareArray] = {}
        self._max_cached = cache_bytes // (3 * pixels.size_px**2)
        self.mask_ratio = _one_ratio(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def decoded_image(self, row: dict[str, Any], role: str) -> SquareArray:
        """[3, S, S] uint8 of the row's reference or target; without a target of its own, of its reference again."""
        stored = role if row[f"{role}_offset"] is not None else "reference"
        key = row[f"{stored}_key"]
        if key in self._cache:
            return self._cache[key]
        data = self._reader.read(row["shard"], row[f"{stored}_offset"], row[f"{stored}_size"])
        pixels = decode_to_square(data, self.pixels, f"{row['shard']}: {stored} of triplet {row['triplet_id']}")
        if len(self._cache) < self._max_cached:
            self._cache[key] = pixels
        return pixels

    def batch(self, positions: NDArray[np.int64], seed: int, epoch: int) -> Batch:
        """The triplets at ``positions``."""
        rows = [self.rows[int(position)] for position in positions]
        return Batch(
            seed=seed,
            epoch=epoch,
            triplet_ids=[row["triplet_id"] for row in rows],
            reference_keys=[row["reference_key"] for row in rows],
            target_keys=[row["target_key"] for row in rows],
            reference_pixels=self._stack(rows, "reference"),
            target_pixels=self._stack(rows, "target"),
            texts=[row["text"] for row in rows],
            # A masked or plain pair has no reference caption: its text describes the image.
            captions=[row["reference_caption"] or row["text"] for row in rows],
            mask_seeds=[row["mask_seed"] if row["mask_seed"] is not None else seed for row in rows],
            mask_ratio=self.mask_ratio,
        )

    def _stack(self, rows: list[dict[str, Any]], role: str) -> Tensor:
        return torch.from_numpy(np.stack([self.decoded_image(row, role) for row in rows]))

    def close(self) -> None:
        """Close the shards."""
        self._reader.close()


def texts_of(data: Artifact) -> Iterator[str]:
    """Every text and reference caption of a pack."""
    for row in _read_index(data):
        yield row["text"]
        yield row["reference_caption"] or ""


def _read_index(data: Artifact) -> list[dict[str, Any]]:
    path = data.path(PACK_INDEX_FILE)
    try:
        rows: list[dict[str, Any]] = read_table(path, PACKED_SCHEMA, PACK_COLUMNS).to_pylist()
    except RequestError as error:
        raise RequestError(f"{error}; training reads what the stage pack writes") from None
    if not rows:
        raise RequestError(f"{path}: the pack is empty; look at the rejects of the stages before it")
    return rows


def _one_ratio(rows: list[dict[str, Any]]) -> float:
    """The mask ratio of all rows (0 where they have none); RequestError if they differ."""
    ratios = {row["mask_ratio"] or 0.0 for row in rows}
    if len(ratios) > 1:
        raise RequestError(f"one training takes one mask ratio; this pack has {sorted(ratios)[:5]}: pack them apart")
    return float(ratios.pop())


def positions_at(step: int, count: int, batch_size: int, seed: int) -> tuple[int, NDArray[np.int64]]:
    """(epoch, positions) of a step: epochs are reshuffled, a last short batch is left out."""
    # A short last batch would have fewer negatives, and so another loss.
    per_epoch = steps_per_epoch(count, batch_size)
    epoch, within = divmod(step, per_epoch)
    # Shuffled anew for each step rather than kept, so that a resumed run needs no state of the sampler.
    order = shuffled(count, "order", seed, epoch)
    return epoch, order[within * batch_size : (within + 1) * batch_size]


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Whole batches in ``count`` triplets; RequestError if there is none."""
    if count < batch_size:
        raise RequestError(f"batch_size = {batch_size} is more than the {count} triplets of the pack; lower it")
    return count // batch_size


def training_batches(
    pack: Pack, start: int, stop: int, batch_size: int, seed: int, group: RankGroup = SINGLE_RANK
) -> Iterator[Batch]:
    """This rank's share of the batches of steps start..stop-1; a few are decoded ahead in threads, in order."""

    def make(step: int) -> Batch:
        epoch, positions = positions_at(step, len(pack), batch_size, seed)
        return pack.batch(group.share(positions), seed, epoch)

    with ThreadPoolExecutor(THREADS) as pool:
        yield from _ahead(pool, make, start, stop)


def _ahead(pool: ThreadPoolExecutor, make: Callable[[int], Batch], start: int, stop: int) -> Iterator[Batch]:
    waiting: list[Future[Batch]] = [
        pool.submit(make, step) for step in range(start, min(start + PREFETCH_BATCHES, stop))
    ]
    for step in range(start, stop):
        if step + PREFETCH_BATCHES < stop:
            waiting.append(pool.submit(make, step + PREFETCH_BATCHES))
        yield waiting.pop(0).result()
