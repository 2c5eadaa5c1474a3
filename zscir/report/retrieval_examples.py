"""Contact sheets of retrieval examples: queries, the first answers of each method, and which of them are right."""

import json
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from zscir.report.artifact_reader import evenly, read_batches, read_first_rows, rows_with
from zscir.report.benchmark_thumbnails import BenchmarkThumbnails
from zscir.report.contact_sheet import Card, ContactSheet, FoldedCards, FramedPicture
from zscir.report.formatting import format_number, format_percent, shorten_text
from zscir.report.run_data import RunRecord, external_artifact
from zscir.report.scores import benchmark_title, headline_metrics, is_control
from zscir.report.thumbnails import Thumbnail, missing_thumbnail
from zscir.store.artifacts import Artifact

MAX_EVALUATIONS = 12
PER_KIND = 2
SHOWN_ANSWERS = 5
POOL = 1_000
RETRIEVAL_ABOUT = (
    "Some queries whose right answer a method ranks first (success) and some that it misses (failure): reference and "
    f"text, the first {SHOWN_ANSWERS} answers, and in green what is right. Where nothing right is among them, the best "
    "right answer follows with its rank."
)
_Row = dict[str, Any]
DatasetSplit = tuple[str, str]  # benchmark without its part, split
ThumbnailCache = dict[tuple[str, str], BenchmarkThumbnails]  # by (key of the benchmarks, benchmark)
QueryKey = tuple[str, str, str]  # benchmark with its part, split, query


@dataclass(frozen=True)
class AnsweredQuery:
    """One query and its answers: rows of the tables ``queries`` and ``rankings``, the latter by rank."""

    query: _Row
    answers: tuple[_Row, ...]

    @property
    def targets(self) -> list[str]:
        """The right answers; empty where only a server knows them."""
        found: list[str] = json.loads(self.query["targets"])
        return found

    def shown_answers(self) -> list[_Row]:
        """The first answers and, where none of them is right, the best right one."""
        first, later = self.answers[:SHOWN_ANSWERS], self.answers[SHOWN_ANSWERS:]
        right = [row for row in later if row["image_id"] in self.targets]
        missed = not any(row["image_id"] in self.targets for row in first)
        return [*first, *(right[:1] if missed else [])]


def retrieval_sheets(record: RunRecord) -> list[ContactSheet]:
    """One sheet for each benchmark and split, in it a fold for each evaluation; trained methods come first."""
    folds: dict[DatasetSplit, list[FoldedCards]] = {}
    galleries: ThumbnailCache = {}
    folders: dict[str, Artifact] = {}
    newest_first = list(reversed(record.steps_with_artifact("evaluate")))
    steps = sorted(newest_first, key=lambda pair: is_control(pair[1]))
    for step, artifact in steps[:MAX_EVALUATIONS]:
        source = _benchmarks_of(record, artifact) or external_artifact(record, step.name, "benchmarks", folders)
        for dataset, cards in _cards(artifact, source, galleries).items():
            method, score = _headline(artifact, dataset)
            about = " · ".join(word for word in (step.name, score) if word)
            fold = FoldedCards(method or step.name, about, not is_control(artifact), cards)
            folds.setdefault(dataset, []).append(fold)
    left = f" Shown are {MAX_EVALUATIONS} of {len(steps)} evaluations." if len(steps) > MAX_EVALUATIONS else ""
    return [
        ContactSheet(
            "retrieval",
            f"Retrieval: {benchmark_title(family)} ({split})",
            "" if place else RETRIEVAL_ABOUT + left,
            (),
            tuple(own),
        )
        for place, ((family, split), own) in enumerate(folds.items())
    ]


def _cards(
    evaluation: Artifact, source: Artifact | None, galleries: ThumbnailCache
) -> dict[DatasetSplit, tuple[Card, ...]]:
    """The cards of each benchmark and split of an evaluation; ``source`` holds the benchmarks' images."""
    found = {}
    for dataset, queries in _answered_queries(evaluation).items():
        gallery = None
        if source is not None:
            gallery = galleries.setdefault((source.key, dataset[0]), BenchmarkThumbnails(source, dataset[0]))
            gallery.find({image_id for query in queries for image_id in _images_of(query)})
        found[dataset] = tuple(_card(query, gallery) for query in queries)
    return found


def _benchmarks_of(record: RunRecord, artifact: Artifact) -> Artifact | None:
    """The artifact that holds the benchmarks' images; None where they came from files outside of the store."""
    entry = artifact.manifest.inputs.get("benchmarks") if artifact.manifest is not None else None
    return None if entry is None or entry.stage == "file" else record.library.get(entry.stage, entry.key)


