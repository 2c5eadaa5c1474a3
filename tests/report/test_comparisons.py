from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.report.small_run import Walk, new_store, shared_store
from zscir.report.comparisons import comparisons, strongest
from zscir.report.record import read_record


def pair(first: int, second: int, difference: float) -> dict[str, Any]:
    return {"first": first, "second": second, "difference": difference}


@given(st.lists(st.integers(0, 50), min_size=2, max_size=6), st.data())
def test_the_strongest_control_has_the_highest_score(values: list[int], data: st.DataObject) -> None:
    controls = data.draw(st.sets(st.sampled_from(range(len(values))), min_size=1))
    numbers = range(len(values))
    pairs = [pair(a, b, float(values[b] - values[a])) for a in numbers for b in numbers if a < b]
    best = strongest(pairs, controls)
    assert best in controls
    assert values[best] == max(values[one] for one in controls)


def test_without_controls_nothing_is_strongest() -> None:
    assert strongest([pair(0, 1, 3.0)], set()) == -1


def test_methods_are_tested_against_the_control_that_is_best_in_the_column() -> None:
    (table,) = comparisons(read_record(shared_store(), "latest"))
    assert [head.name for head in table.columns] == ["FashionIQ R@10", "CIRR R@1", "CIRCO mAP@5", "GeneCIS R@1"]
    assert [method for method, _ in table.rows] == ["pli", "tscir_map"]
    for _, tests in table.rows:
        for test in tests[1:]:
            assert test is not None
            assert test.against == "sum, lambda 0.4, tuned"
            assert test.points > 0
            assert test.won > test.lost
            assert test.sure == (test.p_value < 0.05)


def test_points_are_the_difference_of_the_scores() -> None:
    from zscir.report.scores import score_rows

    scores = {row["method"]: row["CIRR R@1"] for row in score_rows(shared_store(), "latest")}
    (table,) = comparisons(read_record(shared_store(), "latest"))
    for method, tests in table.rows:
        test = tests[1]
        assert test is not None
        assert test.points == scores[method] - scores["sum, lambda 0.4, tuned"]


def test_a_run_without_a_table_compares_nothing() -> None:
    walk = Walk(new_store("incomparable"), "20260101-000000-aaaaaa")
    assert comparisons(read_record(walk.store, "latest")) == []
