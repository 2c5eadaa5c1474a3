from pathlib import Path

import pytest

from tests.support.small_run import RecordedRun, new_store, shared_store
from zscir.pipeline.stage import stage
from zscir.report.run_data import read_record
from zscir.report.scores import headline_score_remarks, headline_score_rows, page_score_tables, read_scores
from zscir.runtime.schemas import SCORES_SCHEMA, write_table
from zscir.runtime.specs import Spec
from zscir.stages.tabulate import TabulateSpec, tabulate
from zscir.store.artifacts import Artifact, Facts


class GivenSpec(Spec):
    """Scores as they are: benchmark, metric, value."""

    method: str
    numbers: tuple[tuple[str, str, float], ...]
    protocol: str = "official/pli/clip"
    backbone: str = "ViT"
    split: str = "val"


@stage(version=1)
def evaluate(spec: GivenSpec, out: Path) -> Facts:
    """Scores without intervals."""
    who = {"split": spec.split, "protocol": spec.protocol, "method": spec.method, "backbone": spec.backbone, "n": 200}
    rows = [{**who, "benchmark": name, "metric": metric, "value": value} for name, metric, value in spec.numbers]
    write_table(out / "scores.parquet", SCORES_SCHEMA, rows)
    return {"rows": len(rows)}


def run_of(name: str, specs: list[GivenSpec], table: bool = False) -> RecordedRun:
    run = RecordedRun(new_store(name), f"20260101-000000-{name}")
    made: list[Artifact] = [run.step(f"score_{number}", evaluate, spec) for number, spec in enumerate(specs)]
    if table:
        run.step("tabulate", tabulate, TabulateSpec(), scores=made)
    run.recorder.finish("succeeded")
    return run


CIRR = (("cirr", "R@1", 20.0), ("cirr", "R@5", 50.0), ("cirr", "Rsub@1", 60.0))
BETTER = (("cirr", "R@1", 25.0), ("cirr", "R@5", 45.0), ("cirr", "Rsub@1", 60.0))
ALL = (
    ("fashioniq/mean", "R@10", 30.0), ("fashioniq/dress", "R@10", 31.0), ("cirr", "R@1", 20.0),
    ("cirr", "Rsub@1", 60.0), ("circo", "mAP@5", 12.0), ("genecis/focus_object", "R@1", 14.0),
    ("genecis/mean", "R@1", 15.0),
)  # fmt: skip


def test_each_method_is_a_row_of_headline_numbers() -> None:
    run = run_of("heads", [GivenSpec(method="pli", numbers=ALL)])
    expected = {"FashionIQ R@10": 30.0, "CIRR R@1": 20.0, "CIRR Rsub@1": 60.0, "CIRCO mAP@5": 12.0, "GeneCIS R@1": 15.0}
    assert headline_score_rows(run.store, "latest") == [{"method": "pli", **expected}]


def test_what_was_not_measured_is_empty_and_every_row_has_the_same_columns() -> None:
    run = run_of("holes", [GivenSpec(method="a", numbers=CIRR), GivenSpec(method="b", numbers=ALL)])
    first, second = headline_score_rows(run.store, "latest")
    assert list(first) == list(second)
    assert (first["CIRR R@1"], first["CIRCO mAP@5"]) == (20.0, None)


def test_parts_stand_for_themselves_where_there_is_no_mean() -> None:
    run = run_of("parts", [GivenSpec(method="pli", numbers=(("fashioniq/dress", "R@10", 31.0),))])
    assert headline_score_rows(run.store, "latest") == [{"method": "pli", "FashionIQ dress R@10": 31.0}]


def test_controls_stand_above_the_methods() -> None:
    names = ["pli", "image only", "sum, lambda 1", "my text only"]
    run = run_of("order", [GivenSpec(method=name, numbers=CIRR) for name in names])
    assert [row["method"] for row in headline_score_rows(run.store, "latest")] == [
        "image only",
        "sum, lambda 1",
        "pli",
        "my text only",
    ]
    (overview, *_) = page_score_tables(read_record(run.store, "latest"))
    assert [line.kind for line in overview.rows] == ["control", "control", "method", "method"]


def test_the_best_of_each_column_is_marked_and_equals_share_it() -> None:
    run = run_of("best", [GivenSpec(method="a", numbers=CIRR), GivenSpec(method="b", numbers=BETTER)])
    table = page_score_tables(read_record(run.store, "latest"))[1]
    assert [head.name for head in table.columns] == ["R@1", "R@5", "Rsub@1"]
    assert [[cell.best for cell in line.cells if cell] for line in table.rows] == [
        [False, True, True],
        [True, False, True],
    ]


def test_a_lone_method_is_not_called_the_best() -> None:
    run = run_of("lone", [GivenSpec(method="a", numbers=CIRR)])
    assert not any(cell.best for cell in page_score_tables(read_record(run.store, "latest"))[0].rows[0].cells if cell)


def test_other_splits_and_ranking_protocols_never_share_a_column() -> None:
    specs = [
        GivenSpec(method="a", numbers=(("fashioniq/mean", "R@10", 30.0),), protocol="original/pli/clip"),
        GivenSpec(method="b", numbers=(("fashioniq/mean", "R@10", 40.0),), protocol="val/pli/clip"),
        GivenSpec(method="c", numbers=(("fashioniq/mean", "R@10", 50.0),), protocol="original/pli/clip", split="test"),
    ]
    run = run_of("protocols", specs)
    rows = headline_score_rows(run.store, "latest")
    titles = [f"FashionIQ R@10 ({about}, clip)" for about in ("test, original", "val, original", "val, val")]
    assert sorted(set(rows[0]) - {"method"}) == titles
    assert [rows[0][titles[1]], rows[0][titles[0]], rows[1][titles[2]]] == [30.0, None, 40.0]
    overview = page_score_tables(read_record(run.store, "latest"))[0]
    assert sorted(head.about for head in overview.groups) == [
        "test, original, clip; texts pli", "val, original, clip; texts pli", "val, val, clip; texts pli",
    ]  # fmt: skip


