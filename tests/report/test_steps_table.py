from pathlib import Path

import pytest

from tests.support.small_run import PlainSpec, RecordedRun, download, ingest, new_store, shared_store
from zscir.pipeline.stage import stage
from zscir.report.rejects import MAX_SHOWN, reject_examples, vary_by_reason
from zscir.report.run_data import read_record
from zscir.report.steps_table import MAX_REASONS_SHOWN, StepTableRow, draw_graph, shown_facts, step_table_rows
from zscir.report.summary import tiles_of
from zscir.runtime.schemas import REJECTS_SCHEMA, write_table
from zscir.store.artifacts import Artifact, Facts


@pytest.fixture(scope="module")
def rows() -> dict[str, StepTableRow]:
    return {row.step.name: row for row in step_table_rows(read_record(shared_store(), "latest"))}


def test_rows_in_and_out_are_those_of_the_artifacts(rows: dict[str, StepTableRow]) -> None:
    assert (rows["ingest"].inputs, rows["ingest"].rows) == ((), 54)
    assert [(source.role, source.rows) for source in rows["download"].inputs] == [("pairs", 54)]
    assert [(source.role, source.rows) for source in rows["mask_triplets"].inputs] == [("images", 54)]
    (scores,) = rows["table"].inputs
    assert (scores.role, scores.artifacts) == ("scores", 5)
    assert scores.rows == 5 * (rows["score_pli"].rows or 0)


def test_rejects_are_counted_by_reason_and_as_a_share(rows: dict[str, StepTableRow]) -> None:
    ingested = rows["ingest"]
    assert [(reason.name, reason.count, reason.percent) for reason in ingested.reasons] == [
        ("duplicate", 3, 100.0),
        ("no_caption", 3, 100.0),
    ]
    assert (ingested.rejects, ingested.rejected_from) == (
        6,
        60,
    )  # a list from outside: what came in plus what was left out
    assert (rows["download"].rejects, rows["download"].rejected_from) == (4, 54)  # a row for every URL
    assert (rows["mask_triplets"].rejects, rows["mask_triplets"].rejected_from) == (None, None)


def test_the_head_counts_what_the_steps_count(rows: dict[str, StepTableRow]) -> None:
    found = {tile.name: tile.value for tile in tiles_of(list(rows.values()))}
    assert found == {
        "pairs": "54", "URLs tried": "54", "masked triplets": "50", "synthesised triplets": "49", "trainings": "2",
        "left out, with a reason": "10",
    }  # fmt: skip


def test_the_graph_has_a_box_for_each_step(rows: dict[str, StepTableRow]) -> None:
    drawing, boxes = draw_graph(list(rows.values()))
    assert {box.name for box in boxes} == set(rows)
    assert sum(edge.reaches_box for edge in drawing.edges) == sum(len(row.step.parents) for row in rows.values()) == 15
    assert next(box.line for box in boxes if box.name == "ingest").startswith("54 rows · ")


def test_facts_are_short() -> None:
    facts = {
        "rows": 5,
        "rejects": 2,
        "rejects_by_reason": {"a": 2},
        "ok": 1234,
        "share": 0.5,
        "kinds": {"x": 1, "y": 2},
        "deep": {"x": {}},
        "name": "n" * 200,
    }
    shown = shown_facts(facts)
    assert shown.pop("name").endswith("…")
    assert shown == {"ok": "1,234", "share": "0.50", "kinds": "x 1, y 2"}
    many = shown_facts({f"fact {number}": number for number in range(30)})
    assert many["more"] == "23"
    assert len(many) == 8


@stage(version=1)
def filtered(spec: PlainSpec, pairs: Artifact, out: Path) -> Facts:
    """Rejects of ten reasons, the n-th of them n times."""
    rejects = [
        {"stage": "filtered", "id": f"{reason}-{number}", "reason": f"reason {reason:02d}", "detail": "d"}
        for reason in range(1, 11)
        for number in range(reason)
    ]
    write_table(out / "rejects.parquet", REJECTS_SCHEMA, rejects)
    return {"rows": 1}


def test_rare_reasons_are_put_together() -> None:
    run = RecordedRun(new_store("reasons"), "20260101-000000-aaaaaa")
    pairs = run.step("ingest", ingest, PlainSpec())
    run.step("filtered", filtered, PlainSpec(), pairs=pairs)
    row = step_table_rows(read_record(run.store, "latest"))[1]
    assert row.rejects == 55
    assert [reason.count for reason in row.reasons] == [10, 9, 8, 7, 6, 5, 10]
    assert row.reasons[-1].name == "4 more reasons"
    assert len(row.reasons) == MAX_REASONS_SHOWN + 1
    assert sorted(
        {reject.reason for reject in reject_examples(read_record(run.store, "latest")) if reject.step == "filtered"}
    ) == [f"reason {number:02d}" for number in range(1, 9)]


def test_examples_show_each_reason_before_any_twice() -> None:
    many = [{"reason": "common", "id": f"{number}", "detail": ""} for number in range(100)]
    found = vary_by_reason([*many, {"reason": "rare", "id": "x", "detail": ""}])
    assert len(found) == MAX_SHOWN
    assert [row["reason"] for row in found].count("rare") == 1


def test_a_step_whose_artifact_is_gone_says_so() -> None:
    run = RecordedRun(new_store("gone"), "20260101-000000-aaaaaa")
    pairs = run.step("ingest", ingest, PlainSpec())
    made = run.step("download", download, PlainSpec(), pairs=pairs)
    made.path("00000.tar").unlink()
    row = step_table_rows(read_record(run.store, "latest"))[1]
    assert (row.rows, row.problem) == (None, "file missing: 00000.tar")
