"""Removing what no run needs: claims against removals, on a folder and on S3, beside runs at work; leftovers."""

import os
import shutil
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest

from tests.pipeline.test_chunk_job import WordsSpec, write_words
from tests.support.stored_histories import Attic, age_of
from tests.support.toy_pipelines import direct, run_toy, write_toy
from tests.support.toys import ShardsSpec, shards, store_at
from zscir.lineage.lookup import describe_ref
from zscir.lineage.sql_views import query_store_rows
from zscir.maintenance import delete
from zscir.maintenance.delete import delete_unreferenced
from zscir.maintenance.gc import plan_gc, run_gc
from zscir.maintenance.orphans import find_orphans
from zscir.maintenance.retention import RetentionPolicy, mark_store
from zscir.pipeline.execute import RunRequest, execute_run
from zscir.pipeline.run import execute_step
from zscir.pipeline.stage import materialize
from zscir.store import touch
from zscir.store.artifacts import MANIFEST
from zscir.store.key_lock import hold_key
from zscir.store.touch import touch_artifact

NOW = RetentionPolicy(0, timedelta(seconds=1))
OLD_S = 2.1  # dates of objects on S3 have no fractions of a second: by them this is more than one
MONTH = RetentionPolicy(1, timedelta(days=14))


def aged(store):
    """Everything in the store is as old as ``NOW`` asks for."""
    if store.remote:
        time.sleep(OLD_S)
    else:
        age_of(Path(store.root), 40)


@pytest.fixture
def soon(monkeypatch):
    """A claim is good for no time at all, as if every artifact were old."""
    monkeypatch.setattr(touch, "TOUCH_AFTER", timedelta(seconds=0.1))


def made(store, seed=0):
    return materialize(store, shards, ShardsSpec(shards=2, blocks=1, seed=seed), {}).artifact


def test_what_is_removed_leaves_a_row_that_says_what_it_was_and_is_made_again_by_the_next_run(store):
    artifact = made(store)
    aged(store)
    swept = delete_unreferenced(store, mark_store(store, NOW))
    assert (swept.removed, swept.kept) == (1, 0)
    assert store.list_keys() == []
    assert store.fs.find(store.address("shards")) == []
    (row,) = query_store_rows(store, "SELECT * FROM removed")
    assert (row["key"], row["outcome"], row["removed_by"]) == (artifact.key, "removed", swept.id)
    assert row["bytes"] == swept.bytes > sum(entry.size for entry in artifact.entries.values())
    title, values, tables = describe_ref(store, artifact.key[:8])
    assert title == f"artifact shards/{artifact.key}"
    assert values["state"].startswith("removed 2")
    assert values["spec"]["shards"] == 2
    assert [stored["file"] for stored in tables["files"]] == artifact.files()
    assert made(store).digest == artifact.digest
    assert describe_ref(store, artifact.key)[1]["state"] == "whole"


def test_a_shared_file_stays_as_long_as_the_whole_and_is_removed_after_it(store, monkeypatch):
    whole = materialize(store, write_words, WordsSpec(words=("b", "a")), {}).artifact
    aged(store)
    order = []
    real = delete.remove_stored_artifact
    monkeypatch.setattr(
        delete, "remove_stored_artifact", lambda store, heap: (order.append(heap.stage), real(store, heap))
    )
    assert delete_unreferenced(store, mark_store(store, NOW)).removed == 4
    assert order[0] == "write_words"
    assert materialize(store, write_words, WordsSpec(words=("b", "a")), {}).artifact.digest == whole.digest


def test_what_is_touched_between_the_listing_and_the_removal_stays_with_all_that_it_needs(store, soon):
    whole = materialize(store, write_words, WordsSpec(words=("b", "a")), {}).artifact
    other = made(store)
    aged(store)
    marked = mark_store(store, NOW)
    assert len(marked.unreferenced()) == 5
    assert touch_artifact(store, whole)
    swept = delete_unreferenced(store, marked)
    assert (swept.removed, swept.kept) == (1, 4)
    assert store.lookup("write_words", whole.key, verify=True).problem == ""
    assert store.lookup("shards", other.key).problem == "no artifact"
    assert not touch_artifact(store, other)


