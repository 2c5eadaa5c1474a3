"""Query and gallery features become all that is kept of an evaluation: measures, top lists, and a row per query."""

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

RANKING_DEPTH = 50
_Row = dict[str, Any]


@dataclass(frozen=True)
class BenchmarkResults:
    """``rankings`` and ``queries`` are rows of the tables of those names; no measures where only a server can judge."""

    measures: list[MetricValues]
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
    parts, rankings, queries = [], [], []
    for rows, block in bench.blocks(query_QD, gallery, scorer):
        if bench.answered:
            parts.append(bench.parts_of(block, rows))
        for place in _query_results(bench, rows, block):
            rankings += list(place.ranking())
            queries.append(place.query_row(texts[place.row]))
    return BenchmarkResults(bench.measures_of(concatenate_rank_arrays(parts)) if parts else [], rankings, queries)


def _query_results(bench: Benchmark, rows: slice, block: ScoreBlock) -> Iterator[_QueryResult]:
    """What the rows of the tables need to know of each query of a block."""
    numbers = range(rows.start, rows.start + len(block))
    best = padded([list(row) for row in bench.top(block, rows, RANKING_DEPTH)])
    targets = padded([bench.target_columns(row) for row in numbers])
    references = padded([[-1 if (own := bench.reference_column(row)) is None else own] for row in numbers])
    excluded = padded([list(bench.excluded_columns(row)) for row in numbers])
    ranks, shown = ranks_of(block, targets, excluded), ranks_of(block, references, padded([[]] * len(block)))
    listed, answers = block.values(best), block.values(targets)
    for i, row in enumerate(numbers):
        top = [(rank, c, v) for rank, (c, v) in enumerate(zip(best[i], listed[i], strict=True), start=1) if c >= 0]
        right = [(rank, c, v) for rank, c, v in zip(ranks[i], targets[i], answers[i], strict=True) if c >= 0]
        yield _QueryResult(bench, row, top, right, int(shown[i, 0]))


@dataclass(frozen=True)
class _QueryResult:
    """One query: (rank, column, score) of its top list and of its right answers, and its reference's rank (0: none)."""

    bench: Benchmark
    row: int
    top: Sequence[tuple[Any, Any, Any]]
    right: Sequence[tuple[Any, Any, Any]]
    reference_rank: int

    def ranking(self) -> Iterator[_Row]:
        """The top list, then the right answers that are not in it."""
        names, query = self.bench.candidate_ids(self.row), self.bench.queries[self.row]
        listed = {column for _, column, _ in self.top}
        for rank, column, score in [*self.top, *sorted(one for one in self.right if one[1] not in listed)]:
            yield {
                "benchmark": self.bench.label,
                "split": self.bench.split,
                "query_id": query.query_id,
                "rank": int(rank),
                "image_id": names[column],
                "score": float(score),
            }

    def query_row(self, texts: Sequence[str]) -> _Row:
        """What was asked, and where the right answers and the reference itself came out."""
        query = self.bench.queries[self.row]
        ranks = [int(rank) for rank, _, _ in self.right]
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
            "words": len(" ".join(query.captions).split()),
            "aspects": json.dumps(list(query.aspects)),
        }


def per_query_rows(bench: Benchmark, measures: Sequence[MetricValues]) -> Iterator[_Row]:
    """A row per metric and query: what paired tests between two methods need."""
    for one in measures:
        for row, value in zip(one.rows, one.values, strict=True):
            yield {
                "benchmark": bench.label,
                "split": bench.split,
                "metric": one.metric,
                "query_id": bench.queries[row].query_id,
                "value": float(value),
            }
