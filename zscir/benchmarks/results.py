"""Compute what is kept of an evaluation from features: metrics, top lists, and a row per query."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from zscir.benchmarks.benchmark import Benchmark, concatenate_rank_arrays
from zscir.benchmarks.metrics import MetricValues
from zscir.benchmarks.ranking import ScoreBlock, Scorer, padded, ranks_of
from zscir.benchmarks.similarity import score_blocks

RANKING_DEPTH = 50  # what CIRR's and CIRCO's servers take, and the largest K of R@K and mAP@K
_Row = dict[str, Any]


@dataclass(frozen=True)
class BenchmarkResults:
    """``rankings`` and ``queries`` are rows of the tables of those names; no metrics where only a server can judge."""

    metrics: list[MetricValues]
    rankings: list[_Row]
    queries: list[_Row]


def compute_results(
    bench: Benchmark,
    query_QD: NDArray[Any],
    gallery: NDArray[Any],
    texts: Sequence[Sequence[str]],
    scorer: Scorer = score_blocks,
) -> BenchmarkResults:
    """One pass over the scores, in blocks of bounded memory."""
    ranks, rankings, queries = [], [], []
    for rows, block in bench.blocks(query_QD, gallery, scorer):
        if bench.has_answers:
            ranks.append(bench.rank_arrays(block, rows))
        for result in _query_results(bench, rows, block):
            rankings += list(result.ranking_rows())
            queries.append(result.query_row(texts[result.row]))
    metrics = bench.metrics_from_ranks(concatenate_rank_arrays(ranks)) if ranks else []
    return BenchmarkResults(metrics, rankings, queries)


def _query_results(bench: Benchmark, rows: slice, block: ScoreBlock) -> Iterator[_QueryResult]:
    """The results of each query of a block, from which the rows of the tables are made."""
    # All queries of a block at once: on a GPU each call is a transfer.
    numbers = range(rows.start, rows.start + len(block))
    best = padded([list(row) for row in bench.top(block, rows, RANKING_DEPTH)])
    targets = padded([bench.target_columns(row) for row in numbers])
    reference_columns = [bench.reference_column(row) for row in numbers]
    references = padded([[-1 if column is None else column] for column in reference_columns])
    excluded = padded([list(bench.excluded_columns(row)) for row in numbers])
    ranks = ranks_of(block, targets, excluded)
    # Ranked among all, also where the protocol takes references out: how often a method gives back what it was shown.
    reference_ranks = ranks_of(block, references, padded([[]] * len(block)))
    listed, answers = block.values(best), block.values(targets)
    for i, row in enumerate(numbers):
        top = [(rank, c, v) for rank, (c, v) in enumerate(zip(best[i], listed[i], strict=True), start=1) if c >= 0]
        right = [(rank, c, v) for rank, c, v in zip(ranks[i], targets[i], answers[i], strict=True) if c >= 0]
        yield _QueryResult(bench, row, top, right, int(reference_ranks[i, 0]))


@dataclass(frozen=True)
class _QueryResult:
    """One query: (rank, column, score) of its top list and of its right answers, and its reference's rank (0: none)."""

    bench: Benchmark
    row: int
    top: Sequence[tuple[Any, Any, Any]]
    targets: Sequence[tuple[Any, Any, Any]]
    reference_rank: int

    def ranking_rows(self) -> Iterator[_Row]:
        """The top list, then the right answers that are not in it."""
        names, query = self.bench.candidate_ids(self.row), self.bench.queries[self.row]
        listed = {column for _, column, _ in self.top}
        for rank, column, score in [*self.top, *sorted(target for target in self.targets if target[1] not in listed)]:
            yield {
                "benchmark": self.bench.label,
                "split": self.bench.split,
                "query_id": query.query_id,
                "rank": int(rank),
                "image_id": names[column],
                "score": float(score),
            }

    def query_row(self, texts: Sequence[str]) -> _Row:
        """The query, and the ranks of the right answers and of the reference itself."""
        query = self.bench.queries[self.row]
        ranks = [int(rank) for rank, _, _ in self.targets]
        return {
            "benchmark": self.bench.label,
            "split": self.bench.split,
            "query_id": query.query_id,
            "reference": query.reference,
            "text": texts[0] if texts else "",
            "targets": json.dumps(list(query.targets)),
            "target_rank": ranks[0] if ranks else None,
            "best_rank": min(ranks) if ranks else None,
            "reference_rank": self.reference_rank or None,
            "words": len(" ".join(query.captions).split()),  # of the captions, not of the template around them
            "aspects": json.dumps(list(query.aspects)),
        }


def per_query_rows(bench: Benchmark, metrics: Sequence[MetricValues]) -> Iterator[_Row]:
    """A row per metric and query: what paired tests between two methods need."""
    for metric in metrics:
        for row, value in zip(metric.query_rows, metric.values, strict=True):
            yield {
                "benchmark": bench.label,
                "split": bench.split,
                "metric": metric.name,
                "query_id": bench.queries[row].query_id,
                "value": float(value),
            }
