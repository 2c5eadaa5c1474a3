"""Per-query values of several evaluations become paired tests: which differences are more than luck of the queries."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from zscir.benchmarks.breakdown import HEADLINE
from zscir.benchmarks.intervals import compare
from zscir.benchmarks.measures import Measure

Row = Mapping[str, Any]
Key = tuple[str, str, str]  # benchmark (FashionIQ's categories and GeneCIS's tasks pooled), split, metric


def paired(
    evaluations: Sequence[Sequence[Row]], rankings: Sequence[Mapping[tuple[str, str], str]]
) -> Iterator[dict[str, Any]]:
    """A row for each pair of evaluations that asked the same queries under the same ranking protocol.

    ``rankings`` give each evaluation's protocol by (benchmark, split). Only headline metrics are tested: of many tests
    some turn out "significant" by chance.
    """
    pooled = [_pooled(rows) for rows in evaluations]
    for first, second in combinations(range(len(evaluations)), 2):
        for key in (one for one in pooled[first] if one in pooled[second]):
            (ids, a), (other_ids, b) = pooled[first][key], pooled[second][key]
            if ids == other_ids and rankings[first].get(key[:2]) == rankings[second].get(key[:2]):
                found = compare(a, b)
                yield {
                    "first": first, "second": second, "benchmark": key[0], "split": key[1],
                    "ranking": rankings[first].get(key[:2], ""), "metric": key[2], "difference": found.difference,
                    "won": found.won, "lost": found.lost, "n": found.n, "p_value": found.p_value,
                }  # fmt: skip


def _pooled(rows: Sequence[Row]) -> dict[Key, tuple[list[str], Measure]]:
    found: dict[Key, dict[str, float]] = {}
    for row in rows:
        name = row["benchmark"].split("/")[0]
        if row["metric"] == HEADLINE[name]:
            ids = found.setdefault((name, row["split"], row["metric"]), {})
            ids[f"{row['benchmark']}:{row['query_id']}"] = row["value"]
    return {key: (list(values), _measure(key[2], list(values.values()))) for key, values in found.items()}


def _measure(metric: str, values: list[float]) -> Measure:
    return Measure(metric, np.array(values), np.arange(len(values)), graded=not metric.startswith("R@"))
