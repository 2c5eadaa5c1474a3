"""Bootstrap intervals (95 %) and paired tests between two methods, from per-query values; every draw has a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import comb

import numpy as np
from numpy.typing import NDArray

from zscir.benchmarks.metrics import FloatArray, MetricValues
from zscir.runtime.errors import RequestError

RESAMPLES = 1000
FLIPS = 10_000  # the standard error of a p near 0.05 is then 0.002
DRAWN_AT_ONCE = 1 << 22  # elements: bounds the memory of the draws, and is part of every drawn number


@dataclass(frozen=True)
class PairedTest:
    """Method ``b`` minus method ``a`` on the same queries: points of percent, queries won and lost, two-sided p."""

    metric: str
    difference: float
    won: int
    lost: int
    n: int
    p_value: float


def seeded_generator(seed: int, name: str) -> np.random.Generator:
    """A generator of its own for ``name``: adding a metric moves no other metric's interval."""
    return np.random.default_rng(int.from_bytes(sha256(f"{seed}:{name}".encode()).digest()[:8], "big"))


def bootstrap_percentages(metric: MetricValues, seed: int, name: str, resamples: int = RESAMPLES) -> FloatArray:
    """Percentages [resamples] of resamples of the queries with replacement."""
    rng = seeded_generator(seed, name)
    if metric.hits is not None:  # resampling 0/1 values and counting the ones is one binomial draw
        return 100.0 * rng.binomial(metric.n, metric.hits / metric.n, resamples) / metric.n
    rows = max(1, DRAWN_AT_ONCE // metric.n)
    chunks = [
        metric.values[rng.integers(0, metric.n, (min(rows, resamples - start), metric.n))].mean(axis=1)
        for start in range(0, resamples, rows)
    ]
    return 100.0 * np.concatenate(chunks)


def confidence_interval(percentages: FloatArray) -> tuple[float, float]:
    """The central 95 % of resampled percentages."""
    low, high = np.quantile(percentages, (0.025, 0.975))
    return float(low), float(high)


def mean_metric_values(name: str, parts: Sequence[MetricValues]) -> MetricValues:
    """The per-query mean of metrics over the same queries, as CIRR's (R@5 + Rsub@1) / 2."""
    return MetricValues(name, np.mean([part.values for part in parts], axis=0), parts[0].query_rows, graded=True)


def paired_test(a: MetricValues, b: MetricValues, seed: int = 0) -> PairedTest:
    """Is ``b`` better than ``a``? McNemar's exact test for hits, a sign-flip test for graded values.

    RequestError unless both are the same metric of the same queries.
    """
    if a.name != b.name or not np.array_equal(a.query_rows, b.query_rows):
        raise RequestError(f"cannot pair {a.name} (n {a.n}) with {b.name} (n {b.n}): other metric or other queries")
    gains: FloatArray = b.values - a.values
    won, lost = int((gains > 0).sum()), int((gains < 0).sum())
    p_value = _sign_flips(gains[gains != 0], seeded_generator(seed, a.name)) if a.graded else _mcnemar(won, lost)
    return PairedTest(a.name, b.percent - a.percent, won, lost, a.n, p_value)


def paired_test_of_means(a: Sequence[MetricValues], b: Sequence[MetricValues], seed: int = 0) -> PairedTest:
    """Is ``b`` better than ``a`` in the unweighted mean over their parts (FashionIQ's categories, GeneCIS's tasks)?

    A sign-flip test in which each query's gain weighs as it does in the mean, 1 / (parts x queries of its part).
    """
    if len(a) != len(b) or any(part.name != b[0].name for part in b):
        raise RequestError(f"cannot pair the means of {len(a)} and {len(b)} parts: other parts or other metrics")
    pairs = list(zip(a, b, strict=True))
    parts = [paired_test(first, second, seed) for first, second in pairs]
    gains: FloatArray = np.concatenate([(second.values - first.values) / first.n for first, second in pairs])
    difference = float(np.mean([part.difference for part in parts]))
    p_value = _sign_flips(gains[gains != 0], seeded_generator(seed, a[0].name))
    won, lost, n = (sum(getattr(part, name) for part in parts) for name in ("won", "lost", "n"))
    return PairedTest(a[0].name, difference, won, lost, n, p_value)


def _mcnemar(won: int, lost: int) -> float:
    """Two-sided: how often would a fair coin split the discordant queries at least this unevenly?"""
    tail = sum(comb(won + lost, k) for k in range(min(won, lost) + 1))
    return float(min(1.0, 2 * tail / 2 ** (won + lost)))


def _sign_flips(gains: FloatArray, rng: np.random.Generator) -> float:
    """Share of random sign patterns whose total is at least as far from 0; the observed pattern counts as one."""
    if not len(gains):
        return 1.0
    observed = abs(gains.sum()) * (1 - 1e-12)  # a pattern with the same total must count, whatever its rounding
    rows = max(1, DRAWN_AT_ONCE // len(gains))
    as_far = 1
    for start in range(0, FLIPS, rows):
        flips: NDArray[np.int8] = rng.integers(0, 2, (min(rows, FLIPS - start), len(gains)), dtype=np.int8)
        as_far += int((np.abs((2.0 * flips - 1.0) @ gains) >= observed).sum())
    return as_far / (FLIPS + 1)
