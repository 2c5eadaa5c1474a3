"""Perceptual hashes of images (64 bits and 16 mean colours each), and the search for pairs that look alike.

The hash is the classic one of cosine frequencies (C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash
Functions", 2010): luminance at 32 x 32 pixels, its frequencies 1 to 8 in both directions, and a bit for each that is
above the median of the 64. Half of the bits are set (ties apart), so distances are even. Luminance cannot tell a red
dress from a blue one on white: the mean colours of 4 x 4 cells can. In a picture that is its own mirror image half of
the frequencies are nothing and their bits chance, so that a copy of it may go unnoticed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import comb

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HashArray = NDArray[np.uint64]
RowNumbers = NDArray[np.int64]
HASH_SIDE_PX = 32
CELLS_PER_SIDE = 4
ANY_COLOUR_DISTANCE = 255
_FREQUENCIES = np.arange(1, 9)
# Whole numbers: every product and sum below is exact in float64, so the bits are the same on every processor.
_COSINES = np.rint(4096 * np.cos(np.pi * np.outer(_FREQUENCIES, 2 * np.arange(HASH_SIDE_PX) + 1) / (2 * HASH_SIDE_PX)))
_BITS = 64
_MOST_TABLES = 1_000
_PAIRS_AT_ONCE = 1 << 21
_BLOCK_ROWS = 1 << 16
_MOST_EDGES, _PARTS = 1_000_000, 8
_SORT_COST, _PAIR_COST = 8.0, 1.0  # of one row of a table, of one pair that is looked at; only their ratio matters


@dataclass(frozen=True)
class PerceptualHashes:
    """What pictures look like: ``bits`` [N] and ``colours`` [N, 48], the mean RGB of their cells."""

    bits: HashArray
    colours: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.bits)

    def select(self, rows: RowNumbers) -> "PerceptualHashes":
        """The hashes of some rows."""
        return PerceptualHashes(self.bits[rows], self.colours[rows])


def luminance_and_colours(image: Image.Image) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """([32, 32] luminance, [48] mean colours of 4 x 4 cells) of an RGB image, both stretched to a square."""
    grey = image.convert("L").resize((HASH_SIDE_PX, HASH_SIDE_PX), Image.Resampling.BILINEAR, reducing_gap=2.0)
    cells = image.resize((CELLS_PER_SIDE, CELLS_PER_SIDE), Image.Resampling.BOX, reducing_gap=2.0)
    return np.asarray(grey), np.asarray(cells).reshape(-1)


def dct_hashes(luminance: NDArray[np.uint8]) -> HashArray:
    """[N] hashes of [N, 32, 32] luminances; those of mirrored pictures are ``dct_hashes(luminance[:, :, ::-1])``."""
    waves = (_COSINES @ luminance.astype(np.float64) @ _COSINES.T).reshape(-1, _BITS)
    ordered = np.sort(waves, axis=1)
    above = 2 * waves > (ordered[:, _BITS // 2 - 1] + ordered[:, _BITS // 2])[:, None]
    return np.packbits(above, axis=1).view("<u8").astype(np.uint64).reshape(-1)


def near_duplicate_pairs(
    queries: PerceptualHashes,
    references: PerceptualHashes,
    max_distance: int,
    max_colour_difference: int = ANY_COLOUR_DISTANCE,
) -> Iterator[tuple[RowNumbers, RowNumbers]]:
    """(rows of queries, rows of references) whose hashes differ in at most ``max_distance`` bits and whose cells differ
    by at most ``max_colour_difference`` of 255 in every channel. A pair may come more than once; none is left out.

    Where two hashes differ in at most r bits, at least b - r of b blocks of bits are equal (G. S. Manku et al., WWW
    2007). So for each choice of b - r blocks the references are sorted by those blocks and the queries look up their
    equals: T tables cost T x (N + M) log M and T x N x M / 2^(64 (b - r) / b) comparisons; b is the cheapest.
    """
    if not len(queries) or not len(references):
        return
    for mask in _masks(len(queries), len(references), max_distance):
        for rows, others in _equal_under(mask, queries.bits, references.bits):
            close = np.bitwise_count(queries.bits[rows] ^ references.bits[others]) <= max_distance
            rows, others = rows[close], others[close]
            for channel in range(queries.colours.shape[1]) if max_colour_difference < ANY_COLOUR_DISTANCE else ():
                apart = queries.colours[rows, channel].astype(np.int16) - references.colours[others, channel]
                alike = np.abs(apart) <= max_colour_difference
                rows, others = rows[alike], others[alike]
            if len(rows):
                yield rows, others


def near_duplicate_of(hashes: PerceptualHashes, max_distance: int, max_colour_difference: int) -> RowNumbers:
    """[N]: for each row the first row that is kept and looks like it; its own number when it is kept itself.

    Rows are taken in order, and one is kept unless it looks like one that is kept: nothing is chained through rows
    that are not. Memory is bounded whatever the pictures are; T tables are sorted for every 65,536 different hashes.
    """
    packed = np.concatenate([hashes.bits.reshape(-1, 1).view(np.uint8), hashes.colours], axis=1)
    _, first, inverse = np.unique(packed, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)  # equal hashes share their fate: only the first of each is compared
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    owner = _blockwise_duplicate_of(hashes.select(first[order]), max_distance, max_colour_difference)
    owners: RowNumbers = first[order][owner[place[inverse.reshape(-1)]]]
    return owners


def _blockwise_duplicate_of(hashes: PerceptualHashes, max_distance: int, max_colour_difference: int) -> RowNumbers:
    owner = np.arange(len(hashes), dtype=np.int64)
    kept = np.empty(0, dtype=np.int64)
    waiting = [(start, min(start + _BLOCK_ROWS, len(hashes))) for start in range(0, len(hashes), _BLOCK_ROWS)][::-1]
    while waiting:
        start, end = waiting.pop()
        found = np.full(end - start, len(hashes), dtype=np.int64)
        for rows, others in near_duplicate_pairs(
            hashes.select(np.arange(start, end)), hashes.select(kept), max_distance, max_colour_difference
        ):
            np.minimum.at(found, rows, kept[others])
        free = start + np.flatnonzero(found == len(hashes))
        edges = _edges(hashes.select(free), max_distance, max_colour_difference)
        if edges is None:  # very many look alike: few of a part are kept, and the others are compared with those
            size = -(-(end - start) // _PARTS)
            waiting += [(first, min(first + size, end)) for first in range(start, end, size)][::-1]
            continue
        taken = np.flatnonzero(found < len(hashes))
        owner[start + taken] = found[taken]
        owner[free] = free[_greedy(len(free), edges)]
        kept = np.concatenate([kept, free[owner[free] == free]])
    return owner


def _edges(hashes: PerceptualHashes, max_distance: int, max_colour_difference: int) -> NDArray[np.int64] | None:
    """[E, 2] of (later, earlier) rows that look alike, sorted, each once; None when there are too many to hold."""
    parts, total = [np.empty((0, 2), dtype=np.int64)], 0
    for rows, others in near_duplicate_pairs(hashes, hashes, max_distance, max_colour_difference):
        back = others < rows
        parts.append(np.stack([rows[back], others[back]], axis=1))
        total += len(parts[-1])
        if total > _MOST_EDGES and len(hashes) > 2:
            return None
    edges: NDArray[np.int64] = np.unique(np.concatenate(parts), axis=0)
    return edges


def _greedy(count: int, edges: NDArray[np.int64]) -> RowNumbers:
    """For each row the first earlier neighbour that is kept, else itself."""
    owner = list(range(count))
    for later, earlier in edges.tolist():
        if owner[later] == later and owner[earlier] == earlier:
            owner[later] = earlier
    return np.array(owner, dtype=np.int64)


def _masks(queries: int, references: int, max_distance: int) -> list[int]:
    """The bits that two hashes share in at least one of the tables when they differ by at most ``max_distance``."""

    def cost(blocks: int) -> float:
        agreeing = blocks - max_distance
        looked_at = queries * references / 2 ** (_BITS * agreeing / blocks)
        return comb(blocks, agreeing) * (_SORT_COST * (queries + references) + _PAIR_COST * looked_at)

    choices = [
        blocks for blocks in range(max(max_distance, 1), _BITS + 1) if comb(blocks, max_distance) <= _MOST_TABLES
    ]
    blocks = min(choices, key=cost)
    ends = [_BITS * number // blocks for number in range(blocks + 1)]
    masks = [(1 << end) - (1 << start) for start, end in pairwise(ends)]
    return [sum(chosen) for chosen in combinations(masks, blocks - max_distance)]


def _equal_under(mask: int, queries: HashArray, references: HashArray) -> Iterator[tuple[RowNumbers, RowNumbers]]:
    """Row pairs whose hashes are equal in the bits of ``mask``, a bounded number at a time."""
    bits = np.uint64(mask)
    keys = references & bits
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    sorted_queries = queries & bits
    by_key = np.argsort(sorted_queries, kind="stable")  # sorted look-ups stay in the processor's cache
    sorted_queries = sorted_queries[by_key]
    left, right = np.searchsorted(keys, sorted_queries, "left"), np.searchsorted(keys, sorted_queries, "right")
    has = np.flatnonzero(right > left)
    by_key, left, counts = by_key[has], left[has], (right - left)[has]
    ends = np.cumsum(counts)
    start = 0
    while start < len(counts):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _PAIRS_AT_ONCE, "right")))
        here = counts[start:stop]
        firsts = np.repeat(left[start:stop] - (ends[start:stop] - here - before), here)
        yield np.repeat(by_key[start:stop], here), order[firsts + np.arange(len(firsts))]
        start = stop