def _answered_queries(artifact: Artifact) -> dict[DatasetSplit, list[AnsweredQuery]]:
    """The chosen queries of each benchmark and split, with their answers."""
    chosen = choose_queries(artifact)
    ids = {query for places in chosen.values() for _, _, query in places}
    queries = {_query_key(row): row for row in rows_with(artifact, "queries.parquet", "query_id", ids)}
    answers: dict[QueryKey, list[_Row]] = {}
    for row in rows_with(artifact, "rankings.parquet", "query_id", ids, max_rows=100_000):
        answers.setdefault(_query_key(row), []).append(row)
    ranked = {place: tuple(sorted(rows, key=lambda row: row["rank"])) for place, rows in answers.items()}
    return {
        dataset: [AnsweredQuery(queries[key], ranked.get(key, ())) for key in places]
        for dataset, places in chosen.items()
    }


def choose_queries(artifact: Artifact) -> dict[DatasetSplit, list[QueryKey]]:
    """For each benchmark and split two queries that were answered at once, then two that were missed.

    Both are taken evenly from the first thousand of their kind; a missed one has its right answer beyond rank 5.
    """
    pools: dict[DatasetSplit, tuple[list[QueryKey], list[QueryKey], list[QueryKey]]] = {}
    for batch in read_batches(artifact, "queries.parquet", ["benchmark", "split", "query_id", "best_rank"]):
        for row in batch.to_pylist():
            hit, missed, rest = pools.setdefault((row["benchmark"].split("/")[0], row["split"]), ([], [], []))
            rank = row["best_rank"]
            pool = rest if rank is None or 1 < rank <= SHOWN_ANSWERS else hit if rank == 1 else missed
            if len(pool) < POOL:
                pool.append(_query_key(row))
    return {dataset: _taken(*found) for dataset, found in pools.items()}


def _taken(hit: list[QueryKey], missed: list[QueryKey], rest: list[QueryKey]) -> list[QueryKey]:
    taken = [*evenly(hit, PER_KIND), *evenly(missed, PER_KIND)]
    return [*taken, *evenly(rest, 2 * PER_KIND - len(taken))]


def _query_key(row: _Row) -> QueryKey:
    return row["benchmark"], row["split"], row["query_id"]


def _images_of(answered: AnsweredQuery) -> list[str]:
    return [answered.query["reference"], *(row["image_id"] for row in answered.shown_answers())]


def _headline(evaluation: Artifact, dataset: DatasetSplit) -> tuple[str, str]:
    """The method's own name, and its headline score on this benchmark (the mean where it has parts)."""
    keep = (pc.field("split") == dataset[1]) & pc.starts_with(pc.field("benchmark"), dataset[0])
    rows = read_first_rows(evaluation, "scores.parquet", 2_000, keep)
    whole = [row for row in rows if row["benchmark"] in (dataset[0], f"{dataset[0]}/mean")]
    best = [row for metric in headline_metrics(dataset[0]) for row in whole if row["metric"] == metric]
    method = rows[0]["method"] if rows else ""
    return method, f"{best[0]['metric']} {format_percent(best[0]['value'])}" if best else ""


def _card(answered: AnsweredQuery, gallery: BenchmarkThumbnails | None) -> Card:
    text = shorten_text(answered.query["text"]) or "(no text: the image alone)"
    reference = _picture(gallery, answered.query["reference"], f"reference: {text}")
    answers = [_answer(answered, row, gallery) for row in answered.shown_answers()]
    return Card(
        (FramedPicture(reference, "reference", "reference"), *answers), text, _verdict(answered), _mark(answered)
    )


def _mark(answered: AnsweredQuery) -> str:
    """A success has a right answer first, a failure none among those shown; what lies between is neither."""
    rank = answered.query["best_rank"]
    return "" if rank is None or 1 < rank <= SHOWN_ANSWERS else "success" if rank == 1 else "failure"


def _answer(answered: AnsweredQuery, row: _Row, gallery: BenchmarkThumbnails | None) -> FramedPicture:
    rank, image_id = row["rank"], row["image_id"]
    if image_id in answered.targets:
        return FramedPicture(_picture(gallery, image_id, f"right answer at rank {rank}"), f"✓ {rank}", "right")
    if image_id == answered.query["reference"]:
        return FramedPicture(
            _picture(gallery, image_id, f"the reference itself at rank {rank}"), f"{rank} reference", "reference"
        )
    return FramedPicture(_picture(gallery, image_id, f"answer at rank {rank}"), str(rank))


def _picture(gallery: BenchmarkThumbnails | None, image_id: str, alt: str) -> Thumbnail:
    return missing_thumbnail(alt, shorten_text(image_id, 40)) if gallery is None else gallery.picture(image_id, alt)


def _verdict(answered: AnsweredQuery) -> str:
    part = answered.query["benchmark"].partition("/")[2].replace("_", " ")
    right, found = (
        len(answered.targets),
        sum(row["image_id"] in answered.targets for row in answered.answers[:SHOWN_ANSWERS]),
    )
    if not right:
        words = "only the benchmark's server knows the right answers"
    elif right > 1:
        words = f"{found} of {right} right answers among the first {SHOWN_ANSWERS}"
    else:
        words = f"right answer at rank {format_number(answered.query['best_rank'])}"
    return " · ".join(
        phrase for phrase in (part, words, f"query {shorten_text(answered.query['query_id'], 30)}") if phrase
    )
