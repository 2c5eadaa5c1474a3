"""The page of faults: the tests that it names are there, are run by `make faults`, and measure what it says."""

import re
import subprocess
from pathlib import Path

from tests.faults.matrix import faults, rows_of, table

ROOT = Path(__file__).resolve().parents[2]
ROWS = table("test")


def named(row: list[str]) -> list[str]:
    """The test files of the last column."""
    words = re.findall(r"`([\w/]+)`", row[-1])
    return [f"tests/{word}.py" if "/" in word else f"tests/faults/{word}.py" for word in words]


def test_every_row_names_tests_that_are_there() -> None:
    assert len(ROWS) > 25
    assert all(named(row) for row in ROWS)
    assert [name for row in ROWS for name in named(row) if not (ROOT / name).is_file()] == []


def test_make_faults_runs_every_one_of_them() -> None:
    words = ["make", "-n", "faults", "VENV=.venv"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    run = set(done.stdout.split())
    elsewhere = [name for row in ROWS for name in named(row) if not name.startswith("tests/faults/")]
    assert [name for name in elsewhere if name not in run] == []
    assert "tests/faults" in run


def test_every_row_has_what_was_measured_and_a_test_of_it_that_measures() -> None:
    measured = table("measured")
    assert [row[0] for row in measured] == faults()
    assert [row[0] for row in measured if not re.search(r"\d", row[-1])] == []
    sources = {row[0]: "".join((ROOT / name).read_text() for name in named(row)) for row in ROWS}
    assert [fault for fault, text in sources.items() if f'"{fault}"' not in text] == []


def test_what_was_measured_becomes_rows_in_the_order_of_the_page_and_once() -> None:
    first, second, *_ = faults()
    measured = [(second, "a"), (first, "b"), (second, "a"), (second, "c")]
    assert rows_of(measured) == [f"| {first} | b |", f"| {second} | a; c |"]
