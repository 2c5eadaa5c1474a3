"""Counter-based random numbers: (seed, epoch, name) gives the same draw on every machine, worker and batch order."""

from collections.abc import Sequence
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

# The constants of splitmix64 (Steele, Lea and Flood, 2014): 2 ** 64 / the golden ratio, and its two mixers.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_A = np.uint64(0xBF58476D1CE4E5B9)
_MIX_B = np.uint64(0x94D049BB133111EB)


def random_stream(*parts: int | str) -> int:
    """A 64-bit stream number for a name such as ``("mask", seed, epoch, image_key)``."""
    # Types and a separator that no key holds: ("a", 1) and ("a1",) or ("a", "1") are different streams.
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(sha256(text.encode()).digest()[:8], "little")


def random_bits(streams: Sequence[int], count: int) -> NDArray[np.uint64]:
    """[len(streams), count] uniform 64-bit numbers: splitmix64 at counters 1..count of each stream."""
    state = np.asarray(streams, dtype=np.uint64)[:, None]
    counter = np.arange(1, count + 1, dtype=np.uint64)[None, :]
    with np.errstate(over="ignore"):  # arithmetic modulo 2 ** 64 is meant
        mixed = state + counter * _GOLDEN
        mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX_A
        mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX_B
    result: NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(31))
    return result


def uniforms(streams: Sequence[int], count: int) -> NDArray[np.float64]:
    """[len(streams), count] numbers in [0, 1) with 53 random bits each."""
    return (random_bits(streams, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def shuffled(count: int, *name: int | str) -> NDArray[np.int64]:
    """A permutation of 0..count-1 that depends on ``name`` alone."""
    keys = random_bits([random_stream(*name)], count)[0]
    return np.argsort(keys, kind="stable").astype(np.int64)
