from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.small_run import BENCHMARKS, EvaluateSpec, RecordedRun, evaluate, new_store, shared_store
from zscir.report.run_data import read_record
from zscir.report.scores import headline_score_rows
from zscir.report.significance_table import comparisons, strongest
from zscir.stages.tabletop_benchmarks import tabletop_benchmarks
from zscir.stages.tabulate import TabulateSpec, tabulate


def pair(first: int, second: int, difference: float) -> dict[str, Any]:
    return {"first": first, "second": second, "difference": difference}


@given(st.lists(st.integers(0, 50), min_size=2, max_size=6), st.data())
def test_the_strongest_control_has_the_highest_score(values: list[int], data: st.DataObject) -> None:
    controls = data.draw(st.sets(st.sampled_from(range(len(values))), min_size=1))
    numbers = range(len(values))
    pairs = [pair(a, b, float(values[b] - values[a])) for a in numbers for b in numbers if a < b]
    best = strongest(pairs, controls)
    assert best in controls
    assert values[best] == max(values[control] for control in controls)


def test_without_controls_nothing_is_strongest() -> None:
    assert strongest([pair(0, 1, 3.0)], set()) == -1


def test_methods_are_tested_against_the_control_that_is_best_in_the_column() -> None:
    whole, _ = comparisons(read_record(shared_store(), "latest"))
    assert [head.name for head in whole.columns] == ["FashionIQ R@10", "CIRR R@1", "CIRCO mAP@5", "GeneCIS R@1"]
    assert [method for method, _ in whole.rows] == ["pli", "tscir_map"]
    controls = [
        row for row in headline_score_rows(shared_store(), "latest") if row["method"] not in ("pli", "tscir_map")
    ]
    for _, tests in whole.rows:
        for head, test in zip(whole.columns, tests, strict=True):
            assert test is not None
            against = next(row for row in controls if row["method"] == test.control)
            assert against[head.name] == max(row[head.name] for row in controls)
            assert (test.points > 0) == (test.won > test.lost)
            assert test.significant == (test.p_value < 0.05)


def test_categories_and_tasks_are_tested_one_by_one_too() -> None:
    _, parts = comparisons(read_record(shared_store(), "latest"))
    names = [f"FashionIQ {name}" for name in ("dress", "shirt", "toptee")]
    names += [f"GeneCIS {verb} {noun}" for noun in ("attribute", "object") for verb in ("focus", "change")]
    assert sorted(head.name.rsplit(" ", 1)[0] for head in parts.columns) == sorted(names)
    assert [method for method, _ in parts.rows] == ["pli", "tscir_map"]


def test_points_are_the_difference_of_the_scores() -> None:
    scores = {row["method"]: row for row in headline_score_rows(shared_store(), "latest")}
    whole, _ = comparisons(read_record(shared_store(), "latest"))
    for method, tests in whole.rows:
        for head, test in zip(whole.columns, tests, strict=True):
            assert test is not None
            expected = scores[method][head.name] - scores[test.control][head.name]
            assert test.points == pytest.approx(expected, abs=1e-9)


def test_a_table_without_controls_says_that_there_is_nothing_to_test_against() -> None:
    run = RecordedRun(new_store("uncontrolled"), "20260101-000000-aaaaaa")
    world = run.step("tabletop_benchmarks", tabletop_benchmarks, BENCHMARKS)
    specs = [EvaluateSpec(method=name, skill=0.3) for name in ("one", "two")]
    scores = [run.step(spec.method, evaluate, spec, benchmarks=world) for spec in specs]
    run.step("table", tabulate, TabulateSpec(), scores=scores)
    (found,) = comparisons(read_record(run.store, "latest"))
    assert found.remark.startswith("CONTROLS MISSING")
    assert found.rows == ()


def test_a_run_without_a_table_compares_nothing() -> None:
    run = RecordedRun(new_store("incomparable"), "20260101-000000-aaaaaa")
    assert comparisons(read_record(run.store, "latest")) == []
