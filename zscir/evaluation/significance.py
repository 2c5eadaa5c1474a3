"""Paired tests between evaluations, from per-query values: which differences are more than luck of the queries.

FashionIQ's categories and GeneCIS's tasks are tested one by one, and together as the benchmark averages them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from zscir.benchmarks.breakdown import BenchmarkSplit
from zscir.benchmarks.comparability import ComparisonGroup, escape_markdown, markdown_row
from zscir.benchmarks.intervals import PairedTest, paired_test, paired_test_of_means
from zscir.benchmarks.metrics import MetricValues, per_query_metric
from zscir.benchmarks.registry import benchmark_info, info_of_label
from zscir.evaluation.score_tables import ScoreGrid

_Row = Mapping[str, Any]


@dataclass(frozen=True)
class HeadlineValues:
    """One evaluation: the comparison group of each benchmark and split, and each query's headline value by its id."""

    groups: Mapping[BenchmarkSplit, ComparisonGroup]
    values: Mapping[BenchmarkSplit, Mapping[str, float]]


def collect_headline_values(
    per_query: Sequence[_Row], groups: Mapping[BenchmarkSplit, ComparisonGroup]
) -> HeadlineValues:
    """Only headline metrics are tested: of many tests some turn out "significant" by chance."""
    values: dict[BenchmarkSplit, dict[str, float]] = {}
    # In the order of the rows, which is that of the queries: pairing relies on it.
    for row in per_query:
        if row["metric"] == _headline_metric(row["benchmark"]):
            values.setdefault((row["benchmark"], row["split"]), {})[row["query_id"]] = row["value"]
    return HeadlineValues(groups, values)


def paired_test_rows(evaluations: Sequence[HeadlineValues]) -> Iterator[dict[str, Any]]:
    """A row for each pair of evaluations and each benchmark (category, task, mean over them) of which both have the
    same queries under the same protocol."""
    for first, second in combinations(range(len(evaluations)), 2):
        for group, found in _tests(evaluations[first], evaluations[second]):
            yield {
                "first": first,
                "second": second,
                "benchmark": group.benchmark,
                "split": group.split,
                "ranking": group.protocol,
                "metric": found.metric,
                "difference": found.difference,
                "won": found.won,
                "lost": found.lost,
                "n": found.n,
                "p_value": found.p_value,
            }


def _tests(a: HeadlineValues, b: HeadlineValues) -> Iterator[tuple[ComparisonGroup, PairedTest]]:
    comparable = [key for key in a.values if _are_comparable(a, b, key)]
    pairs = {key: (_headline_values(key, a), _headline_values(key, b)) for key in comparable}
    for key, pair in pairs.items():
        yield a.groups[key], paired_test(*pair)
    for name, split in _means(a):
        whole = (f"{name}/mean", split)
        parts = [key for key in a.values if key[0].split("/")[0] == name and key[1] == split]
        # All parts or none: a mean over two of three categories is another number than the one in the table.
        if all(key in pairs for key in parts) and a.groups[whole] == b.groups.get(whole):
            yield (
                a.groups[whole],
                paired_test_of_means([pairs[key][0] for key in parts], [pairs[key][1] for key in parts]),
            )


def _are_comparable(a: HeadlineValues, b: HeadlineValues, key: BenchmarkSplit) -> bool:
    # The same ids in the same order: evaluations that lack different images cannot be paired.
    same_queries = key in b.values and list(a.values[key]) == list(b.values[key])
    return same_queries and key in a.groups and a.groups[key] == b.groups.get(key)


def _means(evaluation: HeadlineValues) -> list[BenchmarkSplit]:
    """Benchmark and split of every mean over categories or tasks that the evaluation reports."""
    return [(name.removesuffix("/mean"), split) for name, split in evaluation.groups if name.endswith("/mean")]


def _headline_metric(label: str) -> str:
    """The one metric of a benchmark that paired tests compare."""
    return benchmark_info(label.split("/")[0]).headline_metrics[0]


def _headline_values(key: BenchmarkSplit, evaluation: HeadlineValues) -> MetricValues:
    return per_query_metric(_headline_metric(key[0]), list(evaluation.values[key].values()))


def paired_tests_markdown(grid: ScoreGrid, test_rows: Sequence[_Row]) -> str:
    """A section of paired tests, the best of each column against all others; empty when nothing can be paired."""
    if not test_rows:
        return ""
    names = [f"{number + 1}. {method.method}" for number, method in enumerate(grid.methods)]
    lines = [
        markdown_row(["column", "methods (by row)", "points", "queries won / lost", "p"]),
        markdown_row(["---"] * 5),
    ]
    for column in sorted(dict.fromkeys(_column(row) for row in test_rows), key=_is_part):
        of_column = [row for row in test_rows if _column(row) == column]
        best = _best_of(of_column)
        tests = [_test_cells(row, best, names) for row in of_column if best in (row["first"], row["second"])]
        lines += [markdown_row([escape_markdown(column), *cells]) for cells in tests]
    about = (
        "Same queries, two-sided: McNemar's exact test for R@K, sign flips for mAP and for means over categories or "
        "tasks (each query weighs as it does in the mean); not corrected for many tests."
    )
    return f"\n## Paired tests\n\n{about}\n\n" + "\n".join(lines) + "\n"


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
    for pair in pairs:
        lead[pair["second"]] = lead.get(pair["second"], 0.0) + pair["difference"]
        lead[pair["first"]] = lead.get(pair["first"], 0.0) - pair["difference"]
    return max(sorted(lead), key=lambda number: lead[number])


def _test_cells(pair: _Row, best: int, names: Sequence[str]) -> list[str]:
    """The cells of one test, as the best against the other."""
    is_reversed = pair["first"] == best  # a row says second minus first
    other = pair["second"] if is_reversed else pair["first"]
    points = -pair["difference"] if is_reversed else pair["difference"]
    won, lost = (pair["lost"], pair["won"]) if is_reversed else (pair["won"], pair["lost"])
    methods = f"{escape_markdown(names[best])} against {escape_markdown(names[other])}"
    # + 0.0 turns -0.0 into 0.0.
    return [methods, f"{points + 0.0:+.2f}", f"{won} / {lost} of {pair['n']}", f"{pair['p_value']:.2g}"]
