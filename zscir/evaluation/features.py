"""Pictures, texts and a method become unit vectors: of a gallery, and of queries (a query's texts are averaged)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zscir.evaluation.benchmark_images import ENCODE_BATCH_SIZE, BenchmarkImages
from zscir.methods.oom_retry import in_halves
from zscir.methods.protocol import Method
from zscir.methods.specs import ModelPixelSpec
from zscir.runtime.errors import StageError

EmbeddingArray = NDArray[np.float32]
QueryTexts = Sequence[Sequence[str]]


@dataclass(frozen=True)
class ImageEmbeddings:
    """Unit vectors [N, D] of ids."""

    ids: dict[str, int]
    vectors: EmbeddingArray

    def of(self, ids: Sequence[str]) -> EmbeddingArray:
        """The vectors of ``ids``, in that order."""
        rows: EmbeddingArray = self.vectors[[self.ids[one] for one in ids]]
        return rows


def embed_benchmark_images(
    encode: Callable[[Tensor], Tensor], pictures: BenchmarkImages, ids: Sequence[str], pixels: ModelPixelSpec
) -> ImageEmbeddings:
    """The vectors that ``encode`` gives the images of ``ids``; every image is read once. Absent images have none.

    StageError when more are absent than ``pictures`` allows, or all of them.
    """
    label = f"{pictures.name}: {len(ids)} images"
    seen, parts = [], []
    for there, squares in pictures.squares(ids, pixels, label):
        seen += there
        parts.append(_to_numpy(in_halves(encode, torch.from_numpy(squares))))
    if not parts:
        raise StageError(f"{pictures.name}: none of its {len(ids)} images is there and can be read")
    return ImageEmbeddings({one: row for row, one in enumerate(seen)}, np.concatenate(parts))


def embed_texts(encode: Callable[[Sequence[str]], Tensor], texts: QueryTexts) -> EmbeddingArray:
    """The vectors of all texts of all queries, one after the other."""
    flat = [text for own in texts for text in own]
    batches = (flat[start : start + ENCODE_BATCH_SIZE] for start in range(0, len(flat), ENCODE_BATCH_SIZE))
    return np.concatenate([_to_numpy(in_halves(encode, batch)) for batch in batches])


def compose_query_embeddings(
    method: Method, pictures: BenchmarkImages, references: Sequence[str], texts: QueryTexts, pixels: ModelPixelSpec
) -> EmbeddingArray:
    """The method's query vectors [Q, D] of (reference image, texts)."""
    label = f"{pictures.name}: {len(references)} queries"
    parts, first = [], 0
    for _, squares in pictures.squares(references, pixels, label):
        own = texts[first : first + len(squares)]
        first += len(squares)
        owners = torch.tensor([row for row, some in enumerate(own) for _ in some])
        shown = torch.from_numpy(squares)[owners]
        flat = [text for some in own for text in some]
        batches = (
            (shown[at : at + ENCODE_BATCH_SIZE], flat[at : at + ENCODE_BATCH_SIZE])
            for at in range(0, len(flat), ENCODE_BATCH_SIZE)
        )
        said = [in_halves(method.queries, *batch) for batch in batches]
        parts.append(average_text_embeddings(_to_numpy(torch.cat(said)), own))
    return np.concatenate(parts)


def sum_query_embeddings(
    image_QD: EmbeddingArray, text_TD: EmbeddingArray, texts: QueryTexts, image_weight: float, text_weight: float
) -> EmbeddingArray:
    """norm(text_weight x text + image_weight x image) of unit vectors, per text, then averaged per query."""
    owners = [row for row, own in enumerate(texts) for _ in own]
    weights = np.float32(text_weight), np.float32(image_weight)
    return average_text_embeddings(weights[0] * text_TD + weights[1] * image_QD[owners], texts)


def average_text_embeddings(vectors_TD: EmbeddingArray, texts: QueryTexts) -> EmbeddingArray:
    """norm(mean of the unit vectors of each query's texts), as the public code does for both caption orders."""
    first = np.cumsum([0, *(len(own) for own in texts)])[:-1]
    return _unit(np.add.reduceat(_unit(vectors_TD), first, axis=0))


def _unit(vectors: EmbeddingArray) -> EmbeddingArray:
    unit: EmbeddingArray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _to_numpy(tensor: Tensor) -> EmbeddingArray:
    numbers: EmbeddingArray = tensor.float().cpu().numpy()
    return numbers
