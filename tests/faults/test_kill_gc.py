"""kill -9 at every single step of a gc: nothing half-removed is ever taken for an artifact, and the next gc goes on."""

import os
import signal
import time
from datetime import timedelta
from pathlib import Path

import pytest

from tests.faults.processes import dying_at, start
from tests.pipeline.test_chunk_job import WordsSpec, write_words
from tests.support.services import CREDENTIALS, s3_endpoint
from tests.support.stored_histories import age_of
from tests.support.toys import store_at
from zscir.lineage.sql_views import query_store_rows
from zscir.maintenance.gc import plan_gc, run_gc
from zscir.maintenance.retention import RetentionPolicy
from zscir.pipeline.stage import materialize

SPEC = WordsSpec(words=("b",))
STEPS = {
    "local": ["os.unlink", "os.rmdir", "os.replace", "os.fsync"],
    "s3": ["s3.put_object", "s3.delete_object", "s3.delete_objects"],
}
STORES = 30
STRIDE = 1 if int(os.environ.get("ZSCIR_TEST_KILLS", "3")) > 3 else 4  # `make faults` takes every step


def gc(uri, cache, environment, age_s, dies_at=0, steps=()):
    """A gc; with ``dies_at`` one that is killed just before that step of its removing."""
    os.environ.update(environment)
    store = store_at(uri, cache)
    dying_at(dies_at, steps, run_gc, store, plan_gc(store, RetentionPolicy(0, timedelta(seconds=age_s))))


def old_stores(place, cache):
    """Stores with an artifact, its chunks and the files that it shares with them, all of them old."""
    for number in range(2, STORES, STRIDE):
        materialize(store_at(f"{place}/{number}", cache), write_words, SPEC, {})
        if isinstance(place, Path):
            age_of(place / str(number), 40)
    if not isinstance(place, Path):
        time.sleep(4)  # S3 gives no object an older time


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_death_at_any_step_of_a_gc_leaves_whole_artifacts_or_none_and_the_next_gc_continues(
    kind, tmp_path, request, measured
):
    place = request.getfixturevalue("s3") if kind == "s3" else tmp_path / "stores"
    environment = {"AWS_ENDPOINT_URL": s3_endpoint()} | CREDENTIALS if kind == "s3" else {}
    cache, age_s = tmp_path / "cache", 2 if kind == "s3" else 86400
    old_stores(place, cache)
    halves = 0
    for number in range(2, STORES, STRIDE):
        uri = f"{place}/{number}"
        process = start(gc, uri, cache, environment, age_s, number, STEPS[kind])
        process.join(120)
        assert process.exitcode in (0, -signal.SIGKILL)
        store = store_at(uri, cache)
        left = store.list_keys()
        assert all(store.lookup(stage, key, verify=True).problem == "" for stage, key in left)
        halves += 0 < len(left) < 3
        gc(uri, cache, environment, age_s)
        assert store.list_keys() == []
        assert [path for path in store.fs.find(store.root) if "/write_word" in path and "/." not in path] == []
        assert len(query_store_rows(store, "SELECT DISTINCT key FROM removed")) == 3
        if process.exitcode == 0:
            break
    assert process.exitcode == 0  # there were no more steps than that
    assert halves >= 2
    assert materialize(store, write_words, SPEC, {}).outcome == "made"
    deaths = len(range(2, number, STRIDE))
    measured(
        "kill -9 of a gc at each single step of its removing, local and S3",
        f"{'on S3' if kind == 's3' else 'on a folder'}, {deaths} deaths: {halves} left some of 3 artifacts, "
        "each whole; the next gc removed the rest",
    )
