"""Limits of a run: in the pipeline's file or changed by word, in no key; a run over its budget stops cleanly."""

import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.toy_pipelines import STEPS, direct, load_toy, run_toy, write_toy
from tests.support.toys import store_at
from zscir.lineage.sql_views import query_store_rows
from zscir.pipeline.budget import Budget
from zscir.pipeline.estimates import Estimate
from zscir.pipeline.execute import execute_run, rerun_request
from zscir.pipeline.limits import Limits, StepLimits
from zscir.pipeline.run import Run, list_runs
from zscir.runtime.errors import OverBudget, RequestError, StageError
from zscir.runtime.settings import Prices
from zscir.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return store_at(tmp_path / "store", tmp_path / "cache")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_toy(tmp_path / "specs")


@pytest.fixture
def no_other_alarm() -> Iterator[None]:
    """The test runner's own timer is put aside."""
    before = signal.setitimer(signal.ITIMER_REAL, 0)
    yield
    signal.setitimer(signal.ITIMER_REAL, *before)


def estimate(hours: float, usd: float | None = None) -> Estimate:
    return Estimate(1, 3600 * hours, 3600 * hours, None, None, None, usd)


def test_limits_are_read_from_the_file_and_changed_by_word(tmp_path: Path) -> None:
    steps = STEPS.replace("[[steps]]", "[limits]\nmax_hours = 2\nretries = 5\n[[steps]]", 1)
    steps = steps.replace('stage = "tabletop"', 'stage = "tabletop"\nlimits = { max_hours = 0.5 }')
    pipeline = load_toy(
        tmp_path / "a", "limits.max_hours=3", "short.limits.max_hours=1", "tabletop.limits.max_hours=0.25", steps=steps
    )
    assert pipeline.limits == Limits(max_hours=3, retries=5)
    assert {step.name: step.limits.max_hours for step in pipeline.steps} == {
        "tabletop": 0.25, "short": 1.0, "ingest": None,
    }  # fmt: skip


def test_no_limit_is_a_part_of_a_spec(store: Store, path: Path) -> None:
    made = run_toy(store, path)
    again = run_toy(store, path, "limits.max_hours=5", "limits.retries=0", "short.limits.max_hours=4")
    assert {row["outcome"] for row in again.recorder.steps()} == {"reused"}
    assert made.pipeline.digest() == again.pipeline.digest()


@pytest.mark.parametrize(
    "change", ["limits.max_hours=0", "limits.hours=1", "short.limits.max_usd=1", "limits.retries=x"]
)
def test_a_limit_that_makes_no_sense_is_refused(path: Path, store: Store, change: str) -> None:
    with pytest.raises(RequestError, match="limits"):
        run_toy(store, path, change)


def test_a_limit_in_dollars_needs_a_price(store: Store, path: Path) -> None:
    with pytest.raises(RequestError, match="ZSCIR_USD_PER_HOUR"):
        run_toy(store, path, "limits.max_usd=1")
    assert store.fs.find(store.root) == []


@given(limit=st.floats(0.1, 100), to_come=st.floats(0, 200))
def test_a_step_is_begun_only_if_it_is_expected_to_fit(limit: float, to_come: float) -> None:
    budget = Budget(Limits(max_hours=limit), Prices())
    if to_come < limit - 0.01:
        budget.check("x", estimate(to_come))
    if to_come > limit:
        with pytest.raises(OverBudget) as stopped_by:
            budget.check("x", estimate(to_come))
        assert float(stopped_by.value.options.removeprefix("--max-hours ")) >= 1.49 * to_come


def test_dollars_are_hours_and_tokens() -> None:
    budget = Budget(Limits(max_usd=10.0), Prices(4.0, 1.0, 2.0), time.monotonic() - 3600, 1_000_000, 500_000)
    hours, usd = budget.spent()
    assert (hours, usd) == (pytest.approx(1, abs=1e-3), pytest.approx(6, abs=1e-2))
    assert budget.deadline() == pytest.approx(time.time() + 3600, abs=5)
    budget.check("x", estimate(0.9, 3.6))
    with pytest.raises(OverBudget, match=r"limit of 10 US dollars stops it: 6 US dollars spent.*'x'.*to take 4.4"):
        budget.check("x", estimate(1.1, 4.4))


def slowly(run: Run, chosen: list[str]) -> None:
    """An engine between whose steps an hour goes by."""
    for name in chosen:
        direct(run, [name])
        run.budget._began -= 3600


def test_a_run_over_its_budget_stops_before_the_next_step_and_continues_with_more(store: Store, path: Path) -> None:
    with pytest.raises(OverBudget) as stopped_by:
        run_toy(store, path, "limits.max_hours=0.5", engine=slowly)
    assert stopped_by.value.exit_code == 3
    [row] = list_runs(store)
    assert (row["status"], row["stopped_at"]) == ("over_budget", "short")
    words = str(stopped_by.value)
    assert "0.5 hours stops it: 1 hours spent" in words
    assert f"zscir rerun {row['run_id']}" in words
    assert words.endswith("--max-hours 2")
    again = execute_run(store, rerun_request(store, "latest", None, None, ["limits.max_hours=1.0"]), direct)
    assert {row["step"]: row["outcome"] for row in again.recorder.steps()} == {
        "tabletop": "reused", "short": "made", "ingest": "made",
    }  # fmt: skip


def test_a_step_that_takes_longer_than_it_may_fails_with_the_limit_by_name(
    store: Store, path: Path, no_other_alarm: None
) -> None:
    def sleepy(*args: Any, **kwargs: Any) -> dict[str, Any]:
        time.sleep(60)
        return {}

    def engine(run: Run, chosen: list[str]) -> None:
        first, *rest = run.pipeline.steps
        asleep = replace(first, stage=replace(first.stage, function=sleepy), limits=StepLimits(max_hours=0.2 / 3600))
        run.pipeline = replace(run.pipeline, steps=(asleep, *rest))
        direct(run, chosen)

    with pytest.raises(StageError, match=r"step 'tabletop'.*longer than its limit.*tabletop\.limits\.max_hours"):
        run_toy(store, path, engine=engine)
    [row] = query_store_rows(store, "SELECT outcome, error, wall_s FROM stages")
    assert row["outcome"] == "failed"
    assert "longer than its limit" in row["error"]
    assert row["wall_s"] < 60  # it did not sleep to its end
    assert {row["outcome"] for row in run_toy(store, path).recorder.steps()} == {"made"}
