"""How vectors of several texts, and of an image and texts, become one query vector: worked by hand."""

import numpy as np

from zscir.evaluation.features import averaged, summed_queries


def rows(*values: list[float]) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_both_orders_count_alike_however_long_their_vectors_are() -> None:
    both = averaged(rows([3, 0], [0, 5]), [["a", "b"]])
    np.testing.assert_allclose(both, rows([0.5**0.5, 0.5**0.5]), rtol=1e-6)


def test_each_query_averages_its_own_texts_only() -> None:
    found = averaged(rows([2, 0], [0, 2], [0, -7], [3, 4]), [["a", "b"], ["c"], ["d"]])
    np.testing.assert_allclose(found, rows([0.5**0.5, 0.5**0.5], [0, -1], [0.6, 0.8]), rtol=1e-6)


def test_a_sum_weighs_image_and_text_and_is_averaged_over_the_texts() -> None:
    found = summed_queries(rows([1, 0], [0, 1]), rows([0, 1], [1, 0], [0, 1]), [["a", "b"], ["c"]], 0.75, 1.0)
    first = np.array([0.75, 1.0]) / 1.25 + np.array([1.0, 0.0])
    np.testing.assert_allclose(found, np.stack([first / np.linalg.norm(first), [0, 1]]), rtol=1e-6)
