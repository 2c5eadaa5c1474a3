"""Rank a gallery on a torch device: the same ranks and top lists as by NumPy, for galleries that take NumPy long.

The products are float32, never TF32 or bfloat16. Only what the metrics need comes back from the device: scores of
single columns, counts, and the heads of rankings. Ties rank in gallery order, as everywhere.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from zscir.benchmarks.ranking import Ints, ScoreArray, Scorer, as_float32
from zscir.benchmarks.similarity import (
    SCORE_BLOCK_BYTES,
    SMALLEST_NORM,
    FeatureArray,
    repeated_rows,
    row_blocks,
    score_blocks,
    unit_rows,
)
from zscir.runtime.errors import RequestError

DEVICE_GALLERY_ROWS = 1 << 15
DEVICE_COMPARED_AT_ONCE = 1 << 25  # elements; a comparison takes 3 bytes of each
SELECTED_AT_ONCE = 1 << 22  # elements; a selection takes 32 bytes of each


@dataclass(frozen=True)
class DeviceScoreBlock:
    """A ``ScoreBlock`` (zscir.benchmarks.ranking) whose scores [B, G] stay on their device."""

    scores_BG: Tensor

    def __len__(self) -> int:
        return len(self.scores_BG)

    def values(self, columns_BK: Ints) -> ScoreArray:
        """The scores [B, K] in those columns."""
        found: ScoreArray = self.scores_BG.gather(1, self._on_device(columns_BK).clamp(min=0)).cpu().numpy()
        return found

    def count_better(self, columns_BT: Ints) -> Ints:
        """How many items [B, T] of the whole gallery rank before each of those columns."""
        columns = self._on_device(columns_BT)
        values = self.scores_BG.gather(1, columns.clamp(min=0))
        counts = torch.zeros_like(columns)
        place_G = torch.arange(self.scores_BG.shape[1], device=self.scores_BG.device)
        for rows in row_blocks(len(self), len(place_G), 4 * DEVICE_COMPARED_AT_ONCE):
            part = self.scores_BG[rows]
            for slot in range(columns.shape[1]):
                value, column = values[rows, slot, None], columns[rows, slot, None]
                before = (part == value) & (place_G < column)
                counts[rows, slot] = before.logical_or_(part > value).sum(dim=1)
        beaten: Ints = counts.cpu().numpy()
        return beaten

    def best(self, k: int) -> Ints:
        """The first ``min(k, G)`` columns of the whole ranking: no two sort keys are equal, so no tie is left open."""
        width = self.scores_BG.shape[1]
        later_G = torch.arange(width - 1, -1, -1, device=self.scores_BG.device)
        # int64 keys of score and column, best first: topk keeps no order among ties by itself.
        heads = []
        for rows in row_blocks(len(self), width, 4 * SELECTED_AT_ONCE):
            # The low 32 bits count columns from the end: of equal scores the first in gallery order is largest.
            keys = (_sort_keys(self.scores_BG[rows]) << 32) + later_G
            heads.append(keys.topk(min(k, width), dim=1).indices)
        best: Ints = torch.cat(heads).cpu().numpy()
        return best

    def with_lowest_score(self, columns_B: Ints) -> "DeviceScoreBlock":
        """The same scores, but for one item of each query whose score becomes the lowest of its row."""
        lowest = self.scores_BG.amin(dim=1, keepdim=True)
        return DeviceScoreBlock(self.scores_BG.scatter(1, self._on_device(columns_B[:, None]), lowest))

    def _on_device(self, columns: Ints) -> Tensor:
        return torch.tensor(columns, dtype=torch.int64, device=self.scores_BG.device)


def _sort_keys(scores: Tensor) -> Tensor:
    """int64 that sort as the float32 do; adding zero makes -0 and 0 one number, as in a comparison."""
    bits = (scores + 0.0).view(torch.int32)
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(torch.int64)


def device_scorer(device: torch.device, block_bytes: int = SCORE_BLOCK_BYTES) -> Scorer:
    """A scorer for ``Benchmark.score_features`` and the like; the scores of one block take ``block_bytes`` there."""
    return partial(_score_blocks, device, block_bytes)


def scorer_from_name(name: str) -> Scorer:
    """``cpu``: the NumPy path; ``cuda`` or ``cuda:1``: that GPU. RequestError when there is none of that name."""
    if name == "cpu":
        return score_blocks
    kind, _, number = name.partition(":")
    if kind != "cuda" or not (number or "0").isdigit():
        raise RequestError(f"--device {name}: no such device; give cpu, cuda, or cuda:1 for the second GPU")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(number or 0) >= count:
        raise RequestError(
            f"--device {name}: torch {torch.__version__} sees {count} CUDA devices here; "
            "score on the CPU (leave --device out), or see `zscir doctor`"
        )
    return scorer_for_device(torch.device(name))


def scorer_for_device(device: torch.device) -> Scorer:
    """The scorer beside a model: on its GPU, and by NumPy where it has none."""
    return device_scorer(device) if device.type == "cuda" else score_blocks


def _score_blocks(
    device: torch.device, block_bytes: int, query_QD: NDArray[Any], gallery_GD: NDArray[Any], where: str
) -> Iterator[tuple[slice, DeviceScoreBlock]]:
    """As ``similarity.score_blocks``, on ``device``."""
    # Queries are few and normalised by NumPy, which names the rows that have no direction.
    query = unit_rows(query_QD, where, "query")
    copies, originals = (torch.from_numpy(columns).to(device) for columns in repeated_rows(gallery_GD))
    for rows in row_blocks(len(query), len(gallery_GD), block_bytes):
        with torch.inference_mode(), _full_float32():
            scores = _cosines(torch.from_numpy(query[rows]).to(device), gallery_GD, where)
            # Equal rows must tie exactly: a product may differ in its last bit with the place of a row in its block.
            scores[:, copies] = scores[:, originals]
        yield rows, DeviceScoreBlock(scores)


def _cosines(query_BD: Tensor, gallery_GD: NDArray[Any], where: str) -> Tensor:
    scores = torch.empty((len(query_BD), len(gallery_GD)), device=query_BD.device)
    for start in range(0, len(gallery_GD), DEVICE_GALLERY_ROWS):
        # Block by block: CIRCO's gallery of 123,403 rows need not lie on the device as a whole.
        part = _unit_part(gallery_GD[start : start + DEVICE_GALLERY_ROWS], gallery_GD, where, query_BD.device)
        torch.matmul(query_BD, part.T, out=scores[:, start : start + DEVICE_GALLERY_ROWS])
    return scores


def _unit_part(part: NDArray[Any], whole: NDArray[Any], where: str, device: torch.device) -> Tensor:
    """Rows of length 1; rows whose length overflows or vanishes in float32 are normalised, or refused, by NumPy."""
    rows = torch.tensor(as_float32(part, where, "gallery features"), device=device)
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    if bool((norms.isfinite() & (norms > SMALLEST_NORM)).all()):
        units: Tensor = rows / norms
        return units
    normalised: FeatureArray = unit_rows(part, where, "gallery", whole)
    return torch.from_numpy(normalised).to(device)


@contextmanager
def _full_float32() -> Iterator[None]:
    """Products in float32 whatever training in this process has set; its settings are restored afterwards.

    Autocast leaves a product alone that is written into a given tensor, as here.
    """
    kinds: list[Any] = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul")]  # noqa: B009 - torch has no type stub for it
    settings = [kind.fp32_precision for kind in kinds]
    for kind in kinds:
        kind.fp32_precision = "ieee"
    try:
        yield
    finally:
        for kind, setting in zip(kinds, settings, strict=True):
            kind.fp32_precision = setting
