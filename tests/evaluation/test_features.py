"""How vectors of several texts, and of an image and texts, become one query vector: worked by hand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.evaluation import squares
from tests.methods import tiny
from zscir.evaluation.benchmark_images import BenchmarkImages
from zscir.evaluation.features import (
    average_text_embeddings,
    compose_query_embeddings,
    embed_benchmark_images,
    embed_texts,
    sum_query_embeddings,
)
from zscir.methods.clip import Clip
from zscir.methods.specs import ClipSpec
from zscir.store.artifacts import Artifact


def rows(*values: list[float]) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_both_orders_count_alike_however_long_their_vectors_are() -> None:
    both = average_text_embeddings(rows([3, 0], [0, 5]), [["a", "b"]])
    np.testing.assert_allclose(both, rows([0.5**0.5, 0.5**0.5]), rtol=1e-6)


def test_each_query_averages_its_own_texts_only() -> None:
    found = average_text_embeddings(rows([2, 0], [0, 2], [0, -7], [3, 4]), [["a", "b"], ["c"], ["d"]])
    np.testing.assert_allclose(found, rows([0.5**0.5, 0.5**0.5], [0, -1], [0.6, 0.8]), rtol=1e-6)


def test_a_sum_weighs_image_and_text_and_is_averaged_over_the_texts() -> None:
    found = sum_query_embeddings(rows([1, 0], [0, 1]), rows([0, 1], [1, 0], [0, 1]), [["a", "b"], ["c"]], 0.75, 1.0)
    first = np.array([0.75, 1.0]) / 1.25 + np.array([1.0, 0.0])
    np.testing.assert_allclose(found, np.stack([first / np.linalg.norm(first), [0, 1]]), rtol=1e-6)


def test_controls_are_the_extremes_and_the_middle_of_one_sum() -> None:
    stock, pixels, texts = Clip(tiny.towers(), ClipSpec()).eval(), tiny.pixels(2), ["is red", "is blue"]
    image, text = stock.gallery(pixels).numpy(), stock.embed_texts(texts).numpy()
    each = [[one] for one in texts]
    np.testing.assert_allclose(sum_query_embeddings(image, text, each, 1.0, 0.0), image, atol=1e-6)
    np.testing.assert_allclose(sum_query_embeddings(image, text, each, 0.0, 1.0), text, atol=1e-6)
    both = stock.queries(pixels, texts).numpy()
    np.testing.assert_allclose(sum_query_embeddings(image, text, each, 1.0, 1.0), both, atol=1e-6)


IDS = [f"dev-{number}" for number in range(9)]
TEXTS = [["a red picture", "is blue"], *([word] for word in ("white", "green", "blue", "red"))]
WORK: dict[str, Callable[[Clip, BenchmarkImages], np.ndarray]] = {
    "pictures": lambda method, pictures: embed_benchmark_images(method.gallery, pictures, IDS, tiny.PIXELS).vectors,
    "texts": lambda method, _: embed_texts(method.embed_texts, TEXTS),
    "queries": lambda method, pictures: compose_query_embeddings(method, pictures, IDS[:5], TEXTS, tiny.PIXELS),
}


@pytest.mark.parametrize("what", WORK)
def test_what_does_not_fit_into_memory_is_encoded_in_halves(tmp_path: Path, what: str) -> None:
    pictures = BenchmarkImages(Artifact.of_folder(squares.benchmarks(tmp_path / "benchmarks")), "cirr")
    method = Clip(tiny.towers(), ClipSpec())
    at_once = WORK[what](method, pictures)
    with tiny.little_memory(2) as refused:
        in_halves = WORK[what](method, pictures)
    assert refused == {torch.nn.Embedding if what == "texts" else torch.nn.Conv2d}
    np.testing.assert_allclose(in_halves, at_once, atol=1e-6)