def test_another_preprocessing_is_another_column() -> None:
    specs = [GivenSpec(method=fit, numbers=CIRR, protocol=f"official/pli/{fit}") for fit in ("clip", "targetpad")]
    rows = headline_score_rows(run_of("fits", specs).store, "latest")
    assert [[key for key, value in row.items() if value == 20.0] for row in rows] == [
        ["CIRR R@1 (val, official, clip)"], ["CIRR R@1 (val, official, targetpad)"],
    ]  # fmt: skip


def test_text_protocols_may_differ_between_methods_and_stand_in_the_small_print() -> None:
    specs = [GivenSpec(method=name, numbers=CIRR, protocol=f"official/{name}/clip") for name in ("pli", "tscir")]
    overview = page_score_tables(read_record(run_of("texts", specs).store, "latest"))[0]
    assert [head.about for head in overview.groups] == ["val, official, clip; texts pli, tscir"]
    assert [line.about for line in overview.rows] == ["ViT · pli · clip", "ViT · tscir · clip"]


def test_two_backbones_have_a_column_that_names_them() -> None:
    specs = [GivenSpec(method="pli", numbers=CIRR, backbone=name) for name in ("ViT-B", "ViT-L")]
    rows = headline_score_rows(run_of("backbones", specs).store, "latest")
    assert [row["backbone"] for row in rows] == ["ViT-B", "ViT-L"]


def test_the_table_of_the_run_is_the_truth_where_there_is_one() -> None:
    specs = [GivenSpec(method="a", numbers=CIRR), GivenSpec(method="text only", numbers=BETTER)]
    run = run_of("table", specs, table=True)
    without = run_of("bare", specs)
    assert headline_score_rows(run.store, "latest") == headline_score_rows(without.store, "latest")
    only_some = RecordedRun(run.store, "20260101-000001-some")
    made = [only_some.step(f"score_{number}", evaluate, spec) for number, spec in enumerate(specs)]
    only_some.step("tabulate", tabulate, TabulateSpec(), scores=made[:1])
    only_some.recorder.finish("succeeded")
    assert [row["method"] for row in headline_score_rows(run.store, "20260101-000001-some")] == ["a"]


def test_intervals_of_the_evaluations_are_shown() -> None:
    overview, *more = page_score_tables(read_record(shared_store(), "latest"))
    grid = read_scores(read_record(shared_store(), "latest"))
    assert len(overview.rows) == len(grid.methods) == 5
    for line in overview.rows:
        for cell in line.cells:
            assert cell is not None
            low, high = (float(word) for word in cell.interval.split(" to "))
            assert low - 0.05 <= cell.value <= high + 0.05
    titles = [table.title for table in more]
    assert titles[:3] == ["FashionIQ", "FashionIQ part by part", "CIRR"]
    assert "GeneCIS part by part" in titles


def test_a_run_without_evaluation_has_no_scores() -> None:
    run = run_of("none", [])
    assert headline_score_rows(run.store, "latest") == []
    assert page_score_tables(read_record(run.store, "latest")) == []


def test_a_table_without_controls_says_so_on_the_page_and_for_the_console() -> None:
    run = run_of("lacking", [GivenSpec(method="pli", numbers=CIRR), GivenSpec(method="image only", numbers=CIRR)])
    said = "CONTROLS MISSING: no text only, no sum of ViT in cirr val (official, clip)."
    assert [table.remarks for table in page_score_tables(read_record(run.store, "latest"))] == [(said,)] * 2
    assert headline_score_remarks(run.store, "latest") == [said]
    assert not any(table.remarks for table in page_score_tables(read_record(shared_store(), "latest")))
    assert headline_score_remarks(shared_store(), "latest") == []


def test_trained_towers_scored_as_a_sum_are_a_method_and_no_control() -> None:
    names = ["pli: sum, lambda 0.5 (tuned)", "sum, lambda 1"]
    run = run_of("tuned", [GivenSpec(method=name, numbers=CIRR) for name in names])
    (overview, *_) = page_score_tables(read_record(run.store, "latest"))
    assert [(line.method, line.kind) for line in overview.rows] == [(names[1], "control"), (names[0], "method")]


def test_hits_and_n_stand_beside_every_recall() -> None:
    for table in page_score_tables(read_record(shared_store(), "latest")):
        for line in table.rows:
            for head, cell in zip(table.columns, line.cells, strict=True):
                assert cell is not None
                if "mAP" in head.name or "mean" in head.name:
                    assert cell.of == ""
                    continue
                hits, n = (int(word) for word in cell.of.split("/"))
                assert head.about == f"n {n}"
                if not table.title.startswith(("Overview", "FashionIQ", "GeneCIS")):
                    assert cell.value == pytest.approx(100 * hits / n)


@pytest.mark.parametrize("reference", ["latest", "20260101-0000"])
def test_a_run_is_found_by_prefix(reference: str) -> None:
    run = run_of("prefix", [GivenSpec(method="a", numbers=CIRR)])
    assert len(headline_score_rows(run.store, reference)) == 1
