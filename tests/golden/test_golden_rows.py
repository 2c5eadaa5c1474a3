import json

import pytest

from tests.golden.cases import CASES, LEFT_OUT, ROWS, complaint, run_all
from zscir.pipeline.stage import stage_names


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return run_all(tmp_path_factory.mktemp("golden"))


@pytest.fixture(scope="module")
def recorded():
    return json.loads(ROWS.read_text())


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_a_stage_makes_what_it_made_or_has_a_new_version(rows, recorded, name):
    problem = complaint(name, recorded.get(name), rows[name])
    assert not problem, problem


def test_every_stage_has_a_golden_row_or_a_reason_for_none():
    covered = {case.stage for case in CASES}
    assert covered | set(LEFT_OUT) == set(stage_names())
    assert covered & set(LEFT_OUT) == set()


def test_no_row_is_left_of_a_case_that_is_gone(recorded):
    assert set(recorded) == {case.name for case in CASES}


def test_every_case_has_something_to_show(rows):
    for name, row in rows.items():
        assert row["files"], name


def test_the_rows_do_not_depend_on_the_folder_or_the_time(rows, tmp_path):
    assert run_all(tmp_path) == rows


ROW = {"stage": "s", "version": 1, "spec": "a", "inputs": "b", "files": {"x": "1", "y": "2"}}


@pytest.mark.parametrize(
    ("recorded", "change", "words"),
    [
        (ROW, {}, []),
        (None, {}, ["no golden row yet", "python -m tests.golden.record"]),
        (ROW, {"files": {"x": "1", "y": "3"}}, ["(y)", "still version 1", "raise the version in zscir/stages/s.py"]),
        (ROW, {"files": {"x": "1"}}, ["(y)", "still version 1"]),
        (ROW, {"version": 2, "files": {"x": "9"}}, ["of another version", "python -m tests.golden.record"]),
        (ROW, {"inputs": "c"}, ["of another inputs", "python -m tests.golden.record"]),
    ],
)
def test_a_complaint_says_what_to_do(recorded, change, words):
    text = complaint("row", recorded, ROW | change)
    assert bool(text) == bool(words)
    for word in words:
        assert word in text