def test_a_touch_changes_the_date_and_not_a_byte_and_what_is_fresh_is_left_alone(store):
    artifact = made(store)
    path = store.address("shards", artifact.key, MANIFEST)
    text = store.read_text("shards", artifact.key, MANIFEST)
    before = store.fs.modified(path)
    assert touch_artifact(store, artifact)
    assert store.fs.modified(path) == before
    aged(store)
    touch_after, touch.TOUCH_AFTER = touch.TOUCH_AFTER, timedelta(seconds=1)
    try:
        assert touch_artifact(store, artifact)
    finally:
        touch.TOUCH_AFTER = touch_after
    assert store.fs.modified(path) > before - timedelta(seconds=1 if store.remote else 0)
    assert time.time() - store.fs.modified(path).timestamp() < 30
    assert store.read_text("shards", artifact.key, MANIFEST) == text


def test_a_key_that_somebody_holds_is_left_for_the_next_time(store, tmp_path):
    artifact = made(store)
    aged(store)
    marked = mark_store(store, NOW)
    elsewhere = store_at(store.uri, tmp_path / "another machine") if store.remote else store
    with hold_key(elsewhere.scratch, elsewhere.leases, "shards", artifact.key):
        assert delete_unreferenced(store, marked).kept == 1
    assert delete_unreferenced(store, marked).removed == 1


def test_runs_lose_nothing_to_a_gc_that_never_rests(store, soon, tmp_path, measured):
    """Walks that reuse what is always too old, while a gc without an age removes whatever nobody has claimed."""
    path = write_toy(tmp_path / "specs")
    expected = {name: stored.digest for name, stored in run_toy(store, path).artifacts.items()}
    over, swept, errors = threading.Event(), [], []
    policy = NOW if store.remote else RetentionPolicy(0, timedelta(seconds=0.3))

    def clear_on():
        while not over.is_set():
            try:
                swept.append(delete_unreferenced(store, mark_store(store, policy)))
            except Exception as error:  # noqa: BLE001 - told to the test below
                errors.append(error)

    def removed():
        return sum(stored.removed for stored in swept)

    def slowly(run, chosen):
        for name in chosen:
            execute_step(run.run_id, name)
            time.sleep(0.2)
        assert all(
            store.lookup(stored.stage, stored.key, verify=True).problem == "" for stored in run.artifacts.values()
        )

    again = 0
    thread = threading.Thread(target=clear_on)
    thread.start()
    try:
        for _ in range(2):  # each walk finds that something is gone
            before = removed()
            while removed() == before and not errors:
                time.sleep(0.1)
            run = execute_run(store, RunRequest(path, []), slowly)
            assert {name: stored.digest for name, stored in run.artifacts.items()} == expected
            again += sum(row["outcome"] == "made" for row in run.recorder.steps())
    finally:
        over.set()
        thread.join()
    assert errors == []
    assert again <= removed()
    measured(
        "a gc that never rests, beside runs that reuse what is old",
        f"{'on S3' if store.remote else 'on a folder'}, {removed()} artifacts removed meanwhile: "
        f"2 runs ended with all 3 whole, and made {again} of 6 steps again",
    )


def test_a_run_whose_artifact_was_removed_before_it_touched_it_plans_again(tmp_path, monkeypatch):
    store = store_at(tmp_path / "store", tmp_path / "cache")
    path = write_toy(tmp_path / "specs")
    run_toy(store, path)
    aged(store)
    marked = mark_store(store, NOW)
    from zscir.pipeline import execute

    real, removed_counts = execute.make_plan, []

    def make_plan(*args):
        plan = real(*args)
        if not removed_counts:
            removed_counts.append(delete_unreferenced(store, marked).removed)
        return plan

    monkeypatch.setattr(execute, "make_plan", make_plan)
    run = execute_run(store, RunRequest(path, []), direct)
    assert removed_counts == [3]
    assert [row["outcome"] for row in run.recorder.steps()] == ["made"] * 3


def test_leftovers_of_killed_processes_go_when_they_are_old_and_nobody_holds_them(store):
    artifact, key = made(store), "a" * 64
    for name, days in (("old", 40), ("held", 40), ("young", 1)):
        folder = store.scratch / "shards" / (name[0] * 64)
        folder.mkdir(parents=True)
        (folder / "part.bin").write_bytes(b"x" * 10)
        age_of(folder, days)
    trash = store.scratch / f".trash-{artifact.key}-123"
    trash.mkdir()
    (trash / "old.bin").write_bytes(b"y")
    store.fs.makedirs(store.address("shards", key), exist_ok=True)
    store.fs.pipe_file(store.address("shards", key, "00000.bin"), b"cut off")
    if store.remote:
        time.sleep(OLD_S)
    else:
        age_of(Path(store.address("shards", key)), 40)
    listed = plan_gc(store, RetentionPolicy(1, NOW.max_age if store.remote else timedelta(days=14)))
    with hold_key(store.scratch, None, "shards", "h" * 64):
        run_gc(store, listed)
    left = {path.name[0] for path in (store.scratch / "shards").iterdir() if path.is_dir()}
    assert left == ({"h"} if store.remote else {"h", "y"})
    assert not trash.exists()
    assert not store.fs.exists(store.address("shards", key, "00000.bin"))


