"""Where chunks are made is a setting: processes, a Ray or Dask cluster, all with the bytes of a run without Prefect.

Threads are the default: every other run of a split step uses them (test_ui_artifacts looks at one).
"""

import subprocess
import sys

import pytest
from prefect import flow, task

from flows.task_runners import make_task_runner
from tests.support.services import free_port, named, prefect_api
from tests.support.toy_pipelines import clean_environment, digests, json_of, run_toy, zscir
from tests.support.toys import store_at
from tests.support.url_lists import write_list
from zscir.lineage.environment import worker_name
from zscir.lineage.sql_views import query_store_rows
from zscir.runtime.errors import RequestError
from zscir.runtime.settings import WorkerSettings


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The digests of a run in one process without Prefect."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return digests(run_toy(store_at(folder / "store", folder / "cache"), write_list(folder)).artifacts)


@pytest.fixture
def cluster(tmp_path):
    """A Dask cluster that somebody else started: its address, and the process of its only worker."""
    pytest.importorskip("prefect_dask", reason="the extra 'dask' is not installed")
    address = f"tcp://127.0.0.1:{free_port()}"
    scheduler = ["scheduler", "--host", "127.0.0.1", "--port", address.rpartition(":")[2], "--no-dashboard"]
    worker = ["worker", address, "--host", "127.0.0.1", "--no-nanny", "--nthreads", "2", "--no-dashboard"]
    with (tmp_path / "cluster.log").open("wb") as log:
        started = [
            subprocess.Popen(
                [sys.executable, "-m", "dask", *words], env=clean_environment({}), cwd=tmp_path, stdout=log, stderr=log
            )
            for words in (scheduler, worker)
        ]
    yield address, started[1].pid
    for process in reversed(started):
        process.terminate()
        process.wait(30)


def chunks_on(folder, undisturbed, kind, **more):
    """Run the pipeline with its chunks on ``kind``, to the undisturbed bytes; the chunks' workers, and the run's."""
    store = store_at(folder / "store", folder / "cache")
    environment = {"ZSCIR_STORE": store.uri, "PREFECT_API_URL": prefect_api(), "ZSCIR_RUNNER": kind, **more}
    done = zscir(folder, "run", str(write_list(folder)), "--json", **environment)
    keys = {row["step"]: row["key"] for row in json_of(done)}
    assert {step: store.get(step, key).digest for step, key in keys.items()} == undisturbed
    chunks = query_store_rows(store, "SELECT * FROM pieces ORDER BY piece")
    assert len(chunks) == store.get("download", keys["download"]).facts["chunks"] >= 5
    assert {row["outcome"] for row in chunks} == {"made"}
    (coordinator,) = {row["worker"] for row in query_store_rows(store, "SELECT worker FROM stages")}
    return {row["worker"] for row in chunks}, coordinator


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["processes", "ray"])
def test_the_same_chunks_are_made_on_whatever_the_setting_names(tmp_path, undisturbed, kind):
    if kind == "ray":
        pytest.importorskip("prefect_ray", reason="the extra 'ray' is not installed")
    own = {"ZSCIR_WORKERS": "2", "RAY_USAGE_STATS_ENABLED": "0"}
    workers, coordinator = chunks_on(tmp_path, undisturbed, kind, **own)
    # Usually both; on a busy machine one worker may have done all before the other has started.
    assert 1 <= len(workers - {coordinator}) == len(workers) <= 2


@pytest.mark.slow
def test_a_cluster_that_is_there_already_is_used_and_none_is_started(tmp_path, undisturbed, cluster):
    address, pid = cluster
    workers, _ = chunks_on(tmp_path, undisturbed, "dask", ZSCIR_CLUSTER=address)
    assert [worker.split(":")[1] for worker in workers] == [str(pid)]


@pytest.mark.slow
def test_without_an_address_a_dask_cluster_of_this_machine_is_started():
    pytest.importorskip("prefect_dask", reason="the extra 'dask' is not installed")

    @flow(task_runner=make_task_runner(WorkerSettings("dask", 1, None)))
    def two():
        named_by = task(worker_name)
        return {named_by.submit().result() for _ in range(2)}

    with named(prefect_api()):
        (worker,) = two()
    assert worker != worker_name()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ZSCIR_RUNNER", "slurm", "the runners are threads, processes, ray, dask"),
        ("ZSCIR_WORKERS", "0", "a whole number from 1 on"),
        ("ZSCIR_WORKERS", "many", "a whole number from 1 on"),
    ],
)
def test_a_setting_that_makes_no_sense_is_reported(monkeypatch, name, value, words):
    monkeypatch.setenv(name, value)
    with pytest.raises(RequestError, match=f"{name}={value}.*{words}"):
        WorkerSettings.from_env()
