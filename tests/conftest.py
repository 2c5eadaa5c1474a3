"""Every test sees a machine without a home folder, a cloud, a hub or a Prefect server: only what it made itself."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

import tests.support.environment  # noqa: F401 - before what it sets the environment for
from tests.faults.matrix import Measured, faults, rows_of
from tests.support.console import cli  # noqa: F401 - a fixture of all tests
from tests.support.stores import s3, store  # noqa: F401 - fixtures of all tests

# No deadline: on a shared machine the time of one example says nothing. No database: a test does the same every time.
settings.register_profile("zscir", deadline=None, database=None, derandomize=True)
settings.load_profile("zscir")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where several processes take whole files, those with slow tests come early: nobody waits at the end.

    Those with properties come before: Hypothesis minds when a thread that Prefect left in the process uses ``random``.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        properties = {item.path for item in items if getattr(getattr(item, "obj", None), "is_hypothesis_test", False)}
        items.sort(key=lambda item: (item.path not in properties, item.path not in slow))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the real annotations and golden cases; the tests that need it are skipped where it is not."""
    folder = Path(os.environ.get("ZSCIR_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (folder / "golden" / "recipes.py").is_file():
        pytest.skip(f"no real annotations and golden cases at {folder}; set ZSCIR_SHARED")
    return folder


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Measured:
    """``measured(fault, line)``: what this test measured of a fault, by its name in docs/faults.md."""

    def say(fault: str, line: str) -> None:
        assert fault in faults(), f"{fault!r} is no row of docs/faults.md"
        record_property("measured", (fault, line))

    return say


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was measured, as rows of the page of faults; also in the file that ZSCIR_TEST_MEASURED names."""
    said = [value for report in terminalreporter.getreports("passed") for name, value in report.user_properties
            if name == "measured"]  # fmt: skip
    if rows := rows_of(said):
        terminalreporter.section("measured")
        terminalreporter.line("\n".join(rows))
        if path := os.environ.get("ZSCIR_TEST_MEASURED"):
            Path(path).write_text("\n".join(["| fault | measured |", "|---|---|", *rows, ""]))
