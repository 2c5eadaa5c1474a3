"""What a gc keeps, against a brute-force oracle over random stores, and by hand."""

import itertools
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.stored_histories import Attic
from tests.support.toys import store_at
from zscir.maintenance.delete import delete_unreferenced
from zscir.maintenance.retention import RetentionPolicy, dependents_first, mark_store
from zscir.runtime.errors import RequestError

MONTH = RetentionPolicy(1, timedelta(days=14))
AGES = st.sampled_from([0, 5, 20, 40])


@pytest.fixture
def attic(tmp_path):
    return Attic(store_at(tmp_path / "store", tmp_path / "cache"))


def cleared(attic, policy=MONTH):
    delete_unreferenced(attic.store, mark_store(attic.store, policy))
    return attic.left()


@st.composite
def attics(draw):
    """(artifacts as (age, inputs, shared), runs as (used, age, status, pipeline, whole, chunks)), oldest run first."""
    count = draw(st.integers(1, 6))
    some = [st.lists(st.integers(0, n - 1), unique=True, max_size=2) if n else st.just([]) for n in range(count)]
    things = [(draw(AGES), draw(some[n]), draw(some[n])) for n in range(count)]
    ages = sorted(draw(st.lists(AGES, max_size=4)), reverse=True)
    used = st.lists(st.integers(0, count - 1), unique=True, max_size=3)
    status = st.sampled_from(["succeeded", "succeeded", "succeeded", "failed", "died", "running", "interrupted"])
    runs = [
        (draw(used), age, draw(status), draw(st.sampled_from("ab")), draw(st.booleans()), draw(used)) for age in ages
    ]
    return things, runs


def oracle(things, runs, keep):
    """The numbers that must be left: roots by the rules of docs/operations.md, with paths of any length tried."""
    kept_runs, since = set(), 14
    for number, (_, age, status, pipeline, _, _) in enumerate(runs):
        if status == "succeeded":
            later = [run for run in runs[number + 1 :] if run[2] == "succeeded" and run[3] == pipeline and run[4]]
            if len(later) < keep:
                kept_runs.add(number)
        elif status == "running" or age < 14:
            kept_runs.add(number)
            since = max(since, age + 1 / 24)
    needs = {n: {*inputs, *shared} for n, (_, inputs, shared) in enumerate(things)}
    for used, _, _, _, _, parts in runs:
        for whole in used[:1]:
            needs[whole] |= set(parts)
    roots = {n for number in kept_runs for n in [*runs[number][0], *(runs[number][5] if runs[number][0] else [])]}
    roots |= {n for n, (age, _, _) in enumerate(things) if age < since}
    paths = set(roots)
    for _ in things:
        paths |= {parent for n in paths for parent in needs[n]}
    return paths


@settings(max_examples=25)
@given(attics(), st.integers(0, 2))
def test_what_is_left_is_what_can_be_reached_from_what_is_kept(drawn, keep):
    things, runs = drawn
    with tempfile.TemporaryDirectory() as folder:
        attic = Attic(store_at(Path(folder, "store"), Path(folder, "cache")))
        for age, inputs, shared in things:
            attic.put(age, inputs, shared)
        for used, age, status, pipeline, whole, parts in runs:
            chunks = {used[0]: parts} if used else {}
            attic.run(used, age, status, pipeline, only=None if whole else "x", chunks=chunks)
        before = attic.left()
        assert before == set(range(len(things)))
        left = cleared(attic, RetentionPolicy(keep, timedelta(days=14)))
        assert left == oracle(things, runs, keep)
        assert all(attic.store.lookup("shards", attic.keys[n], verify=True).problem == "" for n in left)
        assert cleared(attic, RetentionPolicy(keep, timedelta(days=14))) == left


@given(st.dictionaries(st.integers(0, 7), st.sets(st.integers(0, 7), max_size=3)))
def test_what_needs_others_goes_before_them_where_there_is_such_an_order(needs):
    forward = {str(n): {str(one) for one in parents if one < n} for n, parents in needs.items()}
    keys = {str(n) for n in range(8)}
    order = dependents_first(forward, keys)
    assert sorted(order) == sorted(keys)
    for child, parents in forward.items():
        assert all(order.index(child) < order.index(parent) for parent in parents)
    circular = {str(n): {str(one) for one in parents} for n, parents in needs.items()}
    assert sorted(dependents_first(circular, keys)) == sorted(keys)  # a forged manifest ends no gc


