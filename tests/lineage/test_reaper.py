import json
import os
import tempfile
import threading
import time
from pathlib import Path

import pytest

from tests.faults.processes import finish, start
from tests.support.services import CREDENTIALS, s3_endpoint
from tests.support.stores import store  # noqa: F401 - a fixture
from tests.support.toy_pipelines import direct, run_toy
from tests.support.toys import store_at
from zscir.lineage.environment import worker_name
from zscir.lineage.heartbeats import HEARTBEAT_FILE
from zscir.lineage.reaper import reap_dead_runs
from zscir.lineage.tables import LINEAGE_SCHEMAS
from zscir.pipeline.execute import execute_run, rerun_request
from zscir.pipeline.run import execute_step, find_run, list_runs
from zscir.runtime.errors import Interrupted
from zscir.runtime.schemas import read_rows


class Killed(BaseException):
    """Ends a run of this process as SIGKILL would: nobody is told."""


def run_that_dies(store, path, at="short"):  # noqa: F811 - a fixture
    """The record of a run of a process that is gone, stopped in the middle of the step ``at``."""
    host, pid, started = worker_name().rsplit(":", 2)
    held = []

    def engine(run, chosen):
        held.append(run)
        direct(run, chosen[: chosen.index(at)])
        run.recorder._put("stages", at, {
            "run_id": run.run_id, "step": at, "stage": "ingest", "outcome": "running", "attempts": 1,
            "started_at": run.recorder._run["started_at"], "worker": "w",
        })  # fmt: skip
        run.recorder.finish = lambda status: None
        raise Killed

    with pytest.raises(Interrupted):
        run_toy(store, path, engine=engine)
    beat = json.loads(store.read_text("lineage", held[0].run_id, HEARTBEAT_FILE))
    beat["process"] = f"{host}:{pid}:{int(started) - 100}"
    put_text(store, json.dumps(beat), held[0].run_id, HEARTBEAT_FILE)
    return held[0]


def table(store, run, name):  # noqa: F811 - a fixture
    with tempfile.TemporaryDirectory() as folder:
        store.fs.get_file(store.address("lineage", run.run_id, f"{name}.parquet"), f"{folder}/table")
        return read_rows(Path(folder, "table"), LINEAGE_SCHEMAS[name])


def put_text(store, text, run_id, name):  # noqa: F811 - a fixture
    store.fs.pipe_file(store.address("lineage", run_id, name), text.encode())


def test_a_run_that_died_is_marked_failed_once_with_its_last_sign_and_can_be_run_again(store, path, measured):  # noqa: F811
    run = run_that_dies(store, path)
    assert [row["status"] for row in list_runs(store)] == ["died"]
    assert reap_dead_runs(store) == [run.run_id]
    (row,) = table(store, run, "run")
    assert row["status"] == "failed"
    assert row["finished_at"] >= row["started_at"]
    words = f"died: no heartbeat since {row['finished_at']:%Y-%m-%d %H:%M:%S} UTC"
    assert json.loads(row["user_config"])["died"] == words
    steps = {one["step"]: one for one in table(store, run, "stages")}
    assert (steps["tabletop"]["outcome"], steps["tabletop"]["error"]) == ("made", None)
    assert (steps["short"]["outcome"], steps["short"]["error"]) == ("failed", words)

    before = {name: table(store, run, name) for name in ("run", "stages")}
    assert reap_dead_runs(store) == []
    assert {name: table(store, run, name) for name in ("run", "stages")} == before

    again = execute_run(store, rerun_request(store, run.run_id, None, None, []), direct)
    assert again.recorder.steps()[0]["outcome"] == "reused"
    assert find_run(store, again.run_id)["parent_run_id"] == run.run_id
    outcomes = [one["outcome"] for one in again.recorder.steps()]
    assert outcomes == ["reused", "made", "made"]
    measured(
        "a run whose machine is gone",
        "died in step 2 of 3: marked failed once by 2 reapers; the rerun reused 1 step and made 2",
    )


def test_many_reapers_at_once_do_what_one_does(store, path):  # noqa: F811
    run = run_that_dies(store, path)
    found = []
    threads = [threading.Thread(target=lambda: found.append(reap_dead_runs(store))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [run.run_id] in found
    (row,) = table(store, run, "run")
    assert row["status"] == "failed"


def test_a_run_under_way_is_not_touched(store, path):  # noqa: F811
    def engine(run, chosen):
        assert reap_dead_runs(store) == []
        direct(run, chosen)
        assert reap_dead_runs(store) == []

    run = run_toy(store, path, engine=engine)
    assert reap_dead_runs(store) == []
    assert find_run(store, run.run_id)["status"] == "succeeded"


def test_a_run_that_comes_back_while_it_is_buried_is_left_alone(store, path, monkeypatch):  # noqa: F811
    """Its table changes between the reaper's look and the reaper's writing."""
    if not store.remote:
        pytest.skip("on a disk only processes that are gone for sure can be taken for dead by mistake")
    from zscir.lineage import reaper

    run = run_that_dies(store, path)
    real = reaper._replace

    def late(store, one, changed):
        if one.name == "run":
            run.recorder.set_flow_run("it lives")
        return real(store, one, changed)

    monkeypatch.setattr(reaper, "_replace", late)
    assert reap_dead_runs(store) == []
    assert table(store, run, "run")[0]["status"] == "running"


def one_run(uri, cache, path, environment):
    os.environ.update(environment)
    run_toy(store_at(uri, cache), path, engine=slowly)


def slowly(run, chosen):
    for name in chosen:
        execute_step(run.run_id, name)
        time.sleep(0.05)


def test_a_reaper_that_never_rests_touches_no_living_run(store, path, tmp_path, monkeypatch):  # noqa: F811
    """It is told that everybody is on another machine, so that the heartbeats alone decide."""
    monkeypatch.setattr("zscir.lineage.heartbeats.process_namespace", lambda: "elsewhere")
    over, found = threading.Event(), []

    def reap_on():
        while not over.is_set():
            found.extend(reap_dead_runs(store))

    thread = threading.Thread(target=reap_on)
    thread.start()
    environment = {"AWS_ENDPOINT_URL": s3_endpoint()} | CREDENTIALS if store.remote else {}
    processes = [start(one_run, store.uri, tmp_path / f"cache-{n}", path, environment) for n in range(2)]
    for process in processes:
        finish(process)
    over.set()
    thread.join()
    assert found == []
    assert [row["status"] for row in list_runs(store)] == ["succeeded"] * 2
