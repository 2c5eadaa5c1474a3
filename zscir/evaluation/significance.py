"""Per-query values of several evaluations become paired tests: which differences are more than luck of the queries.

FashionIQ's categories and GeneCIS's tasks are tested one by one, and together as the benchmark averages them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from zscir.benchmarks.breakdown import BenchmarkSplit
from zscir.benchmarks.comparability import ComparisonGroup, escape_markdown, markdown_row
from zscir.benchmarks.intervals import PairedTest, paired_test, paired_test_of_means
from zscir.benchmarks.metrics import MetricValues
from zscir.benchmarks.registry import benchmark_info, info_of_label
from zscir.evaluation.score_tables import ScoreGrid

_Row = Mapping[str, Any]


@dataclass(frozen=True)
class HeadlineValues:
    """One evaluation: the sheet of each benchmark and split, and the headline value of each query by its id."""

    sheets: Mapping[BenchmarkSplit, ComparisonGroup]
    values: Mapping[BenchmarkSplit, Mapping[str, float]]


def collect_headline_values(
    per_query: Sequence[_Row], sheets: Mapping[BenchmarkSplit, ComparisonGroup]
) -> HeadlineValues:
    """Only headline metrics are tested: of many tests some turn out "significant" by chance."""
    values: dict[BenchmarkSplit, dict[str, float]] = {}
    for row in per_query:
        if row["metric"] == _headline_metric(row["benchmark"]):
            values.setdefault((row["benchmark"], row["split"]), {})[row["query_id"]] = row["value"]
    return HeadlineValues(sheets, values)


def paired_test_rows(evaluations: Sequence[HeadlineValues]) -> Iterator[dict[str, Any]]:
    """A row for each pair of evaluations and each benchmark (category, task, mean over them) of which both asked the
    same queries under the same protocol."""
    for first, second in combinations(range(len(evaluations)), 2):
        for sheet, found in _tests(evaluations[first], evaluations[second]):
            yield {
                "first": first,
                "second": second,
                "benchmark": sheet.benchmark,
                "split": sheet.split,
                "ranking": sheet.protocol,
                "metric": found.metric,
                "difference": found.difference,
                "won": found.won,
                "lost": found.lost,
                "n": found.n,
                "p_value": found.p_value,
            }


def _tests(a: HeadlineValues, b: HeadlineValues) -> Iterator[tuple[ComparisonGroup, PairedTest]]:
    alike = [key for key in a.values if _alike(a, b, key)]
    pairs = {key: (_measure(key, a), _measure(key, b)) for key in alike}
    for key, pair in pairs.items():
        yield a.sheets[key], paired_test(*pair)
    for name, split in _means(a):
        whole = (f"{name}/mean", split)
        own = [key for key in a.values if key[0].split("/")[0] == name and key[1] == split]
        if all(key in pairs for key in own) and a.sheets[whole] == b.sheets.get(whole):
            yield a.sheets[whole], paired_test_of_means([pairs[key][0] for key in own], [pairs[key][1] for key in own])


def _alike(a: HeadlineValues, b: HeadlineValues, key: BenchmarkSplit) -> bool:
    same_queries = key in b.values and list(a.values[key]) == list(b.values[key])
    return same_queries and key in a.sheets and a.sheets[key] == b.sheets.get(key)


def _means(one: HeadlineValues) -> list[BenchmarkSplit]:
    """Benchmark and split of every mean over categories or tasks that the evaluation reports."""
    return [(name.removesuffix("/mean"), split) for name, split in one.sheets if name.endswith("/mean")]


def _headline_metric(label: str) -> str:
    """The one metric of a benchmark that paired tests compare."""
    return benchmark_info(label.split("/")[0]).headline_metrics[0]


def _measure(key: BenchmarkSplit, one: HeadlineValues) -> MetricValues:
    metric, values = _headline_metric(key[0]), np.array(list(one.values[key].values()))
    return MetricValues(metric, values, np.arange(len(values)), graded=not metric.startswith("R@"))


def paired_tests_markdown(grid: ScoreGrid, pairs: Sequence[_Row]) -> str:
    """A section of paired tests, the best of each column against all others; empty when nothing can be paired."""
    if not pairs:
        return ""
    names = [f"{number + 1}. {line.method}" for number, line in enumerate(grid.lines)]
    lines = [
        markdown_row(["column", "methods (by row)", "points", "queries won / lost", "p"]),
        markdown_row(["---"] * 5),
    ]
    for column in sorted(dict.fromkeys(_column(one) for one in pairs), key=_is_part):
        own = [one for one in pairs if _column(one) == column]
        best = _best_of(own)
        tests = [_test_cells(one, best, names) for one in own if best in (one["first"], one["second"])]
        lines += [markdown_row([escape_markdown(column), *cells]) for cells in tests]
    said = (
        "Same queries, two-sided: McNemar's exact test for R@K, sign flips for mAP and for means over categories or "
        "tasks (each query weighs as it does in the mean); not corrected for many tests."
    )
    return f"\n## Paired tests\n\n{said}\n\n" + "\n".join(lines) + "\n"


def _column(pair: _Row) -> str:
    return f"{pair['benchmark']} {pair['split']} ({pair['ranking']}) {pair['metric']}"


def _is_part(column: str) -> bool:
    """Categories and tasks come after whole benchmarks."""
    label = column.split(" ")[0]
    info = info_of_label(label)
    return info is not None and info.has_parts and label != info.whole_label


def _best_of(pairs: Sequence[_Row]) -> int:
    """The evaluation that is ahead of the others by most points; the first of equals."""
    lead: dict[int, float] = {}
    for one in pairs:
        lead[one["second"]] = lead.get(one["second"], 0.0) + one["difference"]
        lead[one["first"]] = lead.get(one["first"], 0.0) - one["difference"]
    return max(sorted(lead), key=lambda number: lead[number])


def _test_cells(pair: _Row, best: int, names: Sequence[str]) -> list[str]:
    """The cells of one test, seen from the best."""
    turned = pair["first"] == best
    other = pair["second"] if turned else pair["first"]
    points = -pair["difference"] if turned else pair["difference"]
    won, lost = (pair["lost"], pair["won"]) if turned else (pair["won"], pair["lost"])
    who = f"{escape_markdown(names[best])} against {escape_markdown(names[other])}"
    return [who, f"{points + 0.0:+.2f}", f"{won} / {lost} of {pair['n']}", f"{pair['p_value']:.2g}"]