def test_of_every_pipeline_and_partition_the_last_whole_runs_count(attic):
    for _ in range(8):
        attic.put(40)
    attic.run([0], 39)
    attic.run([1], 38)
    attic.run([2], 37, only="ingest")  # in between: kept, and not counted
    attic.run([3], 36)
    attic.run([4], 39, pipeline="other")
    attic.run([5], 35, set=["partition.date=2026-11-01", "a.b=1"])
    attic.run([6], 34, set=["partition.date=2026-11-02"])
    assert cleared(attic, RetentionPolicy(2, timedelta(days=14))) == {1, 2, 3, 4, 5, 6}


def test_a_run_of_a_part_keeps_the_failed_run_that_it_went_on_from(attic):
    for _ in range(3):
        attic.put(40)
    attic.run([2], 41)
    failed = attic.run([0], 40, "failed")
    attic.run([1], 39, only="evaluate", parent=failed)
    assert cleared(attic) == {0, 1, 2}
    attic.run([1], 38)
    assert cleared(attic) == {1}


def test_what_stopped_lately_loses_nothing_and_what_stopped_long_ago_does(attic):
    for _ in range(4):
        attic.put(40)
    for number, (status, age) in enumerate([("failed", 3), ("died", 3), ("over_budget", 20), ("died", 20)]):
        attic.run([number], age, status)
    assert cleared(attic) == {0, 1}


def test_everything_that_is_dated_since_a_run_at_work_began_is_kept(attic):
    """What it claimed and has written down nowhere: a piece of its step under way, what it reads with --only."""
    for age in (20, 29, 31):
        attic.put(age)
    attic.run([], 30, "running")
    assert cleared(attic) == {0, 1}


def test_an_artifact_whose_manifest_cannot_be_read_keeps_what_the_lineage_says_that_it_needs(attic):
    attic.put(40)
    attic.put(40, inputs=[0])
    run = attic.run([1], 39)
    from zscir.lineage.tables import EDGES_SCHEMA
    from zscir.runtime.schemas import write_table

    edges = [{"child_key": attic.keys[1], "role": "in0", "parent_key": attic.keys[0]}]
    write_table(Path(attic.store.address("lineage", run, "edges.parquet")), EDGES_SCHEMA, edges)
    Path(attic.store.address("shards", attic.keys[1], "manifest.json")).write_text("{")
    assert cleared(attic, RetentionPolicy(1, timedelta(days=30))) == {0, 1}


def test_a_folder_that_is_no_artifact_is_never_touched(attic):
    attic.put(40)
    notes = Path(attic.store.address("notes", "of me"))
    notes.mkdir(parents=True)
    (notes / "a.txt").write_text("mine")
    assert cleared(attic) == set()
    assert (notes / "a.txt").read_text() == "mine"


GOOD = {"1h": timedelta(hours=1), "90m": timedelta(minutes=90), "14d": timedelta(days=14), " 8w ": timedelta(weeks=8)}
BAD = ["", "soon", "14", "d", "-1d", "1.5d", "14 days", "59m", "0d", "1h1m", "9999999999d"]


@pytest.mark.parametrize("word", GOOD)
def test_an_age_is_a_number_and_a_unit(word):
    assert RetentionPolicy.parse(3, word).max_age == GOOD[word]


@pytest.mark.parametrize("word", BAD)
def test_an_age_that_is_none_or_too_short_is_refused(word):
    with pytest.raises(RequestError, match="older than"):
        RetentionPolicy.parse(3, word)


def test_the_oracle_itself_knows_chains_and_shared_files():
    things = [(40, [], []), (40, [0], []), (40, [], [1]), (40, [], [])]
    assert oracle(things, [([2], 39, "succeeded", "a", True, [])], 1) == {0, 1, 2}
    assert oracle(things, [], 1) == set()
    assert all(oracle(things, [([2], 39, "succeeded", "a", True, [])], keep) for keep in itertools.islice([1, 2], 2))