def test_a_listing_continues_beside_a_process_whose_work_folder_changes_all_the_time(tmp_path):
    store = store_at(tmp_path / "store", tmp_path / "cache")
    made(store)
    work, marked = store.scratch / "shards" / ("a" * 64), mark_store(store, MONTH)
    over = threading.Event()

    def work_on():
        while not over.is_set():
            for number in range(30):
                (work / f"{number}" / "deep").mkdir(parents=True)
                (work / f"{number}" / "deep" / "part.bin").write_bytes(b"x")
            for number in range(30):
                shutil.rmtree(work / f"{number}")

    thread = threading.Thread(target=work_on)
    thread.start()
    try:
        listed = [find_orphans(store, marked) for _ in range(60)]
    finally:
        over.set()
        thread.join()
    assert listed == [[]] * 60


def closed(store, artifact, name):
    """The artifact that lends the file loses its manifest, as when something else of it was damaged."""
    home = artifact.entries[name].home
    store.fs.rm_file(store.address(*home.split("/")[:2], MANIFEST))
    return home


def test_files_that_a_kept_artifact_shares_stay_when_their_own_artifact_is_quarantined(tmp_path):
    attic = Attic(store_at(tmp_path / "store", tmp_path / "cache"))
    attic.put(40)
    attic.put(40, shared=[0])
    attic.put(40)
    attic.run([1], 39)
    closed(attic.store, attic.artifact(1), "lent0.bin")
    Path(attic.store.address("shards", attic.keys[2], MANIFEST)).unlink()
    listed = plan_gc(attic.store, MONTH)
    assert [stored.name for stored in listed.orphans] == [f"shards/{attic.keys[2]}"]
    assert run_gc(attic.store, listed).orphans == 1
    assert attic.store.lookup("shards", attic.keys[1], verify=True).problem == ""


def test_files_that_an_artifact_touched_after_the_listing_shares_stay_when_their_own_is_quarantined(store, soon):
    whole = materialize(store, write_words, WordsSpec(words=("b",)), {}).artifact
    home = closed(store, whole, "00000.txt")
    aged(store)
    listed = plan_gc(store, NOW)
    assert f"files without a manifest {home.rpartition('/')[0]}" in [
        f"{stored.kind} {stored.name}" for stored in listed.orphans
    ]
    assert touch_artifact(store, whole)
    done = run_gc(store, listed)
    assert (done.deleted.removed, done.deleted.kept) == (0, 2)
    assert store.lookup("write_words", whole.key, verify=True).problem == ""
    aged(store)
    assert run_gc(store, plan_gc(store, NOW)).deleted.removed == 2
    assert not store.fs.exists(store.address(home))


def test_on_s3_dead_leases_parts_of_uploads_and_local_copies_go(s3, tmp_path, soon):
    store = store_at(s3, tmp_path / "cache")
    artifact = made(store)
    copy = artifact.path("00000.bin")
    age_of(store.local_copies, 40)
    bucket, _, prefix = store.root.partition("/")
    store.fs.call_s3("create_multipart_upload", Bucket=bucket, Key=f"{prefix}/shards/{'b' * 64}/big.tar")
    store.fs.pipe_file(store.address(".leases", "shards", f"{'c' * 64}.json"), b'{"token": 1}')
    time.sleep(OLD_S)
    listed = plan_gc(store, NOW)
    kinds = sorted(stored.kind for stored in listed.orphans)
    assert kinds == ["copies on this machine", "leases", "parts of uploads"]
    run_gc(store, listed)
    assert not copy.exists()
    assert not store.fs.call_s3("list_multipart_uploads", Bucket=bucket).get("Uploads")
    assert [name for name in store.fs.find(store.root) if ".leases" in name] == []


def test_a_dry_look_changes_nothing(tmp_path):
    attic = Attic(store_at(tmp_path / "store", tmp_path / "cache"))
    attic.put(40)
    attic.run([0], 39, "failed")
    age_of(Path(attic.store.root), 40)

    def marks():
        return sorted((str(path), os.stat(path).st_mtime) for path in tmp_path.rglob("*") if path.is_file())

    before = marks()
    assert len(plan_gc(attic.store, MONTH).marks.unreferenced()) == 1
    assert marks() == before
