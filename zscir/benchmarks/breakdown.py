"""Break scores down by kind of change, by length of the text, and by the rank of the reference image itself.

A method that mostly repeats the reference image retrieves the reference first: the classic failure, shown as a share.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from zscir.benchmarks.intervals import bootstrap_percentages, confidence_interval
from zscir.benchmarks.metrics import per_query_metric
from zscir.benchmarks.registry import benchmark_info

_Row = Mapping[str, Any]
BenchmarkSplit = tuple[str, str]  # benchmark with its part, split
TEXT_LENGTH_BINS = ((5, "1-5 words"), (10, "6-10 words"), (20, "11-20 words"))
LONGEST_TEXTS = "21 words or more"
REFERENCE_RANKS = ((1, "reference first"), (10, "reference 2nd-10th"))
REFERENCE_LATER = "reference later"


def breakdown_rows(
    queries: Sequence[_Row], per_query: Sequence[_Row], protocols: Mapping[BenchmarkSplit, str], seed: int = 0
) -> Iterator[dict[str, Any]]:
    """Rows (benchmark, split, protocol, metric, by, group, value in percent, n, hits, bounds of the 95 % interval).

    ``by`` is words and reference (each benchmark's headline metric) and, where queries are labelled with kinds of
    change, aspect (CIRCO's own choice is mAP@10: its semantic_mAP@10).
    Where ``protocols`` have a mean over categories or tasks, ``<benchmark>/all`` holds all their queries together.
    """
    values = {(row["benchmark"], row["split"], row["query_id"], row["metric"]): row["value"] for row in per_query}
    means = {
        (label.removesuffix("/mean"), split): protocol
        for (label, split), protocol in protocols.items()
        if "/mean" in label
    }
    # The queries of all parts together are scored under the protocol of the mean.
    named = {**protocols, **{(f"{name}/all", split): protocol for (name, split), protocol in means.items()}}
    for (benchmark, split), query_rows in _rows_by_part(queries, set(means)).items():
        info = benchmark_info(benchmark.split("/")[0])
        headline = info.headline_metrics[0]
        for by, metric, groups_of, order in (
            ("words", headline, _words, (*(name for _, name in TEXT_LENGTH_BINS), LONGEST_TEXTS)),
            ("reference", headline, _reference_rank, (*(name for _, name in REFERENCE_RANKS), REFERENCE_LATER)),
            ("aspect", info.aspect_metric, _aspects, info.aspects),
        ):
            if metric is None:  # queries without labels of the kind of change
                continue
            groups: dict[str, list[float]] = {}
            for row in query_rows:
                value = values.get((row["benchmark"], split, row["query_id"], metric))
                if value is not None:
                    for group in groups_of(row):
                        groups.setdefault(group, []).append(value)
            for group in [*(name for name in order if name in groups), *sorted(groups.keys() - set(order))]:
                found = per_query_metric(metric, groups[group])
                draws = bootstrap_percentages(found, seed, f"{benchmark}:{metric}:{by}:{group}")
                low, high = confidence_interval(draws)
                yield {
                    "benchmark": benchmark,
                    "split": split,
                    "protocol": named.get((benchmark, split), ""),
                    "metric": metric,
                    "by": by,
                    "group": group,
                    "value": found.percent,
                    "n": found.n,
                    "hits": found.hits,
                    "low": low,
                    "high": high,
                }


def _rows_by_part(queries: Sequence[_Row], averaged: Collection[BenchmarkSplit]) -> dict[BenchmarkSplit, list[_Row]]:
    """The query rows of each category or task, and all together of a benchmark that is averaged over them."""
    by_part: dict[BenchmarkSplit, list[_Row]] = {}
    together: dict[BenchmarkSplit, list[_Row]] = {}
    for row in queries:
        by_part.setdefault((row["benchmark"], row["split"]), []).append(row)
        name = row["benchmark"].split("/")[0]
        if (name, row["split"]) in averaged:
            together.setdefault((f"{name}/all", row["split"]), []).append(row)
    return by_part | together


def _binned(value: int | None, bins: Sequence[tuple[int, str]], beyond: str) -> list[str]:
    if value is None:
        return []
    return [next((name for most, name in bins if value <= most), beyond)]


def _words(row: _Row) -> list[str]:
    return _binned(row["words"], TEXT_LENGTH_BINS, LONGEST_TEXTS)


def _reference_rank(row: _Row) -> list[str]:
    return _binned(row["reference_rank"], REFERENCE_RANKS, REFERENCE_LATER)


def _aspects(row: _Row) -> list[str]:
    found: list[str] = json.loads(row["aspects"])
    return found
