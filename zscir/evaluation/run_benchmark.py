"""Run one benchmark with a query encoder: load, embed, rank; rows of scores, rankings and queries, submission files."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from zscir.benchmarks import Benchmark, benchmark_info
from zscir.benchmarks.comparability import NO_TEXTS
from zscir.benchmarks.missing_images import protocol_without_images
from zscir.benchmarks.ranking import Scorer
from zscir.benchmarks.results import compute_results, per_query_rows
from zscir.benchmarks.score_rows import MetricScore, ScoreLabel, macro_mean, metric_scores, protocol_label
from zscir.evaluation.annotations import load_benchmark_parts
from zscir.evaluation.benchmark_images import BenchmarkImages
from zscir.evaluation.features import EmbeddingArray, ImageEmbeddings, sum_query_embeddings
from zscir.evaluation.gallery_cache import cached_or_embedded, image_ids_of_parts
from zscir.evaluation.gpu_ranking import scorer_for_device
from zscir.evaluation.query_encoder import QueryEncoder
from zscir.evaluation.specs import BenchmarkEntry, preprocessing_of
from zscir.methods.checkpoint import default_device
from zscir.runtime.errors import RequestError
from zscir.runtime.schemas import INTERVALS_SCHEMA
from zscir.store.artifacts import Artifact

_Row = dict[str, Any]


@dataclass(frozen=True)
class LoadedBenchmark:
    """One benchmark of an artifact, all its categories or tasks, with its images and their embeddings."""

    entry: BenchmarkEntry
    parts: list[Benchmark]
    images: BenchmarkImages
    embeddings: ImageEmbeddings

    @property
    def protocol(self) -> str:
        """The ranking protocol of the whole benchmark; images that are allowed to be missing are counted in it."""
        return protocol_without_images(self.parts[0].protocol, len(self.images.absent))


@dataclass(frozen=True)
class QueryEmbeddings:
    """Query vectors [Q, D] of one category or task, vectors [G, D] of its gallery, and each query's texts."""

    bench: Benchmark
    queries: EmbeddingArray
    gallery: EmbeddingArray
    texts: list[list[str]]


def load_annotations(
    encoder: QueryEncoder, benchmarks: Artifact, entries: Sequence[BenchmarkEntry]
) -> list[list[Benchmark]]:
    """The parts of every entry, checked: what is wrong with any of them is a RequestError before an image is read."""
    for entry in entries:
        protocol = encoder.text_protocol(entry.texts)
        problem = "" if protocol == NO_TEXTS else benchmark_info(entry.name).texts_problem(protocol)
        if problem:
            raise RequestError(problem)
    return [load_benchmark_parts(benchmarks, entry) for entry in entries]


def load_benchmark_images(
    encoder: QueryEncoder, benchmarks: Artifact, gallery: Artifact | None, entry: BenchmarkEntry, parts: list[Benchmark]
) -> LoadedBenchmark:
    """Find every image of a benchmark's parts, and embed them or take their vectors from ``gallery``.

    StageError when more images are missing or broken than the entry allows.
    """
    images = BenchmarkImages(benchmarks, entry.name, entry.allow_missing or 0)
    # All parts at once: 121 of FashionIQ's val images are in two categories, and are embedded once.
    ids = image_ids_of_parts(parts)
    embeddings = cached_or_embedded(encoder.model.gallery, images, ids, encoder.pixels, gallery, encoder.weights)
    # After embedding: only then is it known which images cannot be decoded.
    if images.absent:
        parts = [part.without_images(images.absent) for part in parts]
    return LoadedBenchmark(entry, parts, images, embeddings)


def encode_queries(encoder: QueryEncoder, benchmark: LoadedBenchmark) -> list[QueryEmbeddings]:
    """The query vectors of every category or task."""
    protocol = encoder.text_protocol(benchmark.entry.texts)
    encoded = []
    for bench in benchmark.parts:
        # The image-only control still needs one (unused) text per query, for the rows of ``queries``.
        texts = [[""] for _ in bench.queries] if protocol == NO_TEXTS else bench.texts(protocol)
        references = [query.reference for query in bench.queries]
        queries = encoder.query_embeddings(benchmark.images, references, texts, benchmark.embeddings)
        encoded.append(QueryEmbeddings(bench, queries, benchmark.embeddings.rows_of(bench.gallery), texts))
    return encoded


