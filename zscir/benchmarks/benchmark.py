"""Benchmark: queries over a gallery, and the metrics of a ranking of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from zscir.benchmarks.files import shortened
from zscir.benchmarks.info import BenchmarkInfo
from zscir.benchmarks.metrics import MetricValues
from zscir.benchmarks.missing_images import protocol_without_images
from zscir.benchmarks.query import Query
from zscir.benchmarks.ranking import (
    Ints,
    NumpyScoreBlock,
    ScoreBlock,
    Scorer,
    float32_scores,
    padded,
    ranks_of,
    top_lists,
)
from zscir.benchmarks.similarity import check_features, score_blocks
from zscir.runtime.errors import RequestError

RankArrays = Mapping[str, NDArray[Any]]


def concatenate_rank_arrays(blocks: Sequence[RankArrays]) -> RankArrays:
    """The arrays of all queries, from those of single blocks in order."""
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


class Benchmark(ABC):
    """One benchmark, split and protocol. ``part`` is FashionIQ's category or GeneCIS's task, else empty."""

    info: ClassVar[BenchmarkInfo]
    how_to_get_gallery = "the official annotation files"  # CIRCO's gallery is a file of COCO, not one of its own

    def __init__(self, split: str, protocol: str, queries: Sequence[Query], part: str = "") -> None:
        self.part = part
        self.split = split
        self.protocol = protocol
        self.queries = list(queries)  # in file order: features and server files follow it

    @property
    @abstractmethod
    def gallery(self) -> list[str]:
        """The image ids (GeneCIS: region ids) in official order."""

    @property
    def name(self) -> str:
        """What specs and tables call it, whatever the part."""
        return self.info.name

    @property
    def label(self) -> str:
        """What tables call it: ``cirr``, ``fashioniq/dress``, ``genecis/focus_object``."""
        return f"{self.name}/{self.part}" if self.part else self.name

    @property
    def where(self) -> str:
        """How error messages name it."""
        return f"{self.label} {self.split} ({self.protocol})"

    @property
    def has_answers(self) -> bool:
        """Whether the annotation files hold the right answers; else only the benchmark's server knows them."""
        return all(query.targets for query in self.queries)

    def texts(self, protocol: str) -> list[list[str]]:
        """The query strings of a named text protocol, per query; several where their features are averaged.

        RequestError names the text protocols that the benchmark has.
        """
        problem = self.info.texts_problem(protocol)
        if problem:
            raise RequestError(problem)
        return [self.info.text_makers[protocol](query) for query in self.queries]

    def score(self, scores_QG: Any) -> dict[str, float]:
        """Metric -> percent. GeneCIS: scores [Q, 1+G] with the target first. RequestError when scores do not fit."""
        return {metric.name: metric.percent for metric in self.metric_values(scores_QG)}

    def score_features(self, query_QD: Any, gallery_GD: Any, scorer: Scorer = score_blocks) -> dict[str, float]:
        """Metric -> percent by cosine in float32. GeneCIS: gallery [Q, 1+G, D], the target first.

        ``scorer`` says where the products are made and the ranks counted: here, or on a GPU
        (zscir.evaluation.gpu_ranking).
        """
        metrics = self.metric_values_from_features(query_QD, gallery_GD, scorer)
        return {metric.name: metric.percent for metric in metrics}

    def metric_values(self, scores_QG: Any) -> list[MetricValues]:
        """As ``score``, with the values of the single queries."""
        self._check_has_answers()
        # float32: scores in half precision move CIRR's R@5 by five hits.
        scores = float32_scores(scores_QG, self._score_shape(), self.where)
        return self.metrics_from_ranks(self.rank_arrays(NumpyScoreBlock(scores), slice(0, len(self.queries))))

    def metric_values_from_features(
        self, query_QD: Any, gallery_GD: Any, scorer: Scorer = score_blocks
    ) -> list[MetricValues]:
        """As ``score_features``, with the values of the single queries; memory bounded by blocks of queries."""
        self._check_has_answers()
        return self.metrics_from_ranks(
            concatenate_rank_arrays(
                [self.rank_arrays(b, rows) for rows, b in self.blocks(query_QD, gallery_GD, scorer)]
            )
        )

    def submission(self, scores_QG: Any) -> dict[str, dict[str, Any]]:
        """File name -> what the benchmark's server takes; RequestError where there is no server."""
        scores = float32_scores(scores_QG, self._score_shape(), self.where)
        return self._submission([(slice(0, len(self.queries)), NumpyScoreBlock(scores))])  # one block: it is in memory

    def submission_features(
        self, query_QD: Any, gallery_GD: Any, scorer: Scorer = score_blocks
    ) -> dict[str, dict[str, Any]]:
        """As ``submission``, from features."""
        return self._submission(self.blocks(query_QD, gallery_GD, scorer))

    @abstractmethod
    def without_images(self, absent: Collection[str]) -> Benchmark:
        """The benchmark without some images; its protocol says so, so that its numbers stand in no other's column.

        Queries whose reference or annotated target is absent (GeneCIS: any candidate) are left out, and n shrinks.
        RequestError when no query is left, or when only a server has the answers.
        """

    @abstractmethod
    def blocks(self, query: Any, gallery: Any, scorer: Scorer = score_blocks) -> Iterator[tuple[slice, ScoreBlock]]:
        """Yield (rows, scores of those queries) from features, in blocks of bounded memory."""

    @abstractmethod
    def top(self, block: ScoreBlock, rows: slice, k: int) -> list[Ints]:
        """The best ``k`` columns of each query in a block of scores, as the protocol ranks them."""

    @abstractmethod
    def candidate_ids(self, row: int) -> Sequence[str]:
        """What the columns of a query's scores stand for."""

    @abstractmethod
    def target_columns(self, row: int) -> list[int]:
        """The columns of a query's right answers, the annotated target first."""

    def excluded_columns(self, row: int) -> Ints:
        """The columns that the protocol takes out of a query's ranking; -1 is padding."""
        return np.empty(0, dtype=np.int64)

    def reference_column(self, row: int) -> int | None:
        """The column of a query's own reference image, if it is among the candidates."""
        return None

    @abstractmethod
    def rank_arrays(self, block: ScoreBlock, rows: slice) -> RankArrays:
        """The ranks that the metrics count, of a block of scores: named arrays, one row per query."""

    @abstractmethod
    def metrics_from_ranks(self, ranks: RankArrays) -> list[MetricValues]:
        """The metrics, from ``rank_arrays`` of all queries."""

    @abstractmethod
    def _score_shape(self) -> tuple[int, int]: ...

    def _submission(self, blocks: Iterable[tuple[slice, ScoreBlock]]) -> dict[str, dict[str, Any]]:
        if self.info.submission is None:
            raise RequestError(f"{self.where}: no server takes submissions for this benchmark; its answers are public")
        return self.info.submission(self, blocks)

    def check_gaps_allowed(self) -> None:
        """RequestError where a server has the answers: it counts every query, over every image."""
        if not self.has_answers:
            raise RequestError(f"{self.where}: a server counts every image and query; none of them may be missing")

    def _check_has_answers(self) -> None:
        if not self.has_answers:
            raise RequestError(
                f"{self.where}: the right answers are not in the annotation files; "
                "write submission files for the benchmark's server, or score another split"
            )


