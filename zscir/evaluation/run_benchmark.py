"""A respondent and one benchmark become rows: scores with intervals, rankings, a row per query, submission files."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from zscir.benchmarks import Benchmark
from zscir.benchmarks.comparability import NO_TEXTS
from zscir.benchmarks.missing_images import protocol_without_images
from zscir.benchmarks.ranking import Scorer
from zscir.benchmarks.results import compute_results, per_query_rows
from zscir.benchmarks.score_rows import MetricScore, ScoreLabel, macro_mean, metric_scores, protocol_label
from zscir.evaluation.annotations import check_text_protocols, load_benchmark_parts
from zscir.evaluation.benchmark_images import BenchmarkImages
from zscir.evaluation.features import EmbeddingArray, ImageEmbeddings, sum_query_embeddings
from zscir.evaluation.gallery_cache import cached_or_embedded, image_ids_of_parts
from zscir.evaluation.gpu_ranking import scorer_for_device
from zscir.evaluation.query_encoder import QueryEncoder
from zscir.evaluation.specs import BenchmarkEntry, preprocessing_of
from zscir.methods.checkpoint import default_device
from zscir.runtime.schemas import INTERVALS_SCHEMA
from zscir.store.artifacts import Artifact

_Row = dict[str, Any]


@dataclass(frozen=True)
class LoadedBenchmark:
    """One benchmark of an artifact, all its categories or tasks, with its pictures and their vectors."""

    entry: BenchmarkEntry
    parts: list[Benchmark]
    pictures: BenchmarkImages
    images: ImageEmbeddings

    @property
    def protocol(self) -> str:
        """The ranking protocol of the whole benchmark; images that are allowed to be missing are counted in it."""
        return protocol_without_images(self.parts[0].protocol, len(self.pictures.absent))


@dataclass(frozen=True)
class QueryEmbeddings:
    """The query vectors of one category or task, and the texts that were asked."""

    bench: Benchmark
    queries: EmbeddingArray
    shown: EmbeddingArray
    texts: list[list[str]]


def load_annotations(
    encoder: QueryEncoder, benchmarks: Artifact, entries: Sequence[BenchmarkEntry]
) -> list[list[Benchmark]]:
    """The parts of every entry, checked: what is wrong with any of them is a RequestError before an image is read."""
    check_text_protocols(entries, [encoder.texts(entry.texts) for entry in entries])
    return [load_benchmark_parts(benchmarks, entry) for entry in entries]


def load_benchmark_images(
    one: QueryEncoder, benchmarks: Artifact, gallery: Artifact | None, entry: BenchmarkEntry, parts: list[Benchmark]
) -> LoadedBenchmark:
    """Find every picture of a benchmark's parts, embed them (or take them from ``gallery``)."""
    pictures = BenchmarkImages(benchmarks, entry.name, entry.allow_missing or 0)
    images = cached_or_embedded(
        one.model.gallery, pictures, image_ids_of_parts(parts), one.pixels, gallery, one.weights
    )
    if pictures.absent:
        parts = [part.without_images(pictures.absent) for part in parts]
    return LoadedBenchmark(entry, parts, pictures, images)


def encode_queries(one: QueryEncoder, hall: LoadedBenchmark) -> list[QueryEmbeddings]:
    """Ask every query of every category or task."""
    protocol = one.texts(hall.entry.texts)
    heard = []
    for bench in hall.parts:
        texts = [[""] for _ in bench.queries] if protocol == NO_TEXTS else bench.texts(protocol)
        references = [query.reference for query in bench.queries]
        queries = one.queries(hall.pictures, references, texts, hall.images)
        heard.append(QueryEmbeddings(bench, queries, hall.images.of(bench.gallery), texts))
    return heard


def result_tables(
    one: QueryEncoder, hall: LoadedBenchmark, heard: Sequence[QueryEmbeddings], seed: int
) -> dict[str, list[_Row]]:
    """The rows of ``scores``, ``intervals``, ``rankings``, ``queries`` and ``per_query``."""
    found = [(own.bench, compute_results(own.bench, own.queries, own.shown, own.texts, _scorer())) for own in heard]
    answered = [(bench, results.metrics) for bench, results in found if bench.has_answers]
    numbers = [
        row
        for bench, measures in answered
        for row in metric_scores(bench, measures, _label(one, hall, bench.protocol, seed))
    ]
    if len(answered) > 1 and hall.entry.parts is None:
        numbers += macro_mean(answered, _label(one, hall, hall.protocol, seed))
    return {
        "scores": [number.score_row() for number in numbers],
        "intervals": [_interval_row(one, hall.entry, number) for number in numbers],
        "rankings": [row for _, results in found for row in results.rankings],
        "queries": [row for _, results in found for row in results.queries],
        "per_query": [row for bench, measures in answered for row in per_query_rows(bench, measures)],
    }


def _interval_row(one: QueryEncoder, entry: BenchmarkEntry, number: MetricScore) -> _Row:
    """A row of ``intervals``: the number, its hits and bounds, and what a reader must know beside it."""
    beside = {"control": one.stock_control, "allow_missing": entry.allow_missing}
    return {name: beside[name] if name in beside else getattr(number, name) for name in INTERVALS_SCHEMA.names}


def _label(one: QueryEncoder, hall: LoadedBenchmark, ranking: str, seed: int) -> ScoreLabel:
    named = protocol_label(ranking, one.texts(hall.entry.texts), preprocessing_of(one.pixels.fit))
    return ScoreLabel(named, one.label, one.backbone, seed)


def submission_files(heard: Sequence[QueryEmbeddings]) -> list[dict[str, _Row]]:
    """The server's files of every part without answers."""
    hidden = [own for own in heard if not own.bench.has_answers and own.bench.info.submission is not None]
    return [own.bench.submission_features(own.queries, own.shown, _scorer()) for own in hidden]


def sweep_weights(
    one: QueryEncoder, hall: LoadedBenchmark, weights: Sequence[float], metric: str
) -> list[tuple[float, float]]:
    """(weight, percent of ``metric``) of the sum at each weight, the mean over categories or tasks.

    Images and texts are embedded once.
    """
    found = [_sweep_part(one, hall, bench, weights, metric) for bench in hall.parts]
    return [(weight, float(np.mean(own))) for weight, own in zip(weights, zip(*found, strict=True), strict=True)]


def _sweep_part(
    one: QueryEncoder, hall: LoadedBenchmark, bench: Benchmark, weights: Sequence[float], metric: str
) -> list[float]:
    texts = bench.texts(_text_protocol(one, hall))
    said, seen = one.said(texts), hall.images.of([query.reference for query in bench.queries])
    shown = hall.images.of(bench.gallery)
    sums = [sum_query_embeddings(seen, said, texts, weight, 1.0) for weight in weights]
    return [bench.score_features(query, shown, _scorer())[metric] for query in sums]


def _scorer() -> Scorer:
    """Ranks are counted where the images were embedded."""
    return scorer_for_device(default_device())


def validation_curve_name(one: QueryEncoder, hall: LoadedBenchmark, metric: str) -> str:
    """``validation cirr R@1 (official/pli/clip)``: two protocols are never points of one chart."""
    named = protocol_label(hall.protocol, _text_protocol(one, hall), preprocessing_of(one.pixels.fit))
    whole = f"{hall.entry.name}/mean" if len(hall.parts) > 1 else hall.parts[0].label
    return f"validation {whole} {metric} ({named})"


def _text_protocol(one: QueryEncoder, hall: LoadedBenchmark) -> str:
    return replace(one, control="text").texts(hall.entry.texts)
