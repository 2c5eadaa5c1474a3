"""Pictures, texts and a method become unit vectors: of a gallery, and of queries (a query's texts are averaged)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zscir.evaluation.benchmark_images import BATCH, Pictures
from zscir.methods.oom_retry import in_halves
from zscir.methods.specs import PixelSpec
from zscir.runtime.errors import StageError

Vectors = NDArray[np.float32]
Texts = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Features:
    """Unit vectors [N, D] of ids."""

    ids: dict[str, int]
    vectors: Vectors

    def of(self, ids: Sequence[str]) -> Vectors:
        """The vectors of ``ids``, in that order."""
        rows: Vectors = self.vectors[[self.ids[one] for one in ids]]
        return rows


def embed_pictures(
    encode: Callable[[Tensor], Tensor], pictures: Pictures, ids: Sequence[str], pixels: PixelSpec
) -> Features:
    """The vectors that ``encode`` gives the images of ``ids``; every image is read once. Absent images have none.

    StageError when more are absent than ``pictures`` allows, or all of them.
    """
    label = f"{pictures.name}: {len(ids)} images"
    seen, parts = [], []
    for there, squares in pictures.squares(ids, pixels, label):
        seen += there
        parts.append(_numbers(in_halves(encode, torch.from_numpy(squares))))
    if not parts:
        raise StageError(f"{pictures.name}: none of its {len(ids)} images is there and can be read")
    return Features({one: row for row, one in enumerate(seen)}, np.concatenate(parts))


def embed_texts(encode: Callable[[Sequence[str]], Tensor], texts: Texts) -> Vectors:
    """The vectors of all texts of all queries, one after the other."""
    flat = [text for own in texts for text in own]
    batches = (flat[start : start + BATCH] for start in range(0, len(flat), BATCH))
    return np.concatenate([_numbers(in_halves(encode, batch)) for batch in batches])


def composed_queries(
    method: Any, pictures: Pictures, references: Sequence[str], texts: Texts, pixels: PixelSpec
) -> Vectors:
    """The method's query vectors [Q, D] of (reference image, texts)."""
    label = f"{pictures.name}: {len(references)} queries"
    parts, first = [], 0
    for _, squares in pictures.squares(references, pixels, label):
        own = texts[first : first + len(squares)]
        first += len(squares)
        owners = torch.tensor([row for row, some in enumerate(own) for _ in some])
        shown = torch.from_numpy(squares)[owners]
        flat = [text for some in own for text in some]
        batches = ((shown[at : at + BATCH], flat[at : at + BATCH]) for at in range(0, len(flat), BATCH))
        said = [in_halves(method.queries, *batch) for batch in batches]
        parts.append(averaged(_numbers(torch.cat(said)), own))
    return np.concatenate(parts)


def summed_queries(
    image_QD: Vectors, text_TD: Vectors, texts: Texts, image_weight: float, text_weight: float
) -> Vectors:
    """norm(text_weight x text + image_weight x image) of unit vectors, per text, then averaged per query."""
    owners = [row for row, own in enumerate(texts) for _ in own]
    weights = np.float32(text_weight), np.float32(image_weight)
    return averaged(weights[0] * text_TD + weights[1] * image_QD[owners], texts)


def averaged(vectors_TD: Vectors, texts: Texts) -> Vectors:
    """norm(mean of the unit vectors of each query's texts), as the public code does for both caption orders."""
    first = np.cumsum([0, *(len(own) for own in texts)])[:-1]
    return _unit(np.add.reduceat(_unit(vectors_TD), first, axis=0))


def _unit(vectors: Vectors) -> Vectors:
    unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _numbers(tensor: Tensor) -> Vectors:
    numbers: Vectors = tensor.float().cpu().numpy()
    return numbers
