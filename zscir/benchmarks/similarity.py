"""Cosine scores of query and gallery features, block by block, so that memory stays bounded.

Scores are float32 whatever the features are stored as. Gallery rows that are equal get equal scores: a matrix
product may round them differently in different columns, and then noise, not gallery order, would break their tie.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zscir.benchmarks.files import shortened
from zscir.benchmarks.ranking import Ints, NumpyScoreBlock, ScoreArray, as_float32
from zscir.runtime.errors import RequestError

FeatureArray = NDArray[np.float32]
SCORE_BLOCK_BYTES = 256 << 20
GALLERY_ROWS = 8192  # normalised at once: 25 MB of 768 dimensions
HEAD_BYTES = 8
SMALLEST_NORM = 1e-15  # below this the squares of float32 values begin to vanish


def unit_rows(features: NDArray[Any], where: str, what: str, full_array: NDArray[Any] | None = None) -> FeatureArray:
    """``features`` [..., D] as float32 with rows of length 1.

    RequestError names the rows that have no direction, of the ``full_array`` that ``features`` are a part of.
    """
    array = as_float32(features, where, f"{what} features")
    norms = np.sqrt(np.einsum("...d,...d->...", array, array))
    safe = np.isfinite(norms) & (norms > SMALLEST_NORM)
    if safe.all():
        units: FeatureArray = array / norms[..., None]
        return units
    units = (array / np.where(safe, norms, 1)[..., None]).astype(np.float32)
    for index in map(tuple, np.argwhere(~safe)):
        row = array[index].astype(np.float64)
        norm = np.linalg.norm(row)
        if not np.isfinite(norm) or norm == 0:
            raise _without_direction(features if full_array is None else full_array, where, what)
        units[index] = row / norm
    return units


def _without_direction(features: NDArray[Any], where: str, what: str) -> RequestError:
    """The error that names the rows and what is wrong with them; called only when there are some."""
    found = []
    for start in range(0, len(features), GALLERY_ROWS):
        part = as_float32(features[start : start + GALLERY_ROWS], where, f"{what} features")
        finite, zero = np.isfinite(part).all(axis=-1), (part == 0).all(axis=-1)
        for row, *rest in np.argwhere(~finite | zero).tolist():
            content = "only zeros" if zero[(row, *rest)] else "NaN or infinity"
            found.append(f"[{', '.join(map(str, (start + row, *rest)))}] holds {content}")
    listed = shortened(found, 10)
    return RequestError(f"{where}: {what} features {listed}; a cosine needs finite values, not all zero")


def score_blocks(
    query_QD: NDArray[Any], gallery_GD: NDArray[Any], where: str, block_bytes: int = SCORE_BLOCK_BYTES
) -> Iterator[tuple[slice, NumpyScoreBlock]]:
    """Yield (rows, cosines [rows, G]) for blocks of queries whose scores fit into ``block_bytes``."""
    query = unit_rows(query_QD, where, "query")
    copies, originals = repeated_rows(gallery_GD)
    for rows in row_blocks(len(query), len(gallery_GD), block_bytes):
        scores = _cosines(query[rows], gallery_GD, where)
        scores[:, copies] = scores[:, originals]
        yield rows, NumpyScoreBlock(scores)


def row_blocks(queries: int, width: int, block_bytes: int) -> Iterator[slice]:
    """Slices of the queries whose ``width`` float32 numbers each fit into ``block_bytes`` together."""
    rows_at_once = max(1, block_bytes // (4 * max(1, width)))
    for start in range(0, queries, rows_at_once):
        yield slice(start, min(start + rows_at_once, queries))


def _cosines(query_BD: FeatureArray, gallery_GD: NDArray[Any], where: str) -> ScoreArray:
    scores = np.empty((len(query_BD), len(gallery_GD)), dtype=np.float32)
    for start in range(0, len(gallery_GD), GALLERY_ROWS):
        part = unit_rows(gallery_GD[start : start + GALLERY_ROWS], where, "gallery", gallery_GD)
        np.matmul(query_BD, part.T, out=scores[:, start : start + GALLERY_ROWS])
    return scores


def repeated_rows(gallery_GD: NDArray[Any]) -> tuple[Ints, Ints]:
    """Columns whose gallery row occurred before, and the columns of its first occurrence."""
    array = np.ascontiguousarray(gallery_GD)
    seen: dict[bytes, int] = {}
    pairs = [(int(row), seen.setdefault(sha256(array[row]).digest(), int(row))) for row in _look_alikes(array)]
    again = np.array([pair for pair in pairs if pair[0] != pair[1]], dtype=np.int64).reshape(-1, 2)
    return again[:, 0], again[:, 1]


def _look_alikes(array: NDArray[Any]) -> Ints:
    """Rows that share their first 8 bytes with another row: a cheap test that nearly every row passes alone."""
    head_width = HEAD_BYTES // array.dtype.itemsize
    if array.shape[1] < head_width:
        return np.arange(len(array))
    heads = np.ascontiguousarray(array[:, :head_width]).view(np.uint64).ravel()
    _, which, counts = np.unique(heads, return_inverse=True, return_counts=True)
    return np.flatnonzero(counts[which] > 1)


def pairwise_cosines(
    query_BD: FeatureArray, candidates_BCD: NDArray[Any], where: str, full_array: NDArray[Any]
) -> ScoreArray:
    """Cosines [B, C] of each unit query with its own candidates (rows of ``full_array``); equal rows score equally."""
    candidates = unit_rows(candidates_BCD, where, "gallery", full_array)
    scores: ScoreArray = np.einsum("bd,bcd->bc", query_BD, candidates)
    return scores


def check_features(
    query: NDArray[Any], gallery: NDArray[Any], queries: int, gallery_shape: tuple[int, ...], where: str
) -> None:
    """RequestError unless ``query`` is [queries, D] and ``gallery`` is [*gallery_shape, D] with one D."""
    if query.ndim != 2 or len(query) != queries or query.shape[1] == 0:
        raise RequestError(f"{where}: query features have shape {query.shape}, expected ({queries}, D)")
    expected = (*gallery_shape, query.shape[1])
    if gallery.shape != expected:
        raise RequestError(f"{where}: gallery features have shape {gallery.shape}, expected {expected}")
