"""The page of faults: every test that it names is there, and is one of those that `make faults` runs."""

import re
import subprocess
from pathlib import Path

from tests.faults.matrix import table

TESTS = Path(__file__).resolve().parents[1]
ROWS = table("test")


def named() -> set[str]:
    """The test files of the last column."""
    words = {word for row in ROWS for word in re.findall(r"`([\w/]+)`", row[-1])}
    return {f"tests/{word}.py" if "/" in word else f"tests/faults/{word}.py" for word in words}


def test_every_row_names_tests_that_are_there() -> None:
    assert len(ROWS) > 25
    assert all(re.search(r"`[\w/]+`", row[-1]) for row in ROWS)
    assert [one for one in sorted(named()) if not (TESTS.parent / one).is_file()] == []


def test_make_faults_runs_every_one_of_them() -> None:
    words = ["make", "-n", "faults", "VENV=.venv"]
    done = subprocess.run(words, cwd=TESTS.parent, capture_output=True, text=True, check=True)
    run = set(done.stdout.split())
    assert [one for one in sorted(named()) if one not in run and not one.startswith("tests/faults/")] == []
    assert "tests/faults" in run
