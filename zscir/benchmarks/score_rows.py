"""Rows of the SCORES table: each number with everything that makes it comparable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from zscir.benchmarks.benchmark import Benchmark
from zscir.benchmarks.intervals import bootstrap_percentages, confidence_interval, mean_metric_values
from zscir.benchmarks.metrics import MetricValues


@dataclass(frozen=True)
class MetricScore:
    """One number with everything that makes it comparable. ``low`` and ``high`` bound its 95 % bootstrap interval."""

    benchmark: str
    split: str
    protocol: str
    method: str
    backbone: str
    metric: str
    value: float
    n: int
    hits: int | None
    low: float
    high: float

    def score_row(self) -> dict[str, Any]:
        """The columns of the SCORES table."""
        return {name: value for name, value in asdict(self).items() if name not in ("hits", "low", "high")}


@dataclass(frozen=True)
class ScoreLabel:
    """Who scored and how: what stands in a row beside the number."""

    protocol: str
    method: str = ""
    backbone: str = ""
    seed: int = 0


def protocol_label(*parts: str) -> str:
    """``ranking protocol/text protocol/preprocessing``, as the table's header shows it."""
    return "/".join(part for part in parts if part)


def metric_scores(bench: Benchmark, metrics: Sequence[MetricValues], label: ScoreLabel) -> list[MetricScore]:
    """The rows of one benchmark and of its derived metrics, as CIRR's mean of R@5 and Rsub@1."""
    by_name = {metric.name: metric for metric in metrics}
    derived = [
        mean_metric_values(name, [by_name[part] for part in parts])
        for name, parts in bench.info.derived_metrics.items()
        if by_name.keys() >= set(parts)
    ]
    return [_metric_score(bench.label, bench.split, metric, label) for metric in [*metrics, *derived]]


def macro_mean(parts: Sequence[tuple[Benchmark, Sequence[MetricValues]]], label: ScoreLabel) -> list[MetricScore]:
    """The unweighted mean over FashionIQ's categories or GeneCIS's tasks, as the literature prints it; n is the sum."""
    first = parts[0][0]
    rows = []
    for same_metric in zip(*(metrics for _, metrics in parts), strict=True):  # of each part
        names = [f"{bench.label}:{metric.name}" for (bench, _), metric in zip(parts, same_metric, strict=True)]
        draws = [
            bootstrap_percentages(metric, label.seed, name) for metric, name in zip(same_metric, names, strict=True)
        ]
        low, high = confidence_interval(np.mean(draws, axis=0))
        hits = [metric.hits for metric in same_metric]
        total = None if None in hits else sum(hit for hit in hits if hit is not None)
        who = (f"{first.name}/mean", first.split, label.protocol, label.method, label.backbone)
        value, n = float(np.mean([metric.percent for metric in same_metric])), sum(metric.n for metric in same_metric)
        rows.append(MetricScore(*who, same_metric[0].name, value, n, total, low, high))
    return rows


def _metric_score(benchmark: str, split: str, metric: MetricValues, label: ScoreLabel) -> MetricScore:
    # The label in the name of the draw: adding a benchmark or a metric moves no other interval.
    low, high = confidence_interval(bootstrap_percentages(metric, label.seed, f"{benchmark}:{metric.name}"))
    who = (benchmark, split, label.protocol, label.method, label.backbone)
    return MetricScore(*who, metric.name, metric.percent, metric.n, metric.hits, low, high)
