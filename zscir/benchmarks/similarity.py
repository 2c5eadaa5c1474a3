"""Query and gallery features become cosine scores, block by block, so that memory stays bounded.

Scores are float32 whatever the features are stored as. Gallery rows that are equal get equal scores: a matrix
product may round them differently in different columns, and then noise, not gallery order, would break their tie.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zscir.benchmarks.ranking import Ints, Scores, as_float32
from zscir.errors import RequestError

Features = NDArray[np.float32]
BLOCK_BYTES = 256 << 20
GALLERY_ROWS = 8192
HEAD_BYTES = 8
SMALLEST_NORM = 1e-15  # below this the squares of float32 values begin to vanish


def unit_rows(features: NDArray[Any], where: str, what: str) -> Features:
    """``features`` [..., D] as float32 with rows of length 1; RequestError names a row that has no direction."""
    array = as_float32(features, where, f"{what} features")
    norms = np.sqrt(np.einsum("...d,...d->...", array, array))
    plain = np.isfinite(norms) & (norms > SMALLEST_NORM)
    if plain.all():
        units: Features = array / norms[..., None]
        return units
    units = (array / np.where(plain, norms, 1)[..., None]).astype(np.float32)
    for index in map(tuple, np.argwhere(~plain)):
        row = array[index].astype(np.float64)
        norm = np.linalg.norm(row)
        if not np.isfinite(norm) or norm == 0:
            name = f"{what} features [{', '.join(map(str, index))}]"
            found = "only zeros" if norm == 0 else "NaN or infinity"
            raise RequestError(f"{where}: {name} holds {found}; a cosine needs finite values, not all zero")
        units[index] = row / norm
    return units


def score_blocks(
    query_QD: NDArray[Any], gallery_GD: NDArray[Any], where: str, block_bytes: int = BLOCK_BYTES
) -> Iterator[tuple[slice, Scores]]:
    """Yield (rows, cosines [rows, G]) for blocks of queries whose scores fit into ``block_bytes``."""
    query = unit_rows(query_QD, where, "query")
    copies, originals = repeated_rows(gallery_GD)
    rows_at_once = max(1, block_bytes // (4 * max(1, len(gallery_GD))))
    for start in range(0, len(query), rows_at_once):
        rows = slice(start, min(start + rows_at_once, len(query)))
        scores = _cosines(query[rows], gallery_GD, where)
        scores[:, copies] = scores[:, originals]
        yield rows, scores


def _cosines(query_BD: Features, gallery_GD: NDArray[Any], where: str) -> Scores:
    scores = np.empty((len(query_BD), len(gallery_GD)), dtype=np.float32)
    for start in range(0, len(gallery_GD), GALLERY_ROWS):
        part = _gallery_part(gallery_GD, start, where)
        np.matmul(query_BD, part.T, out=scores[:, start : start + GALLERY_ROWS])
    return scores


def _gallery_part(gallery_GD: NDArray[Any], start: int, where: str) -> Features:
    try:
        return unit_rows(gallery_GD[start : start + GALLERY_ROWS], where, "gallery")
    except RequestError as error:
        raise RequestError(f"{error} (row counted from {start})") from None if start else error


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


def pairwise_cosines(query_QD: NDArray[Any], candidates_QCD: NDArray[Any], where: str) -> Scores:
    """Cosines [Q, C] of each query with its own candidates; equal candidates get equal scores."""
    query = unit_rows(query_QD, where, "query")
    candidates = unit_rows(candidates_QCD, where, "gallery")
    scores: Scores = np.einsum("qd,qcd->qc", query, candidates)
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
