"""Retrieval: rankings and queries of evaluations become sheets of what was asked, what came back and what was right."""

import json
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from zscir.report.artifact_reader import batches, evenly, first_rows, rows_with
from zscir.report.benchmark_thumbnails import Gallery
from zscir.report.contact_sheet import Card, Fold, Framed, Sheet
from zscir.report.external_files import outside
from zscir.report.formatting import cut, number, percent
from zscir.report.run_data import RunRecord
from zscir.report.scores import HEADLINES, NAMES, is_control
from zscir.report.thumbnails import Picture, missing
from zscir.store.artifacts import Artifact

MAX_EVALUATIONS = 12
PER_KIND = 2
SHOWN = 5
POOL = 1_000
ABOUT = (
    "Some questions that a method answers at once (success) and some that it misses (failure): reference and text, "
    f"the first {SHOWN} answers, and in green what is right. Where nothing right is among them, it stands behind them "
    "with its rank."
)
Row = dict[str, Any]
Hall = tuple[str, str]  # benchmark without its part, split
Galleries = dict[tuple[str, str], Gallery]  # by (key of the benchmarks, benchmark)
Place = tuple[str, str, str]  # benchmark with its part, split, query


@dataclass(frozen=True)
class Asked:
    """One query and its answers: rows of the tables ``queries`` and ``rankings``, the latter by rank."""

    query: Row
    answers: tuple[Row, ...]

    @property
    def targets(self) -> list[str]:
        """The right answers; empty where only a server knows them."""
        found: list[str] = json.loads(self.query["targets"])
        return found

    def shown(self) -> list[Row]:
        """The first answers and, where none of them is right, the best right one."""
        first, later = self.answers[:SHOWN], self.answers[SHOWN:]
        right = [row for row in later if row["image_id"] in self.targets]
        missed = not any(row["image_id"] in self.targets for row in first)
        return [*first, *(right[:1] if missed else [])]


def retrieval_sheets(record: RunRecord) -> list[Sheet]:
    """One sheet for each benchmark and split, in it a fold for each evaluation; trained methods come first."""
    folds: dict[Hall, list[Fold]] = {}
    galleries: Galleries = {}
    folders: dict[str, Artifact] = {}
    newest_first = list(reversed(record.made_by("evaluate")))
    steps = sorted(newest_first, key=lambda one: is_control(one[1]))
    for step, artifact in steps[:MAX_EVALUATIONS]:
        source = _benchmarks_of(record, artifact) or outside(record, step.name, "benchmarks", folders)
        for hall, cards in _cards(artifact, source, galleries).items():
            method, score = _headline(artifact, hall)
            about = " · ".join(word for word in (step.name, score) if word)
            fold = Fold(method or step.name, about, not is_control(artifact), cards)
            folds.setdefault(hall, []).append(fold)
    left = f" Shown are {MAX_EVALUATIONS} of {len(steps)} evaluations." if len(steps) > MAX_EVALUATIONS else ""
    return [
        Sheet(
            "retrieval",
            f"Retrieval: {NAMES.get(family, family)} ({split})",
            "" if place else ABOUT + left,
            (),
            tuple(own),
        )
        for place, ((family, split), own) in enumerate(folds.items())
    ]


def _cards(evaluation: Artifact, source: Artifact | None, galleries: Galleries) -> dict[Hall, tuple[Card, ...]]:
    """The cards of each benchmark and split of an evaluation; ``source`` holds the benchmarks' images."""
    found = {}
    for hall, asked in _asked(evaluation).items():
        gallery = None
        if source is not None:
            gallery = galleries.setdefault((source.key, hall[0]), Gallery(source, hall[0]))
            gallery.find({one for each in asked for one in _images_of(each)})
        found[hall] = tuple(_card(one, gallery) for one in asked)
    return found


def _benchmarks_of(record: RunRecord, artifact: Artifact) -> Artifact | None:
    """The artifact that holds the benchmarks' images; None where they came from files outside of the store."""
    entry = artifact.manifest.inputs.get("benchmarks") if artifact.manifest is not None else None
    return None if entry is None or entry.stage == "file" else record.library.get(entry.stage, entry.key)