class GalleryBenchmark(Benchmark):
    """A benchmark whose queries all rank the same gallery; None where its list is not at hand, which fails on use."""

    def __init__(
        self, split: str, protocol: str, queries: Sequence[Query], gallery: Sequence[str] | None, part: str = ""
    ) -> None:
        super().__init__(split, protocol, queries, part)
        self._gallery = None if gallery is None else list(gallery)
        if gallery is not None:
            self._check_ids()

    @property
    def has_gallery(self) -> bool:
        """Whether the list of gallery images is at hand: CIRCO's is a file of COCO, not one of its annotation files."""
        return self._gallery is not None

    @property
    def gallery(self) -> list[str]:
        """The image ids in official order."""
        if self._gallery is None:
            raise RequestError(f"{self.where}: no list of gallery images. Get it: {self.how_to_get_gallery}")
        return self._gallery

    @cached_property
    def targets_QT(self) -> Ints:
        """The gallery columns of the right answers, filled up with -1."""
        return padded([self.gallery_columns(query.targets) for query in self.queries])

    @cached_property
    def excluded_QE(self) -> Ints:
        """The gallery columns that each query's ranking leaves out, filled up with -1."""
        return padded([self.gallery_columns(query.exclude) for query in self.queries])

    def blocks(self, query: Any, gallery: Any, scorer: Scorer = score_blocks) -> Iterator[tuple[slice, ScoreBlock]]:
        """Yield (rows, cosines of those queries with the whole gallery)."""
        query_QD, gallery_GD = np.asarray(query), np.asarray(gallery)  # a mapped file stays mapped
        check_features(query_QD, gallery_GD, len(self.queries), (len(self.gallery),), self.where)
        return scorer(query_QD, gallery_GD, self.where)

    def rank_arrays(self, block: ScoreBlock, rows: slice) -> RankArrays:
        """The ranks of the right answers."""
        return {"targets": ranks_of(block, self.targets_QT[rows], self.excluded_QE[rows])}

    def top(self, block: ScoreBlock, rows: slice, k: int) -> list[Ints]:
        """The best ``k`` columns of each query in a block, as the protocol ranks them."""
        return top_lists(block, k, self.excluded_QE[rows])

    def candidate_ids(self, row: int) -> Sequence[str]:
        """The gallery."""
        return self.gallery

    def target_columns(self, row: int) -> list[int]:
        """Where the right answers stand in the gallery."""
        return self.gallery_columns(self.queries[row].targets)

    def excluded_columns(self, row: int) -> Ints:
        """Where the images that the protocol takes out stand in the gallery."""
        columns: Ints = self.excluded_QE[row]
        return columns

    def reference_column(self, row: int) -> int | None:
        """Where the reference stands in the gallery."""
        return self._columns.get(self.queries[row].reference)

    def without_images(self, absent: Collection[str]) -> GalleryBenchmark:
        """Also the gallery, further right answers and image sets lose the absent images."""
        # Ids of other parts may be absent too: a benchmark's images are embedded for all its parts together.
        gone = set(absent) & {*self.gallery, *(query.reference for query in self.queries)}
        if not gone:
            return self
        self.check_gaps_allowed()
        queries = [
            query.without_images(gone)
            for query in self.queries
            if gone.isdisjoint((query.reference, *query.targets[:1]))
        ]
        if not queries:
            raise RequestError(f"{self.where}: no query is left without {len(gone)} images")
        gallery = [image_id for image_id in self.gallery if image_id not in gone]
        return type(self)(self.split, protocol_without_images(self.protocol, len(gone)), queries, gallery, self.part)

    def gallery_columns(self, ids: Sequence[str]) -> list[int]:
        """Where images stand in the gallery."""
        return [self._columns[image_id] for image_id in ids]

    def _score_shape(self) -> tuple[int, int]:
        return len(self.queries), len(self.gallery)

    @cached_property
    def _columns(self) -> dict[str, int]:
        return {image_id: column for column, image_id in enumerate(self.gallery)}

    def _check_ids(self) -> None:
        named: set[str] = set()
        for query in self.queries:
            named.update((query.reference, *query.targets, *query.exclude, *query.subset, *dict(query.soft)))
        # A gallery built from the references alone lacks 132 of CIRR val's images and inflates its scores.
        missing = sorted(named - self._columns.keys())
        if missing:
            raise RequestError(
                f"{self.where}: {len(missing)} images that the queries name are not among the {len(self.gallery)} "
                f"of the gallery: {shortened(missing)}. The annotation files or gallery ids do not belong together"
            )
        for query in self.queries:
            if not set(query.exclude).isdisjoint(query.targets):
                raise RequestError(f"{self.where}: query {query.query_id} excludes its own target from the ranking")
