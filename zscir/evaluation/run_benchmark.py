"""A respondent and one benchmark become rows: scores with intervals, rankings, a row per query, submission files."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from zscir.benchmarks import PARTS, Benchmark
from zscir.benchmarks.comparability import NO_TEXTS
from zscir.benchmarks.missing_images import named_without
from zscir.benchmarks.ranking import Scorer
from zscir.benchmarks.results import per_query_rows, results_of
from zscir.benchmarks.score_rows import Label, Scored, macro_mean, protocol_label, scored
from zscir.evaluation.benchmark_images import Pictures, annotated
from zscir.evaluation.features import Features, Vectors, summed_queries
from zscir.evaluation.gallery_cache import ids_of, vectors_of
from zscir.evaluation.gpu_ranking import scorer_on
from zscir.evaluation.query_encoder import Respondent
from zscir.evaluation.specs import BenchmarkEntry, preprocessing_of
from zscir.methods.checkpoint import default_device
from zscir.runtime.schemas import INTERVALS
from zscir.store.artifacts import Artifact

SUBMITTED = ("cirr", "circo")
Row = dict[str, Any]


@dataclass(frozen=True)
class Hall:
    """One benchmark of an artifact, all its categories or tasks, with its pictures and their vectors."""

    entry: BenchmarkEntry
    parts: list[Benchmark]
    pictures: Pictures
    images: Features

    @property
    def protocol(self) -> str:
        """The ranking protocol of the whole benchmark; images that are allowed to be missing are counted in it."""
        return named_without(self.parts[0].protocol, len(self.pictures.absent))


@dataclass(frozen=True)
class Heard:
    """The query vectors of one category or task, and the texts that were asked."""

    bench: Benchmark
    queries: Vectors
    shown: Vectors
    texts: list[list[str]]


def open_hall(one: Respondent, benchmarks: Artifact, gallery: Artifact | None, entry: BenchmarkEntry) -> Hall:
    """Load annotations, find every picture, embed them (or take them from ``gallery``)."""
    names = entry.parts or PARTS[entry.name]
    parts = annotated(benchmarks, entry.name, entry.split, names, entry.protocol, entry.sha256)
    pictures = Pictures(benchmarks, entry.name, parts, entry.allow_missing or 0)
    images = vectors_of(one.model.gallery, pictures, ids_of(parts), one.pixels, gallery, one.weights)
    if pictures.absent:
        parts = [part.without(pictures.absent) for part in parts]
    return Hall(entry, parts, pictures, images)


def hear(one: Respondent, hall: Hall) -> list[Heard]:
    """Ask every query of every category or task."""
    protocol = one.texts(hall.entry.texts)
    heard = []
    for bench in hall.parts:
        texts = [[""] for _ in bench.queries] if protocol == NO_TEXTS else bench.texts(protocol)
        references = [query.reference for query in bench.queries]
        queries = one.queries(hall.pictures, references, texts, hall.images)
        heard.append(Heard(bench, queries, hall.images.of(bench.gallery), texts))
    return heard


def tables_of(one: Respondent, hall: Hall, heard: Sequence[Heard], seed: int) -> dict[str, list[Row]]:
    """The rows of ``scores``, ``intervals``, ``rankings``, ``queries`` and ``per_query``."""
    found = [(own.bench, results_of(own.bench, own.queries, own.shown, own.texts, _scorer())) for own in heard]
    answered = [(bench, results.measures) for bench, results in found if bench.answered]
    numbers = [
        row for bench, measures in answered for row in scored(bench, measures, _label(one, hall, bench.protocol, seed))
    ]
    if len(answered) > 1 and hall.entry.parts is None:
        numbers += macro_mean(answered, _label(one, hall, hall.protocol, seed))
    return {
        "scores": [number.row() for number in numbers],
        "intervals": [_bounded(one, hall.entry, number) for number in numbers],
        "rankings": [row for _, results in found for row in results.rankings],
        "queries": [row for _, results in found for row in results.queries],
        "per_query": [row for bench, measures in answered for row in per_query_rows(bench, measures)],
    }


def _bounded(one: Respondent, entry: BenchmarkEntry, number: Scored) -> Row:
    """A row of ``intervals``: the number, its hits and bounds, and what a reader must know beside it."""
    beside = {"control": one.stock_control, "allow_missing": entry.allow_missing}
    return {name: beside[name] if name in beside else getattr(number, name) for name in INTERVALS.names}


def _label(one: Respondent, hall: Hall, ranking: str, seed: int) -> Label:
    named = protocol_label(ranking, one.texts(hall.entry.texts), preprocessing_of(one.pixels.fit))
    return Label(named, one.label, one.backbone, seed)


def submissions_of(heard: Sequence[Heard]) -> list[dict[str, Row]]:
    """The server's files of every part without answers."""
    hidden = [own for own in heard if not own.bench.answered and own.bench.name in SUBMITTED]
    return [own.bench.submission_features(own.queries, own.shown, _scorer()) for own in hidden]


def tried(one: Respondent, hall: Hall, weights: Sequence[float], metric: str) -> list[tuple[float, float]]:
    """(weight, percent of ``metric``) of the sum at each weight, the mean over categories or tasks.

    Images and texts are embedded once.
    """
    found = [_tried_part(one, hall, bench, weights, metric) for bench in hall.parts]
    return [(weight, float(np.mean(own))) for weight, own in zip(weights, zip(*found, strict=True), strict=True)]


def _tried_part(one: Respondent, hall: Hall, bench: Benchmark, weights: Sequence[float], metric: str) -> list[float]:
    texts = bench.texts(_asking_texts(one, hall))
    said, seen = one.said(texts), hall.images.of([query.reference for query in bench.queries])
    shown = hall.images.of(bench.gallery)
    sums = [summed_queries(seen, said, texts, weight, 1.0) for weight in weights]
    return [bench.score_features(query, shown, _scorer())[metric] for query in sums]


def _scorer() -> Scorer:
    """Ranks are counted where the images were embedded."""
    return scorer_on(default_device())


def curve_name(one: Respondent, hall: Hall, metric: str) -> str:
    """``validation cirr R@1 (official/pli/clip)``: two protocols are never points of one chart."""
    named = protocol_label(hall.protocol, _asking_texts(one, hall), preprocessing_of(one.pixels.fit))
    whole = f"{hall.entry.name}/mean" if len(hall.parts) > 1 else hall.parts[0].label
    return f"validation {whole} {metric} ({named})"


def _asking_texts(one: Respondent, hall: Hall) -> str:
    return replace(one, control="text").texts(hall.entry.texts)