def _asked(artifact: Artifact) -> dict[Hall, list[Asked]]:
    """The chosen queries of each benchmark and split, with their answers."""
    chosen = choose(artifact)
    ids = {query for places in chosen.values() for _, _, query in places}
    queries = {_place(row): row for row in rows_with(artifact, "queries.parquet", "query_id", ids)}
    answers: dict[Place, list[Row]] = {}
    for row in rows_with(artifact, "rankings.parquet", "query_id", ids, most=100_000):
        answers.setdefault(_place(row), []).append(row)
    ranked = {place: tuple(sorted(rows, key=lambda row: row["rank"])) for place, rows in answers.items()}
    return {hall: [Asked(queries[one], ranked.get(one, ())) for one in places] for hall, places in chosen.items()}


def choose(artifact: Artifact) -> dict[Hall, list[Place]]:
    """For each benchmark and split two queries that were answered at once, then two that were missed.

    Both are taken evenly from the first thousand of their kind; a missed one has its right answer beyond rank 5.
    """
    pools: dict[Hall, tuple[list[Place], list[Place], list[Place]]] = {}
    for batch in batches(artifact, "queries.parquet", ["benchmark", "split", "query_id", "best_rank"]):
        for row in batch.to_pylist():
            hit, missed, rest = pools.setdefault((row["benchmark"].split("/")[0], row["split"]), ([], [], []))
            rank = row["best_rank"]
            pool = rest if rank is None or 1 < rank <= SHOWN else hit if rank == 1 else missed
            if len(pool) < POOL:
                pool.append(_place(row))
    return {hall: _taken(*found) for hall, found in pools.items()}


def _taken(hit: list[Place], missed: list[Place], rest: list[Place]) -> list[Place]:
    taken = [*evenly(hit, PER_KIND), *evenly(missed, PER_KIND)]
    return [*taken, *evenly(rest, 2 * PER_KIND - len(taken))]


def _place(row: Row) -> Place:
    return row["benchmark"], row["split"], row["query_id"]


def _images_of(asked: Asked) -> list[str]:
    return [asked.query["reference"], *(row["image_id"] for row in asked.shown())]


def _headline(evaluation: Artifact, hall: Hall) -> tuple[str, str]:
    """The method's own name, and its headline score on this benchmark (the mean where it has parts)."""
    keep = (pc.field("split") == hall[1]) & pc.starts_with(pc.field("benchmark"), hall[0])
    rows = first_rows(evaluation, "scores.parquet", 2_000, keep)
    whole = [row for row in rows if row["benchmark"] in (hall[0], f"{hall[0]}/mean")]
    best = [row for metric in HEADLINES.get(hall[0], ()) for row in whole if row["metric"] == metric]
    method = rows[0]["method"] if rows else ""
    return method, f"{best[0]['metric']} {percent(best[0]['value'])}" if best else ""


def _card(asked: Asked, gallery: Gallery | None) -> Card:
    text = cut(asked.query["text"]) or "(asked by the image alone)"
    reference = _picture(gallery, asked.query["reference"], f"reference: {text}")
    answers = [_answer(asked, row, gallery) for row in asked.shown()]
    return Card((Framed(reference, "reference", "reference"), *answers), text, _verdict(asked), _mark(asked))


def _mark(asked: Asked) -> str:
    """A success has a right answer first, a failure none among those shown; what lies between is neither."""
    rank = asked.query["best_rank"]
    return "" if rank is None or 1 < rank <= SHOWN else "success" if rank == 1 else "failure"


def _answer(asked: Asked, row: Row, gallery: Gallery | None) -> Framed:
    rank, image_id = row["rank"], row["image_id"]
    if image_id in asked.targets:
        return Framed(_picture(gallery, image_id, f"right answer at rank {rank}"), f"✓ {rank}", "right")
    if image_id == asked.query["reference"]:
        return Framed(
            _picture(gallery, image_id, f"the reference itself at rank {rank}"), f"{rank} reference", "reference"
        )
    return Framed(_picture(gallery, image_id, f"answer at rank {rank}"), str(rank))


def _picture(gallery: Gallery | None, image_id: str, alt: str) -> Picture:
    return missing(alt, cut(image_id, 40)) if gallery is None else gallery.picture(image_id, alt)


def _verdict(asked: Asked) -> str:
    part = asked.query["benchmark"].partition("/")[2].replace("_", " ")
    right, found = len(asked.targets), sum(row["image_id"] in asked.targets for row in asked.answers[:SHOWN])
    if not right:
        words = "only the benchmark's server knows the right answers"
    elif right > 1:
        words = f"{found} of {right} right answers among the first {SHOWN}"
    else:
        words = f"right answer at rank {number(asked.query['best_rank'])}"
    return " · ".join(one for one in (part, words, f"query {cut(asked.query['query_id'], 30)}") if one)
