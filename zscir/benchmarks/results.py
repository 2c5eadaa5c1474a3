"""Query and gallery features become all that is kept of an evaluation: measures, top lists, and a row per query."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zscir.benchmarks.bench import Benchmark
from zscir.benchmarks.measures import Measure
from zscir.benchmarks.ranking import Ints, Scores, rank_of

DEPTH = 50
Row = dict[str, Any]


@dataclass(frozen=True)
class Results:
    """``rankings`` and ``queries`` are rows of the tables of those names; no measures where only a server can judge."""

    measures: list[Measure]
    rankings: list[Row]
    queries: list[Row]


def results_of(
    bench: Benchmark, query_QD: NDArray[Any], gallery: NDArray[Any], texts: Sequence[Sequence[str]]
) -> Results:
    """One pass over the scores, in blocks of bounded memory."""
    parts, rankings, queries = [], [], []
    for rows, scores in bench.blocks(query_QD, gallery):
        if bench.answered:
            parts.append(bench.parts_of(scores, rows))
        for index, best in enumerate(bench.top(scores, rows, DEPTH)):
            place = _Place(bench, rows.start + index, scores[index])
            rankings += list(place.ranking(best))
            queries.append(place.query_row(texts[rows.start + index]))
    names = parts[0] if parts else {}
    joined = {name: np.concatenate([part[name] for part in parts]) for name in names}
    return Results(bench.measures_of(joined) if parts else [], rankings, queries)


@dataclass(frozen=True)
class _Place:
    """One query and its scores."""

    bench: Benchmark
    row: int
    scores_G: Scores

    def ranking(self, best: Ints) -> Iterator[Row]:
        """The top list, then the right answers that are not in it."""
        names, query = self.bench.candidate_ids(self.row), self.bench.queries[self.row]
        places = [(rank, int(column)) for rank, column in enumerate(best, start=1)]
        listed = {column for _, column in places}
        later = [column for column in self.bench.target_columns(self.row) if column not in listed]
        places += sorted((self.rank(column), column) for column in later)
        for rank, column in places:
            yield {
                "benchmark": self.bench.label, "split": self.bench.split, "query_id": query.query_id, "rank": rank,
                "image_id": names[column], "score": float(self.scores_G[column]),
            }  # fmt: skip

    def rank(self, column: int) -> int:
        return rank_of(self.scores_G, column, self.bench.excluded_columns(self.row))

    def query_row(self, texts: Sequence[str]) -> Row:
        """What was asked, and where the right answers and the reference itself came out."""
        query, reference = self.bench.queries[self.row], self.bench.reference_column(self.row)
        ranks = [self.rank(column) for column in self.bench.target_columns(self.row)]
        return {
            "benchmark": self.bench.label,
            "split": self.bench.split,
            "query_id": query.query_id,
            "reference": query.reference,
            "text": texts[0] if texts else "",
            "targets": json.dumps(list(query.targets)),
            "target_rank": ranks[0] if ranks else None,
            "best_rank": min(ranks) if ranks else None,
            "reference_rank": None if reference is None else rank_of(self.scores_G, reference),
            "words": len(" ".join(query.captions).split()),
            "aspects": json.dumps(list(query.aspects)),
        }


def per_query_rows(bench: Benchmark, measures: Sequence[Measure]) -> Iterator[Row]:
    """A row per metric and query: what paired tests between two methods need."""
    for one in measures:
        for row, value in zip(one.rows, one.values, strict=True):
            yield {
                "benchmark": bench.label, "split": bench.split, "metric": one.metric,
                "query_id": bench.queries[row].query_id, "value": float(value),
            }  # fmt: skip
