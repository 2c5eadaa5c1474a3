"""A respondent and one benchmark become rows: scores with intervals, rankings, a row per query, submission files."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from zscir.artifacts import Artifact
from zscir.benchmarks import PARTS, Benchmark, load_part
from zscir.benchmarks.checksums import require_official
from zscir.benchmarks.results import per_query_rows, results_of
from zscir.benchmarks.scoring import Label, macro_mean, protocol_label, scored
from zscir.evaluation.features import Features, Vectors, summed_queries
from zscir.evaluation.gallery import ids_of, vectors_of
from zscir.evaluation.pictures import Pictures, annotations_root
from zscir.evaluation.respondent import NO_TEXTS, Respondent
from zscir.evaluation.specs import BenchmarkEntry, preprocessing_of

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
        first, absent = self.parts[0].protocol.split(" without ")[0], len(self.pictures.absent)
        return f"{first} without {absent} images" if absent else first


@dataclass(frozen=True)
class Heard:
    """The query vectors of one category or task, and the texts that were asked."""

    bench: Benchmark
    queries: Vectors
    shown: Vectors
    texts: list[list[str]]


def open_hall(one: Respondent, benchmarks: Artifact, gallery: Artifact | None, entry: BenchmarkEntry) -> Hall:
    """Load annotations, find every picture, embed them (or take them from ``gallery``)."""
    root = annotations_root(benchmarks, entry.name)
    if entry.sha256 is not None:
        require_official(root, entry.sha256, f"data_specs/benchmarks/{entry.name}.toml says where")
    names = entry.parts or PARTS[entry.name]
    parts = [load_part(entry.name, root, entry.split, part, entry.protocol) for part in names]
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
    found = [(own.bench, results_of(own.bench, own.queries, own.shown, own.texts)) for own in heard]
    answered = [(bench, results.measures) for bench, results in found if bench.answered]
    numbers = [
        row for bench, measures in answered for row in scored(bench, measures, _label(one, hall, bench.protocol, seed))
    ]
    if len(answered) > 1 and hall.entry.parts is None:
        numbers += macro_mean(answered, _label(one, hall, hall.protocol, seed))
    return {
        "scores": [number.row() for number in numbers],
        "intervals": [asdict(number) for number in numbers],
        "rankings": [row for _, results in found for row in results.rankings],
        "queries": [row for _, results in found for row in results.queries],
        "per_query": [row for bench, measures in answered for row in per_query_rows(bench, measures)],
    }


def _label(one: Respondent, hall: Hall, ranking: str, seed: int) -> Label:
    named = protocol_label(ranking, one.texts(hall.entry.texts), preprocessing_of(one.pixels.fit))
    return Label(named, one.label, one.backbone, seed)


def submissions_of(heard: Sequence[Heard]) -> list[dict[str, Row]]:
    """The server's files of every part without answers."""
    hidden = [own for own in heard if not own.bench.answered and own.bench.name in SUBMITTED]
    return [own.bench.submission_features(own.queries, own.shown) for own in hidden]


def tried(one: Respondent, hall: Hall, weights: Sequence[float], metric: str) -> list[tuple[float, float]]:
    """(weight, percent of ``metric``) of the sum at each weight; images and texts are embedded once."""
    (bench,) = hall.parts
    texts = bench.texts(replace(one, control="text").texts(hall.entry.texts))
    said, seen = one.said(texts), hall.images.of([query.reference for query in bench.queries])
    shown = hall.images.of(bench.gallery)
    sums = [(weight, summed_queries(seen, said, texts, weight, 1.0)) for weight in weights]
    return [(weight, bench.score_features(query, shown)[metric]) for weight, query in sums]
