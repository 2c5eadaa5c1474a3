"""What a step will take is learned from this store's past, scaled by rows, and is unknown where there is no past."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.toy_pipelines import run_toy, write_toy
from tests.support.toys import store_at
from zscir.pipeline.estimates import Estimate, cost_usd, estimate_rows, estimate_steps, quantile, total_row
from zscir.pipeline.pipeline_file import load_pipeline
from zscir.pipeline.plan import PlannedStep, make_plan
from zscir.runtime.settings import Prices
from zscir.store.store import Store

PRICES = Prices(3600.0, 10.0, 20.0)  # a dollar a second


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return store_at(tmp_path / "store", tmp_path / "cache")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_toy(tmp_path / "specs")


def planned(store: Store, path: Path, *changes: str) -> list[PlannedStep]:
    return make_plan(store, load_pipeline(path, list(changes)))


def test_where_nothing_was_ever_made_nothing_is_known(store: Store, path: Path) -> None:
    plan = planned(store, path)
    assert estimate_steps(store, plan, PRICES) == {}
    assert {row["p50_s"] for row in estimate_rows(plan, {})} == {"unknown"}
    assert total_row(plan, {})["reason"] == "3 of 3 to make, 3 of them unknown"


def test_what_is_reused_takes_nothing(store: Store, path: Path) -> None:
    run_toy(store, path)
    plan = planned(store, path)
    assert estimate_steps(store, plan, PRICES) == {}
    assert {row["p50_s"] for row in estimate_rows(plan, {})} == {0.0}
    assert total_row(plan, {})["reason"] == "0 of 3 to make"


def test_a_step_is_measured_by_its_own_past_and_a_new_one_by_its_stage(store: Store, path: Path) -> None:
    first = run_toy(store, path)
    took = {row["step"]: row["wall_s"] for row in first.recorder.steps()}
    found = estimate_steps(store, planned(store, path, "short.max_text_chars=30"), PRICES)
    assert found.keys() == {"short"}
    assert (found["short"].times_made, found["short"].wall_p50_s) == (1, took["short"])
    assert found["short"].usd == pytest.approx(took["short"])
    short = first.artifacts["short"]
    assert found["short"].bytes == sum(entry.size for entry in short.entries.values())
    text = path.read_text().replace('name = "short"', 'name = "other"').replace("max_text_chars = 40", "limit = 5")
    path.write_text(text)
    other = estimate_steps(store, planned(store, path), Prices())["other"]
    assert (other.times_made, other.usd) == (2, None)
    assert other.wall_p50_s == pytest.approx((took["short"] + took["ingest"]) / 2)


def test_twice_the_rows_take_twice_the_time(store: Store, path: Path) -> None:
    run_toy(store, path)
    [short] = [step for step in planned(store, path, "short.max_text_chars=30") if step.action == "make"]
    before = estimate_steps(store, [short], PRICES)["short"].wall_p50_s
    twice = estimate_steps(store, [replace(short, input_artifacts=short.input_artifacts * 2)], PRICES)[
        "short"
    ].wall_p50_s
    assert short.input_artifacts[0].facts["rows"] > 0
    assert twice == pytest.approx(2 * before)


def test_dollars_are_time_and_tokens_or_nothing() -> None:
    assert cost_usd(1800, 2_000_000, 500_000, Prices(4.0, 1.0, 2.0)) == pytest.approx(2 + 2 + 1)
    assert cost_usd(1800, None, None, Prices(4.0)) == pytest.approx(2)
    assert cost_usd(1800, 10, 10, Prices()) is None


def test_totals_are_sums_over_what_is_known(store: Store, path: Path) -> None:
    plan = planned(store, path)
    known = {name: Estimate(2, 10.0, 20.0, 100, None, 7, 1.5) for name in ("tabletop", "short")}
    total = total_row(plan, known)
    assert (total["p50_s"], total["p90_s"], total["bytes"], total["tokens_out"], total["usd"]) == (20, 40, 200, 14, 3)
    assert total["reason"] == "3 of 3 to make, 1 of them unknown"


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20), st.floats(0, 1))
def test_a_quantile_lies_between_its_neighbours(values: list[float], share: float) -> None:
    ordered = sorted(values)
    place = share * (len(values) - 1)
    low, high = ordered[math.floor(place)], ordered[min(math.ceil(place), len(values) - 1)]
    assert low <= quantile(values, share) * (1 + 1e-12) + 1e-9
    assert quantile(values, share) <= high * (1 + 1e-12) + 1e-9
