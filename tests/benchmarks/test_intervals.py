from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from zscir.benchmarks.intervals import (
    bootstrap_percentages,
    confidence_interval,
    mean_metric_values,
    paired_test,
    paired_test_of_means,
)
from zscir.benchmarks.metrics import MetricValues, metric_values_of
from zscir.runtime.errors import RequestError


def hits(pattern: str) -> MetricValues:
    return metric_values_of("R@1", np.array([letter == "1" for letter in pattern]))


def test_an_interval_holds_the_value_and_narrows_with_n() -> None:
    few, many = hits("10" * 20), hits("10" * 2000)
    (low_few, high_few), (low, high) = (
        confidence_interval(bootstrap_percentages(few, 0, "a")),
        confidence_interval(bootstrap_percentages(many, 0, "a")),
    )
    assert low_few < low < 50 < high < high_few
    assert high - low == pytest.approx(2 * 1.96 * 100 * np.sqrt(0.25 / 4000), rel=0.1)


def test_a_graded_metric_is_resampled_query_by_query() -> None:
    values = np.random.default_rng(0).random(500)
    low, high = confidence_interval(bootstrap_percentages(metric_values_of("mAP@5", values), 0, "a"))
    expected = 100 * 1.96 * values.std() / np.sqrt(500)
    assert (high - low) / 2 == pytest.approx(expected, rel=0.1)


def test_draws_depend_on_seed_and_name_only() -> None:
    one = metric_values_of("mAP@5", np.random.default_rng(0).random(50))
    assert np.array_equal(bootstrap_percentages(one, 1, "circo:mAP@5"), bootstrap_percentages(one, 1, "circo:mAP@5"))
    assert not np.array_equal(
        bootstrap_percentages(one, 1, "circo:mAP@5"), bootstrap_percentages(one, 2, "circo:mAP@5")
    )
    assert not np.array_equal(
        bootstrap_percentages(one, 1, "circo:mAP@5"), bootstrap_percentages(one, 1, "circo:mAP@10")
    )


@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 5))
def test_paired_hits_are_tested_exactly(won: int, lost: int, tied: int) -> None:
    if won + lost + tied == 0:
        return
    found = paired_test(hits("0" * won + "1" * lost + "1" * tied), hits("1" * won + "0" * lost + "1" * tied))
    assert (found.won, found.lost, found.n) == (won, lost, won + lost + tied)
    assert found.difference == pytest.approx(100 * (won - lost) / found.n)
    expected = binomtest(won, won + lost).pvalue if won + lost else 1.0
    assert found.p_value == pytest.approx(expected)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 100))
def test_graded_values_are_tested_by_flipping_signs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    base = rng.random(60) * 0.5
    better, same = base + 0.1 + 0.1 * rng.random(60), base + rng.permutation(np.repeat([0.01, -0.01], 30))
    assert paired_test(metric_values_of("mAP@5", base), metric_values_of("mAP@5", better)).p_value == pytest.approx(
        1 / 10_001
    )
    assert paired_test(metric_values_of("mAP@5", base), metric_values_of("mAP@5", same)).p_value > 0.9
    assert paired_test(metric_values_of("mAP@5", base), metric_values_of("mAP@5", base)).p_value == 1


def test_only_the_same_queries_and_metric_can_be_paired() -> None:
    with pytest.raises(RequestError, match="other metric or other queries"):
        paired_test(hits("10"), hits("101"))


def test_the_mean_of_two_metrics_is_taken_query_by_query() -> None:
    mean = mean_metric_values("m", [hits("1100"), hits("1010")])
    assert mean.values.tolist() == [1, 0.5, 0.5, 0]
    assert (mean.percent, mean.hits) == (50, None)


def mean_of_parts(parts: list[MetricValues]) -> float:
    return float(np.mean([part.percent for part in parts]))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(2, 4), min_size=1, max_size=3), st.integers(0, 1000))
def test_a_mean_over_parts_is_tested_as_every_pattern_of_signs_would_be(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = ([metric_values_of("R@1", rng.random(size) < 0.5) for size in sizes] for _ in range(2))
    found = paired_test_of_means(a, b)
    assert found.difference == pytest.approx(mean_of_parts(b) - mean_of_parts(a))
    gains = np.concatenate([(two.values - one.values) / one.n for one, two in zip(a, b, strict=True)])
    gains = gains[gains != 0]
    signs = np.array(list(product((-1, 1), repeat=len(gains)))).reshape(2 ** len(gains), len(gains))
    exact = np.mean(np.abs(signs @ gains) >= abs(gains.sum()) * (1 - 1e-12))
    assert found.p_value == pytest.approx(exact, abs=0.025)  # 5 standard errors of 10,000 draws
    assert (found.won, found.lost, found.n) == (int((gains > 0).sum()), int((gains < 0).sum()), sum(sizes))


def test_small_parts_weigh_as_much_as_large_ones_in_a_mean() -> None:
    """Nine queries won in a part of 10 outweigh 20 lost in a part of 1000, which pooling would turn round."""
    a = [hits("0" * 10), hits("1" * 20 + "0" * 980)]
    b = [hits("1" * 9 + "0"), hits("0" * 1000)]
    assert paired_test_of_means(a, b).difference == pytest.approx((90 - 2) / 2)
    pooled = paired_test(hits("0" * 10 + "1" * 20 + "0" * 980), hits("1" * 9 + "0" + "0" * 1000))
    assert pooled.difference < 0


def test_means_over_other_parts_are_not_paired() -> None:
    with pytest.raises(RequestError, match="other parts or other metrics"):
        paired_test_of_means([hits("10")], [hits("10"), hits("10")])
