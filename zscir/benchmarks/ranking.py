"""Ranks and top lists from scores, without sorting the gallery; ties rank in gallery order.

An item's rank is one more than the number of items that beat it: those with a higher score, and those with the
same score that stand earlier in the gallery. Counting them gives what a stable full sort would give. Counting and
selecting happen where the scores are (a ``ScoreBlock``: in memory here, on a GPU in ``zscir.evaluation.gpu_ranking``);
the rest is computed here from the counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zscir.runtime.errors import RequestError

ScoreArray = NDArray[np.float32]
Ints = NDArray[np.int64]
CHECKED_AT_ONCE = 1 << 22  # elements: a mask of all of CIRCO would be 27 MB
COMPARED_AT_ONCE = 1 << 17  # elements: the scores and their comparison stay in a core's own cache
NOT_RANKED = 0  # the "rank" of padding and of an item that is not in the ranking
HISTOGRAM_BUCKETS = 512


class ScoreBlock(Protocol):
    """The scores [B, G] of some queries, in memory or on a device. Columns of -1 are padding: ignore their results."""

    def __len__(self) -> int: ...

    def values(self, columns_BK: Ints) -> ScoreArray:
        """The scores [B, K] in those columns."""

    def count_better(self, columns_BT: Ints) -> Ints:
        """How many items [B, T] of the whole gallery rank before each of those columns."""

    def best(self, k: int) -> Ints:
        """The first ``min(k, G)`` columns [B, ...] of the whole ranking, best first, ties in gallery order."""

    def with_lowest_score(self, columns_B: Ints) -> ScoreBlock:
        """The same scores, but for one item of each query whose score becomes the lowest of its row."""


Scorer = Callable[[NDArray[Any], NDArray[Any], str], Iterator[tuple[slice, ScoreBlock]]]


@dataclass(frozen=True)
class NumpyScoreBlock:
    """Scores in this machine's memory; rows are compared in groups of at most ``compared_at_once`` elements."""

    scores_BG: ScoreArray
    compared_at_once: int = COMPARED_AT_ONCE

    def __len__(self) -> int:
        return len(self.scores_BG)

    def values(self, columns_BK: Ints) -> ScoreArray:
        found: ScoreArray = self.scores_BG[np.arange(len(self))[:, None], columns_BK]
        return found

    def count_better(self, columns_BT: Ints) -> Ints:
        values_BT, counts = self.values(columns_BT), np.zeros(columns_BT.shape, dtype=np.int64)
        rows_at_once = self.compared_at_once // self.scores_BG.shape[1]
        if rows_at_once > 1:
            for slot in range(columns_BT.shape[1]):
                counts[:, slot] = _count_better_rows(
                    self.scores_BG, columns_BT[:, slot], values_BT[:, slot], rows_at_once
                )
        else:
            for row, slot in np.argwhere(columns_BT >= 0):
                counts[row, slot] = _count_better(self.scores_BG[row], columns_BT[row, slot], values_BT[row, slot])
        return counts

    def best(self, k: int) -> Ints:
        return np.stack([_top_columns(row, k) for row in self.scores_BG])

    def with_lowest_score(self, columns_B: Ints) -> NumpyScoreBlock:
        pushed = self.scores_BG.copy()
        pushed[np.arange(len(self)), columns_B] = self.scores_BG.min(axis=1)
        return NumpyScoreBlock(pushed)


