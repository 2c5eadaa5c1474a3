import json
import os
import time

import pytest

from tests.support.stores import store  # noqa: F401 - a fixture
from tests.support.toy_pipelines import direct, run_toy
from zscir.lineage.environment import worker_name
from zscir.lineage.heartbeats import (
    HEARTBEAT_FILE,
    MAX_MISSED_BEATS,
    Heartbeat,
    heartbeat_times,
    process_namespace,
    read_heartbeat,
    run_status,
)
from zscir.pipeline.run import list_runs

RUN_ID = "20260101-000000-abcdef"
RUNNING = {"run_id": RUN_ID, "status": "running", "user_config": "{}"}
ELSEWHERE = {"process": "other.host:1:1", "place": "another boot:another space", "every_s": 30.0}


def beat_of(store, run_id):  # noqa: F811 - a fixture
    return json.loads(store.read_text("lineage", run_id, HEARTBEAT_FILE))


def leave_a_sign(store, tmp_path, ago_s=0.0, **words):  # noqa: F811 - a fixture
    """A heartbeat such as another machine leaves."""
    (tmp_path / HEARTBEAT_FILE).write_text(json.dumps(ELSEWHERE | words))
    store.write_file(tmp_path / HEARTBEAT_FILE, "lineage", RUN_ID, HEARTBEAT_FILE)
    if not store.remote:
        written = os.stat(store.address("lineage", RUN_ID, HEARTBEAT_FILE)).st_mtime
        os.utime(store.address("lineage", RUN_ID, HEARTBEAT_FILE), (written - ago_s, written - ago_s))


def test_a_run_leaves_signs_of_life_from_its_beginning_to_its_end(store, path, monkeypatch):  # noqa: F811
    monkeypatch.setattr("zscir.lineage.heartbeats.Heartbeat.__init__.__defaults__", (0.05,))
    beats = []

    def engine(run, chosen):
        beats.append(beat_of(store, run.run_id))
        while beat_of(store, run.run_id)["beat"] < 4:
            time.sleep(0.01)
        direct(run, chosen)

    run = run_toy(store, path, engine=engine)
    assert (beats[0]["beat"], beats[0]["process"], beats[0]["pid"]) == (1, worker_name(), os.getpid())
    last = beat_of(store, run.run_id)
    time.sleep(0.2)
    assert beat_of(store, run.run_id) == last


def test_a_run_of_another_machine_lives_while_its_heartbeat_does(store, tmp_path):  # noqa: F811
    leave_a_sign(store, tmp_path)
    at, now = heartbeat_times(store, RUN_ID)
    assert 0 <= (now - at).total_seconds() < 10
    assert run_status(store, RUNNING) == "running"


def test_a_run_of_another_machine_that_is_silent_for_ten_beats_has_died(store, tmp_path):  # noqa: F811
    if store.remote:
        leave_a_sign(store, tmp_path, every_s=0.1)
        time.sleep(MAX_MISSED_BEATS * 0.1 + 1.1)  # S3 tells times in whole seconds
    else:
        leave_a_sign(store, tmp_path, ago_s=MAX_MISSED_BEATS * 30.0 + 1)
    assert run_status(store, RUNNING) == "died"
    assert run_status(store, RUNNING | {"status": "succeeded"}) == "succeeded"


def test_nine_missed_beats_are_no_death(store, tmp_path):  # noqa: F811
    if store.remote:
        pytest.skip("S3 gives no object an older time")
    leave_a_sign(store, tmp_path, ago_s=(MAX_MISSED_BEATS - 1) * 30.0)
    assert run_status(store, RUNNING) == "running"


def test_on_its_own_machine_a_silent_run_is_judged_by_its_process(store, tmp_path):  # noqa: F811
    alive = {"process": worker_name(), "place": process_namespace()}
    leave_a_sign(store, tmp_path, ago_s=1e6, **alive)
    assert run_status(store, RUNNING) == "running"
    host, pid, start = worker_name().rsplit(":", 2)
    leave_a_sign(store, tmp_path, place=process_namespace(), process=f"{host}:{pid}:{int(start) - 100}")
    assert run_status(store, RUNNING) == "died"


def test_a_container_with_our_host_name_and_process_numbers_of_its_own_is_another_machine(store, tmp_path):  # noqa: F811
    host, pid, start = worker_name().rsplit(":", 2)
    leave_a_sign(store, tmp_path, process=f"{host}:{pid}:{int(start) - 100}")
    assert run_status(store, RUNNING) == "running"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"place": 1}'])
def test_a_run_whose_heartbeat_cannot_be_read_is_judged_by_its_record(store, tmp_path, text):  # noqa: F811
    (tmp_path / HEARTBEAT_FILE).write_text(text)
    store.write_file(tmp_path / HEARTBEAT_FILE, "lineage", RUN_ID, HEARTBEAT_FILE)
    assert read_heartbeat(store, RUN_ID) is None
    host = worker_name().rsplit(":", 2)[0]
    assert run_status(store, RUNNING | {"user_config": json.dumps({"process": f"{host}:999999999:1"})}) == "died"
    assert run_status(store, RUNNING | {"user_config": json.dumps({"process": "other.host:1:1"})}) == "running"


def test_who_looks_leaves_nothing_in_the_store(store, tmp_path):  # noqa: F811
    leave_a_sign(store, tmp_path)
    before = sorted(store.fs.find(store.root))
    run_status(store, RUNNING)
    list_runs(store)
    assert sorted(store.fs.find(store.root)) == before


def test_a_store_that_is_away_stops_no_run(tmp_path):
    from tests.support.toys import store_at

    store = store_at(tmp_path / "store", tmp_path / "cache")  # noqa: F811
    heart = Heartbeat(store, RUN_ID, every_s=0.02)
    heart.start()
    (tmp_path / "store").rename(tmp_path / "gone")
    (tmp_path / "store").write_text("in the way")
    time.sleep(0.2)
    (tmp_path / "store").unlink()
    (tmp_path / "gone").rename(tmp_path / "store")
    before = beat_of(store, RUN_ID)["beat"]
    deadline = time.monotonic() + 20
    while beat_of(store, RUN_ID)["beat"] <= before:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    heart.stop()
