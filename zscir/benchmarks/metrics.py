"""Metrics from ranks: a value between 0 and 1 for each query, from which percentages, hits and intervals follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zscir.benchmarks.ranking import NOT_RANKED, Ints

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class MetricValues:
    """One metric on one benchmark: ``values`` [n] in 0..1 of the queries ``query_rows``; 0 or 1 unless ``graded``."""

    name: str
    values: FloatArray
    query_rows: Ints
    graded: bool = False

    @property
    def n(self) -> int:
        """How many queries the percentage is a mean of."""
        return len(self.values)

    @property
    def hits(self) -> int | None:
        """How many queries are right; None for a graded metric such as mAP."""
        return None if self.graded else int(self.values.sum())

    @property
    def percent(self) -> float:
        """100 x mean, in float64; public code divides in float32 (``percent32``)."""
        return 100.0 * float(self.values.sum()) / self.n


def metric_values_of(name: str, values: FloatArray | NDArray[np.bool_]) -> MetricValues:
    """A metric over all queries, in their order; graded unless the values are booleans."""
    return MetricValues(name, values.astype(np.float64), np.arange(len(values)), values.dtype != np.bool_)


def per_query_metric(name: str, values: Sequence[float]) -> MetricValues:
    """A metric from stored per-query values. Recalls are hits or misses, average precisions are graded."""
    return MetricValues(name, np.array(values), np.arange(len(values)), graded=not name.startswith("R@"))


def recalls(prefix: str, ranks_Q: Ints, cuts: Sequence[int]) -> list[MetricValues]:
    """``prefix@K`` for each K: is the target among the first K of the ranking?"""
    return [metric_values_of(f"{prefix}@{cut}", (ranks_Q > NOT_RANKED) & (ranks_Q <= cut)) for cut in cuts]


def average_precisions(ranks_QT: Ints, answers_Q: Ints, cut: int) -> FloatArray:
    """AP@K per query (CIRCO, section 3): precision at each right answer in the first K, over min(K, answers)."""
    ordered = np.sort(np.where(ranks_QT == NOT_RANKED, np.iinfo(np.int64).max, ranks_QT), axis=1)
    nth = np.arange(1, ranks_QT.shape[1] + 1)
    gains = np.where(ordered <= cut, nth / ordered, 0.0)  # the nth right answer at rank r: n of r are right
    # float64, as CIRCO's server: public code in float32 differs by less than 1e-8.
    precisions: FloatArray = gains.sum(axis=1) / np.minimum(cut, answers_Q)
    return precisions


def best_labels(ranks_QS: Ints, labels_QS: FloatArray, cut: int) -> FloatArray:
    """The highest label among the first K of the ranking, at least 0 (CIRPLANT's graded recall)."""
    inside = (ranks_QS > NOT_RANKED) & (ranks_QS <= cut)
    best: FloatArray = np.where(inside, labels_QS, 0.0).max(axis=1, initial=0.0)
    return best


def percent32(hits: int, n: int) -> float:
    """The number that public code prints: ``hits / n`` in float32, then times 100 in float64."""
    return float(np.float32(hits) / np.float32(n)) * 100
