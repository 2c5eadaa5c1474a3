"""Measures become rows of the SCORES table: each number with everything that makes it comparable."""

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

    def row(self) -> dict[str, Any]:
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


def metric_scores(bench: Benchmark, measures: Sequence[MetricValues], label: ScoreLabel) -> list[MetricScore]:
    """The rows of one benchmark and of its derived metrics, as CIRR's mean of R@5 and Rsub@1."""
    by_name = {one.metric: one for one in measures}
    extra = [
        mean_metric_values(name, [by_name[part] for part in parts])
        for name, parts in bench.info.derived_metrics.items()
        if by_name.keys() >= set(parts)
    ]
    return [_metric_score(bench.label, bench.split, one, label) for one in [*measures, *extra]]


def macro_mean(parts: Sequence[tuple[Benchmark, Sequence[MetricValues]]], label: ScoreLabel) -> list[MetricScore]:
    """The unweighted mean over FashionIQ's categories or GeneCIS's tasks, as the literature prints it; n is the sum."""
    first = parts[0][0]
    rows = []
    for alike in zip(*(measures for _, measures in parts), strict=True):
        names = [f"{bench.label}:{one.metric}" for (bench, _), one in zip(parts, alike, strict=True)]
        draws = [bootstrap_percentages(one, label.seed, name) for one, name in zip(alike, names, strict=True)]
        low, high = confidence_interval(np.mean(draws, axis=0))
        hits = [one.hits for one in alike]
        total = None if None in hits else sum(hit for hit in hits if hit is not None)
        who = (f"{first.name}/mean", first.split, label.protocol, label.method, label.backbone)
        value = float(np.mean([one.percent for one in alike]))
        rows.append(MetricScore(*who, alike[0].metric, value, sum(one.n for one in alike), total, low, high))
    return rows


def _metric_score(benchmark: str, split: str, one: MetricValues, label: ScoreLabel) -> MetricScore:
    low, high = confidence_interval(bootstrap_percentages(one, label.seed, f"{benchmark}:{one.metric}"))
    who = (benchmark, split, label.protocol, label.method, label.backbone)
    return MetricScore(*who, one.metric, one.percent, one.n, one.hits, low, high)
