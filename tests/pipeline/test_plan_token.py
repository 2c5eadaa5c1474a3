"""A plan's token changes with anything in the plan, and a run that was given one carries out that plan or none."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.toy_pipelines import run_toy, write_toy
from tests.support.toys import store_at
from zscir.pipeline.pipeline_file import load_pipeline
from zscir.pipeline.plan import make_plan
from zscir.pipeline.plan_token import plan_changes, plan_record, plan_token_of, save_plan
from zscir.runtime.errors import RequestError
from zscir.store.store import Store

WORDS = st.text("abc", min_size=1, max_size=3)
VALUES = st.recursive(st.integers() | WORDS | st.booleans(), lambda inner: st.dictionaries(WORDS, inner, max_size=3))
STEPS = st.fixed_dictionaries(
    {
        "action": st.sampled_from(["make", "reuse"]), "stage": WORDS, "version": st.integers(1, 9), "key": WORDS,
        "spec": st.dictionaries(WORDS, VALUES, max_size=3),
        "inputs": st.dictionaries(WORDS, st.lists(WORDS, max_size=2), max_size=2),
    }
)  # fmt: skip
PLANS = st.dictionaries(WORDS, STEPS, min_size=1, max_size=3)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return store_at(tmp_path / "store", tmp_path / "cache")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_toy(tmp_path / "specs")


def token(store: Store, path: Path, *changed: str) -> str:
    return save_plan(store, make_plan(store, load_pipeline(path, list(changed))))


def turned(value: Any) -> Any:
    """``value`` with the fields of every dictionary in the opposite order."""
    if isinstance(value, dict):
        return {name: turned(value[name]) for name in reversed(value)}
    return value


@given(PLANS)
def test_a_token_does_not_know_the_order_of_fields(plan: dict[str, dict[str, Any]]) -> None:
    assert plan_token_of(turned(plan)) == plan_token_of(plan)


@given(PLANS, st.data())
def test_a_token_changes_with_any_field_and_the_change_is_reported(
    plan: dict[str, dict[str, Any]], data: st.DataObject
) -> None:
    other = deepcopy(plan)
    step = data.draw(st.sampled_from(sorted(plan)))
    field = data.draw(st.sampled_from(sorted(plan[step])))
    match field:
        case "spec" | "inputs":
            other[step][field]["new"] = ["z"]
        case "version":
            other[step][field] += 1
        case _:
            other[step][field] += "z"
    assert plan_token_of(other) != plan_token_of(plan)
    [line] = plan_changes(plan, other)
    assert line.startswith(f"{step}: ")


def test_the_plan_that_was_looked_at_is_carried_out(store: Store, path: Path) -> None:
    run = run_toy(store, path, plan_token=token(store, path))
    assert {row["outcome"] for row in run.recorder.steps()} == {"made"}


def test_another_plan_is_refused_step_by_step_before_anything_is_written(store: Store, path: Path) -> None:
    printed = token(store, path)
    with pytest.raises(RequestError) as refused:
        run_toy(store, path, "short.max_text_chars=30", "tabletop.scenes=41", plan_token=printed)
    assert str(refused.value).splitlines()[1:3] == [
        "  tabletop: spec changed: scenes 40 -> 41",
        "  short: spec changed: max_text_chars 40 -> 30",
    ]
    assert refused.value.exit_code == 2
    assert store.fs.find(store.address("lineage")) == []


def test_a_step_made_meanwhile_is_another_plan(store: Store, path: Path) -> None:
    printed = token(store, path)
    run_toy(store, path, only="tabletop")
    with pytest.raises(RequestError, match=r"tabletop: action make -> reuse\n  short: input changed: urls \['pending"):
        run_toy(store, path, plan_token=printed)


def test_a_plan_that_is_not_in_the_store_is_only_reported_to_differ(store: Store, path: Path) -> None:
    for unknown in ("0" * 16, "../x"):
        with pytest.raises(RequestError, match="another one; that plan is not in the store"):
            run_toy(store, path, plan_token=unknown)
    printed = token(store, path)
    store.fs.rm_file(store.address("plans", f"{printed}.json"))
    assert run_toy(store, path, plan_token=printed).artifacts.keys() == {"tabletop", "short", "ingest"}


def test_steps_that_came_or_went_are_reported(store: Store, path: Path) -> None:
    before = plan_record(make_plan(store, load_pipeline(path)))
    now = {name: one for name, one in before.items() if name != "short"} | {"more": before["short"]}
    assert plan_changes(before, now) == ["short: is no step any more", "more: is a new step"]


def test_a_remembered_plan_is_small_json_that_no_listing_takes_for_an_artifact(store: Store, path: Path) -> None:
    printed = token(store, path)
    text = store.read_text("plans", f"{printed}.json")
    assert plan_token_of(json.loads(str(text))) == printed
    assert len(str(text)) < 3000
    assert store.list_keys() == []