def result_tables(
    encoder: QueryEncoder, benchmark: LoadedBenchmark, encoded: Sequence[QueryEmbeddings], seed: int
) -> dict[str, list[_Row]]:
    """The rows of ``scores``, ``intervals``, ``rankings``, ``queries`` and ``per_query``."""
    results = [
        (part.bench, compute_results(part.bench, part.queries, part.gallery, part.texts, _scorer())) for part in encoded
    ]
    scored = [(bench, found.metrics) for bench, found in results if bench.has_answers]
    scores = [
        score
        for bench, metrics in scored
        for score in metric_scores(bench, metrics, _label(encoder, benchmark, bench.protocol, seed))
    ]
    # The mean is the literature's over all categories or tasks: none where the entry names only some of them.
    if len(scored) > 1 and benchmark.entry.parts is None:
        # Unweighted, as in the literature, though FashionIQ's categories and GeneCIS's tasks differ in size.
        scores += macro_mean(scored, _label(encoder, benchmark, benchmark.protocol, seed))
    return {
        "scores": [score.score_row() for score in scores],
        "intervals": [_interval_row(encoder, benchmark.entry, score) for score in scores],
        "rankings": [row for _, found in results for row in found.rankings],
        "queries": [row for _, found in results for row in found.queries],
        "per_query": [row for bench, metrics in scored for row in per_query_rows(bench, metrics)],
    }


def _interval_row(encoder: QueryEncoder, entry: BenchmarkEntry, score: MetricScore) -> _Row:
    """A row of ``intervals``: the score, its hits and bounds, and what a reader must know beside it."""
    context = {"control": encoder.untrained_control, "allow_missing": entry.allow_missing}
    return {name: context[name] if name in context else getattr(score, name) for name in INTERVALS_SCHEMA.names}


def _label(encoder: QueryEncoder, benchmark: LoadedBenchmark, ranking: str, seed: int) -> ScoreLabel:
    texts = encoder.text_protocol(benchmark.entry.texts)
    protocol = protocol_label(ranking, texts, preprocessing_of(encoder.pixels.fit))
    return ScoreLabel(protocol, encoder.label, encoder.backbone, seed)


def submission_files(encoded: Sequence[QueryEmbeddings]) -> list[dict[str, _Row]]:
    """The server's files of every part without answers."""
    # CIRR's test1 and CIRCO's test: their answers are on the authors' servers.
    hidden = [part for part in encoded if not part.bench.has_answers and part.bench.info.submission is not None]
    return [part.bench.submission_features(part.queries, part.gallery, _scorer()) for part in hidden]


def sweep_weights(
    encoder: QueryEncoder, benchmark: LoadedBenchmark, weights: Sequence[float], metric: str
) -> list[tuple[float, float]]:
    """(weight, percent of ``metric``) of the sum at each weight, the mean over categories or tasks.

    Images and texts are embedded once.
    """
    by_part = [_sweep_part(encoder, benchmark, bench, weights, metric) for bench in benchmark.parts]
    by_weight = zip(*by_part, strict=True)
    return [(weight, float(np.mean(percents))) for weight, percents in zip(weights, by_weight, strict=True)]


def _sweep_part(
    encoder: QueryEncoder, benchmark: LoadedBenchmark, bench: Benchmark, weights: Sequence[float], metric: str
) -> list[float]:
    texts = bench.texts(_sum_text_protocol(encoder, benchmark))
    text_vectors = encoder.text_embeddings(texts)
    references = benchmark.embeddings.rows_of([query.reference for query in bench.queries])
    gallery = benchmark.embeddings.rows_of(bench.gallery)
    # Only this is made anew for each weight; towers and decoding, which take nearly all the time, are not.
    sums = [sum_query_embeddings(references, text_vectors, texts, weight, 1.0) for weight in weights]
    return [bench.score_features(queries, gallery, _scorer())[metric] for queries in sums]


def _scorer() -> Scorer:
    """Ranks are counted where the images were embedded."""
    return scorer_for_device(default_device())


def validation_curve_name(encoder: QueryEncoder, benchmark: LoadedBenchmark, metric: str) -> str:
    """``validation cirr R@1 (official/pli/clip)``: two protocols are never points of one chart."""
    texts = _sum_text_protocol(encoder, benchmark)
    protocol = protocol_label(benchmark.protocol, texts, preprocessing_of(encoder.pixels.fit))
    label = f"{benchmark.entry.name}/mean" if len(benchmark.parts) > 1 else benchmark.parts[0].label
    return f"validation {label} {metric} ({protocol})"


def _sum_text_protocol(encoder: QueryEncoder, benchmark: LoadedBenchmark) -> str:
    return replace(encoder, control="text").text_protocol(benchmark.entry.texts)