def float32_scores(scores: Any, shape: tuple[int, ...], where: str) -> ScoreArray:
    """``scores`` as a float32 array of ``shape``; RequestError when the shape, the type or a value is wrong."""
    array = np.asarray(scores)
    if array.shape != shape:
        raise RequestError(f"{where}: scores have shape {array.shape}, expected {shape} (queries x gallery)")
    array = as_float32(array, where, "scores")
    rows_at_once = max(1, CHECKED_AT_ONCE // max(1, shape[1]))
    for start in range(0, shape[0], rows_at_once):
        finite = np.isfinite(array[start : start + rows_at_once])
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            value = array[start + row, column]
            raise RequestError(
                f"{where}: scores[{start + row}, {column}] is {value}; every score must be a finite number"
            )
    return np.ascontiguousarray(array)


def as_float32(array: NDArray[Any], where: str, what: str) -> NDArray[np.float32]:
    """Numbers as float32. Half-precision scores are refused (they tie by the thousand); features may be half."""
    allowed = array.dtype.kind in "iu" or array.dtype.kind == "f"
    if not allowed or (what == "scores" and array.dtype == np.float16):
        raise RequestError(f"{where}: {what} are {array.dtype}; give float32")
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf and is named by the finite check
        return array.astype(np.float32, copy=False)


def ranks_of(block: ScoreBlock, columns_BT: Ints, excluded_BE: Ints) -> Ints:
    """1-based ranks [B, T] of the columns [B, T] with the ``excluded`` columns taken out; both are padded with -1.

    The rank of padding, and of a column that is itself excluded, is 0.
    """
    ranks: Ints = 1 + block.count_better(columns_BT)
    ranks[columns_BT < 0] = NOT_RANKED
    if excluded_BE.shape[1]:
        values_BT, excluded_values_BE = block.values(columns_BT), block.values(excluded_BE)
        for slot in range(excluded_BE.shape[1]):
            other, value = excluded_BE[:, slot, None], excluded_values_BE[:, slot, None]
            before = (value > values_BT) | ((value == values_BT) & (other < columns_BT))
            ranks -= before & (other >= 0) & (columns_BT >= 0)
        ranks[(columns_BT[:, :, None] == excluded_BE[:, None, :]).any(axis=2)] = NOT_RANKED
    return ranks


def ranks_among(block: ScoreBlock, columns_BM: Ints, target_B: Ints) -> Ints:
    """Ranks [B] of the target columns among the columns [B, M] only (-1 is padding); ties in gallery order."""
    value_B1, values_BM = block.values(target_B[:, None]), block.values(columns_BM)
    beats = (values_BM > value_B1) | ((values_BM == value_B1) & (columns_BM < target_B[:, None]))
    ranks: Ints = 1 + np.count_nonzero(beats & (columns_BM >= 0), axis=1)
    return ranks


def top_lists(block: ScoreBlock, k: int, excluded_BE: Ints) -> list[Ints]:
    """The ``k`` best columns of each query, best first, ties in gallery order, the ``excluded`` left out."""
    best = block.best(k + excluded_BE.shape[1])
    kept = ~(best[:, :, None] == excluded_BE[:, None, :]).any(axis=2)
    return [row[keep][:k] for row, keep in zip(best, kept, strict=True)]


def _count_better_rows(scores_BG: ScoreArray, columns_B: Ints, values_B: ScoreArray, rows_at_once: int) -> Ints:
    """Many short rows at a time. Where scores are equal, only those that stand earlier count."""
    higher: list[int] = []
    equal: list[int] = []
    for start in range(0, len(scores_BG), rows_at_once):
        rows = slice(start, start + rows_at_once)
        part, bar = scores_BG[rows], values_B[rows, None]
        higher += map(np.count_nonzero, part > bar)
        equal += map(np.count_nonzero, part == bar)
    counts: Ints = np.array(higher, dtype=np.int64)
    for row in np.flatnonzero(np.array(equal) > 1):
        counts[row] += np.count_nonzero(scores_BG[row, : max(0, columns_B[row])] == values_B[row])
    return counts


def _count_better(row_G: ScoreArray, column: int, value: np.float32) -> int:
    """One long row: a single pass, since a row that does not fit into the cache is dear to read twice."""
    return int(np.count_nonzero(row_G[:column] >= value) + np.count_nonzero(row_G[column:] > value))


def _top_columns(row_G: ScoreArray, k: int) -> Ints:
    bar = _low_bar(row_G, k) if k < len(row_G) else -np.inf
    candidates = np.flatnonzero(row_G >= bar)
    best: Ints = candidates[np.argsort(-row_G[candidates], kind="stable")[:k]]
    return best


def _low_bar(row_G: ScoreArray, k: int) -> float:
    """A score that at least ``k`` columns reach: the k-th best of the maxima of buckets of the row.

    One pass of maxima is several times cheaper than selecting in the whole row, and few more than ``k`` columns pass.
    """
    width = len(row_G) // max(HISTOGRAM_BUCKETS, 2 * k)
    if width < 2:
        return float(np.partition(row_G, len(row_G) - k)[len(row_G) - k])
    buckets = len(row_G) // width
    maxima = row_G[: buckets * width].reshape(buckets, width).max(axis=1)
    return float(np.partition(maxima, buckets - k)[buckets - k])


def padded(columns: Sequence[Sequence[int]]) -> Ints:
    """Lists of columns as one array [Q, longest], filled up with -1."""
    width = max(map(len, columns), default=0)
    full = [row if len(row) == width else [*row, *[-1] * (width - len(row))] for row in columns]
    return np.array(full, dtype=np.int64).reshape(len(full), width)
