"""A score matrix becomes ranks and top lists, without sorting it: ties rank in gallery order.

An item's rank is one more than the number of items that beat it: those with a higher score, and those with the
same score that stand earlier in the gallery. Counting them gives what a stable full sort would give.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zscir.errors import RequestError

Scores = NDArray[np.float32]
Ints = NDArray[np.int64]
CHECKED_AT_ONCE = 1 << 22  # elements
ABSENT = 0  # the "rank" of padding and of an item that is not in the ranking
BUCKETS = 512


def float32_scores(scores: Any, shape: tuple[int, ...], where: str) -> Scores:
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


def rank_of(row_G: Scores, column: int, excluded: Sequence[int] | Ints = ()) -> int:
    """The 1-based rank of ``column`` in one row of scores, the ``excluded`` columns taken out."""
    value = row_G[column]
    beaten_by = np.count_nonzero(row_G[:column] >= value) + np.count_nonzero(row_G[column + 1 :] > value)
    for other in excluded:
        if other == column:
            return ABSENT
        beaten_by -= bool(row_G[other] > value or (row_G[other] == value and other < column))
    return 1 + int(beaten_by)


def ranks_of(scores_BG: Scores, columns_BT: Ints, excluded: Sequence[Ints]) -> Ints:
    """Ranks [B, T] of the columns [B, T]; a column of -1 is padding and its rank is 0."""
    ranks = np.zeros(columns_BT.shape, dtype=np.int64)
    for index, row in enumerate(scores_BG):
        for slot, column in enumerate(columns_BT[index]):
            if column >= 0:
                ranks[index, slot] = rank_of(row, int(column), excluded[index])
    return ranks


def ranks_among(scores_BG: Scores, columns_BM: Ints, target_B: Ints) -> Ints:
    """Ranks [B] of the target columns among the columns [B, M] only (-1 is padding); ties in gallery order."""
    rows = np.arange(len(scores_BG))
    value_B1 = scores_BG[rows, target_B][:, None]
    values_BM = scores_BG[rows[:, None], columns_BM]
    beats = (values_BM > value_B1) | ((values_BM == value_B1) & (columns_BM < target_B[:, None]))
    ranks: Ints = 1 + np.count_nonzero(beats & (columns_BM >= 0), axis=1)
    return ranks


def top_columns(row_G: Scores, k: int, excluded: Sequence[int] | Ints = ()) -> Ints:
    """The ``k`` best columns of one row, best first, ties in gallery order, ``excluded`` columns left out."""
    wanted = k + len(excluded)
    bar = _low_bar(row_G, wanted) if wanted < len(row_G) else -np.inf
    candidates = np.flatnonzero(row_G >= bar)
    if len(excluded):
        candidates = candidates[~np.isin(candidates, excluded)]
    order = np.argsort(-row_G[candidates], kind="stable")[:k]
    best: Ints = candidates[order]
    return best


def _low_bar(row_G: Scores, k: int) -> float:
    """A score that at least ``k`` columns reach: the k-th best of the maxima of buckets of the row.

    One pass of maxima is several times cheaper than selecting in the whole row, and few more than ``k`` columns pass.
    """
    width = len(row_G) // max(BUCKETS, 2 * k)
    if width < 2:
        return float(np.partition(row_G, len(row_G) - k)[len(row_G) - k])
    buckets = len(row_G) // width
    maxima = row_G[: buckets * width].reshape(buckets, width).max(axis=1)
    return float(np.partition(maxima, buckets - k)[buckets - k])


def padded(columns: Sequence[Sequence[int]]) -> Ints:
    """Lists of columns as one array [Q, longest], filled up with -1."""
    width = max((len(row) for row in columns), default=0)
    array = np.full((len(columns), width), -1, dtype=np.int64)
    for index, row in enumerate(columns):
        array[index, : len(row)] = row
    return array
