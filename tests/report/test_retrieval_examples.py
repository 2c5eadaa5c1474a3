import json
from pathlib import Path

import pyarrow.parquet as pq

from tests.support.small_run import QUERIES, RecordedRun, new_store, shared_store
from zscir.pipeline.stage import stage
from zscir.report.retrieval_examples import MAX_EVALUATIONS, choose_queries, retrieval_sheets
from zscir.report.run_data import read_record
from zscir.runtime.schemas import RANKINGS_SCHEMA, SCORES_SCHEMA, write_table
from zscir.runtime.specs import Spec
from zscir.store.artifacts import Artifact, Facts


class RankSpec(Spec):
    """The rank of each query's right answer; 0: only a server knows it."""

    ranks: tuple[int, ...]
    number: int = 0


@stage(version=1)
def evaluate(spec: RankSpec, out: Path) -> Facts:
    """Queries q0, q1, ... over a gallery g1..g9 of which the right answer has the given rank."""
    queries, rankings = [], []
    for index, rank in enumerate(spec.ranks):
        place = {"benchmark": "cirr", "split": "val", "query_id": f"q{index}"}
        more = {
            "reference": "g3",
            "text": f"text {index}",
            "targets": json.dumps(["right"] if rank else []),
            "words": 2,
        }
        queries.append({**place, **more, "best_rank": rank or None, "target_rank": rank or None, "aspects": "[]"})
        listed = [(at, "right" if at == rank else f"g{at}") for at in range(1, 10)]
        listed += [(rank, "right")] if rank > 9 else []
        rankings += [{**place, "rank": at, "image_id": name, "score": 1.0 / at} for at, name in listed]
    write_table(out / "queries.parquet", QUERIES, queries)
    write_table(out / "rankings.parquet", RANKINGS_SCHEMA, rankings)
    write_table(out / "scores.parquet", SCORES_SCHEMA, [])
    return {"rows": len(queries)}


def folder_of(tmp_path: Path, ranks: tuple[int, ...]) -> Artifact:
    evaluate(RankSpec(ranks=ranks), out=tmp_path)
    return Artifact.of_folder(tmp_path)


def test_two_successes_and_two_failures_are_chosen(tmp_path: Path) -> None:
    found = choose_queries(folder_of(tmp_path, (1, 30, 3, 1, 1, 8, 1, 77, 2)))
    assert [query for _, _, query in found["cirr", "val"]] == ["q0", "q4", "q1", "q5"]


def test_where_nothing_succeeds_or_fails_the_rest_is_shown(tmp_path: Path) -> None:
    found = choose_queries(folder_of(tmp_path, (2, 3, 4, 5, 2)))
    assert len(found["cirr", "val"]) == 4


def cards_of(ranks: tuple[int, ...], name: str) -> list[tuple[str, list[tuple[str, str]]]]:
    run = RecordedRun(new_store(name), "20260101-000000-aaaaaa")
    run.step("score", evaluate, RankSpec(ranks=ranks))
    (sheet,) = retrieval_sheets(read_record(run.store, "latest"))
    cards = sheet.folds[0].cards
    return [(card.detail, [(shot.label, shot.frame) for shot in card.pictures]) for card in cards]


def test_the_right_answer_is_framed_and_so_is_the_reference() -> None:
    ((detail, shots),) = cards_of((1,), "framed")
    assert detail == "right answer at rank 1 · query q0"
    assert shots == [
        ("reference", "reference"),
        ("✓ 1", "right"),
        ("2", ""),
        ("3 reference", "reference"),
        ("4", ""),
        ("5", ""),
    ]


def test_a_missed_right_answer_stands_behind_the_first_five() -> None:
    ((detail, shots),) = cards_of((40,), "missed")
    assert detail == "right answer at rank 40 · query q0"
    assert [label for label, _ in shots] == ["reference", "1", "2", "3 reference", "4", "5", "✓ 40"]


def test_successes_and_failures_are_marked_and_what_lies_between_is_not() -> None:
    run = RecordedRun(new_store("marks"), "20260101-000000-aaaaaa")
    for number, rank in enumerate((1, 3, 40, 0)):
        run.step(f"score_{number}", evaluate, RankSpec(ranks=(rank,), number=number))
    (sheet,) = retrieval_sheets(read_record(run.store, "latest"))
    marks = {fold.about: fold.cards[0].mark for fold in sheet.folds}
    assert marks == {"score_0": "success", "score_1": "", "score_2": "failure", "score_3": ""}


def test_the_card_says_that_only_a_server_has_the_answers() -> None:
    ((detail, shots),) = cards_of((0,), "hidden")
    assert "only the benchmark's server knows" in detail
    assert all(frame != "right" for _, frame in shots)


def test_many_evaluations_are_not_all_shown() -> None:
    run = RecordedRun(new_store("many"), "20260101-000000-aaaaaa")
    for number in range(MAX_EVALUATIONS + 3):
        run.step(f"score_{number}", evaluate, RankSpec(ranks=(1, 9), number=number))
    (sheet,) = retrieval_sheets(read_record(run.store, "latest"))
    assert len(sheet.folds) == MAX_EVALUATIONS
    assert f"Shown are {MAX_EVALUATIONS} of {MAX_EVALUATIONS + 3} evaluations." in sheet.about


def test_each_benchmark_has_a_sheet_with_methods_open_and_controls_folded() -> None:
    sheets = retrieval_sheets(read_record(shared_store(), "latest"))
    names = ["FashionIQ", "CIRR", "CIRCO", "GeneCIS"]
    assert [sheet.title for sheet in sheets] == [f"Retrieval: {name} (val)" for name in names]
    for sheet in sheets:
        assert [(fold.title, fold.open) for fold in sheet.folds] == [
            ("tscir_map", True), ("pli", True), ("sum, lambda 0.4, tuned", False), ("text only", False),
            ("image only", False),
        ]  # fmt: skip
        assert all(shot.picture.uri for fold in sheet.folds for card in fold.cards for shot in card.pictures)
    assert sheets[0].about
    assert not any(sheet.about for sheet in sheets[1:])


def test_frames_agree_with_the_tables() -> None:
    record = read_record(shared_store(), "latest")
    step, artifact = next(pair for pair in record.steps_with_artifact("evaluate") if pair[0].name == "score_pli")
    queries = {
        row["text"]: row
        for row in pq.read_table(artifact.path("queries.parquet")).to_pylist()
        if row["benchmark"] == "circo"
    }
    circo = next(sheet for sheet in retrieval_sheets(record) if "CIRCO" in sheet.title)
    for card in next(fold for fold in circo.folds if step.name in fold.about).cards:
        row = queries[card.text]
        right = [int(shot.label.split()[1]) for shot in card.pictures if shot.frame == "right"]
        assert min(right) == row["best_rank"]
        assert (row["best_rank"] > 5) == (len(card.pictures) == 7)
