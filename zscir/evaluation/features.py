"""Embed images, texts and queries with a method: unit vectors as NumPy arrays; a query's texts are averaged."""

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
    """Unit vectors [N, D], and the row of each image id."""

    row_of_id: dict[str, int]
    vectors: EmbeddingArray

    def rows_of(self, ids: Sequence[str]) -> EmbeddingArray:
        """The vectors [len(ids), D] of ``ids``, in that order."""
        rows: EmbeddingArray = self.vectors[[self.row_of_id[image_id] for image_id in ids]]
        return rows


def embed_benchmark_images(
    encode: Callable[[Tensor], Tensor], images: BenchmarkImages, ids: Sequence[str], pixels: ModelPixelSpec
) -> ImageEmbeddings:
    """The vectors that ``encode`` gives the images of ``ids``; every image is read once. Absent images have none.

    StageError when more are absent than ``images`` allows, or all of them.
    """
    label = f"{images.name}: {len(ids)} images"
    embedded: list[str] = []
    batches = []
    for batch_ids, batch_pixels in images.pixel_batches(ids, pixels, label):
        embedded += batch_ids
        batches.append(_to_numpy(in_halves(encode, torch.from_numpy(batch_pixels))))
    if not batches:
        raise StageError(f"{images.name}: none of its {len(ids)} images is there and can be read")
    return ImageEmbeddings({image_id: row for row, image_id in enumerate(embedded)}, np.concatenate(batches))


def embed_texts(encode: Callable[[Sequence[str]], Tensor], texts: QueryTexts) -> EmbeddingArray:
    """The vectors [T, D] of all texts of all queries, one after the other."""
    flat = [text for query_texts in texts for text in query_texts]
    batches = (flat[start : start + ENCODE_BATCH_SIZE] for start in range(0, len(flat), ENCODE_BATCH_SIZE))
    return np.concatenate([_to_numpy(in_halves(encode, batch)) for batch in batches])


def compose_query_embeddings(
    method: Method, images: BenchmarkImages, references: Sequence[str], texts: QueryTexts, pixels: ModelPixelSpec
) -> EmbeddingArray:
    """The method's query vectors [Q, D] of (reference image, texts)."""
    label = f"{images.name}: {len(references)} queries"
    batches, first = [], 0
    for _, batch_pixels in images.pixel_batches(references, pixels, label):
        batch_texts = texts[first : first + len(batch_pixels)]
        first += len(batch_pixels)
        # A query with two texts (FashionIQ's caption orders) is two rows of the same image.
        query_of_text = torch.tensor([row for row, query_texts in enumerate(batch_texts) for _ in query_texts])
        reference_pixels = torch.from_numpy(batch_pixels)[query_of_text]
        flat = [text for query_texts in batch_texts for text in query_texts]
        encoded = [
            in_halves(method.queries, reference_pixels[at : at + ENCODE_BATCH_SIZE], flat[at : at + ENCODE_BATCH_SIZE])
            for at in range(0, len(flat), ENCODE_BATCH_SIZE)
        ]
        batches.append(average_text_embeddings(_to_numpy(torch.cat(encoded)), batch_texts))
    return np.concatenate(batches)


def sum_query_embeddings(
    image_QD: EmbeddingArray, text_TD: EmbeddingArray, texts: QueryTexts, image_weight: float, text_weight: float
) -> EmbeddingArray:
    """norm(text_weight x text + image_weight x image) [Q, D] of unit vectors, per text, then averaged per query."""
    query_of_text = [row for row, query_texts in enumerate(texts) for _ in query_texts]
    weights = np.float32(text_weight), np.float32(image_weight)
    return average_text_embeddings(weights[0] * text_TD + weights[1] * image_QD[query_of_text], texts)


def average_text_embeddings(vectors_TD: EmbeddingArray, texts: QueryTexts) -> EmbeddingArray:
    """norm(mean of the unit vectors of each query's texts) [Q, D], as the public code does for both caption orders."""
    first_texts = np.cumsum([0, *(len(query_texts) for query_texts in texts)])[:-1]
    # The sum of a query's texts has the direction of their mean, and normalising takes the length away.
    # A query without a text would break reduceat: it gives an empty segment the next query's first row.
    return _unit(np.add.reduceat(_unit(vectors_TD), first_texts, axis=0))


def _unit(vectors: EmbeddingArray) -> EmbeddingArray:
    unit: EmbeddingArray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _to_numpy(tensor: Tensor) -> EmbeddingArray:
    # Ranked in float32: features rounded to fp16 moved R@1 and R@5 by a hit each in 4,181 queries, CIRR's number.
    numbers: EmbeddingArray = tensor.float().cpu().numpy()
    return numbers
