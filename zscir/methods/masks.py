"""Draw the patches that a masked view keeps, by (seed, epoch, image key); the others are dropped, not blanked."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from zscir.methods.counter_rng import random_bits, random_stream


def kept_count(patches: int, ratio: float) -> int:
    """How many of ``patches`` stay when the share ``ratio`` is hidden: int(L * (1 - ratio)), as PLI counts."""
    return int(patches * (1 - ratio))


def kept_patches(
    seeds: Sequence[int], epoch: int, keys: Sequence[str], patches: int, ratio: float
) -> NDArray[np.int64]:
    """[len(keys), K] indices of the kept patches, ascending in each row.

    A row depends on its own seed, ``epoch`` and key only. A patch's index fills the low bits of its random
    number, so that two patches never tie.
    """
    streams = [random_stream("mask", seed, epoch, key) for seed, key in zip(seeds, keys, strict=True)]
    low = np.uint64(16)  # room for the index of 65,536 patches
    numbers = (random_bits(streams, patches) >> low << low) | np.arange(patches, dtype=np.uint64)
    # PLI keeps the shuffled order, which has no effect: positions are added before patches are dropped.
    kept = np.argsort(numbers, axis=1)[:, : kept_count(patches, ratio)]
    return np.sort(kept, axis=1).astype(np.int64)
