"""Steps made by two real workers of another pool, with folders of their own: they share a server and an S3 store."""

import re
import signal
import subprocess
import time
from functools import partial

import pytest

from tests.support import services
from tests.support.services import CREDENTIALS, of_flow_run, prefect_api, s3_endpoint, start_worker
from tests.support.toy_pipelines import clean_environment, command, digests, direct, held, run_toy, write_toy
from tests.support.toys import store_at
from tests.support.url_lists import write_list
from zscir.cli.engine import check_pools, run_with_prefect
from zscir.lineage.sql_views import query_store_rows
from zscir.pipeline.execute import RunRequest, execute_run
from zscir.pipeline.pipeline_file import load_pipeline
from zscir.pipeline.remote_step import parse_job_report, remote_job_for
from zscir.pipeline.stage import Chunk
from zscir.runtime.errors import RequestError, StageError

POOL = "gpu"
MAKER_KILLED = "kill -9 of the process in which another pool's worker makes a step"
STEPS = """
name = "toy"
source = "source.toml"
[dispatch]
ingest = "gpu"
long = "gpu"
[limits]
backoff_s = 0.1
[[steps]]
stage = "tabletop"
[[steps]]
stage = "ingest"
inputs = { urls = "tabletop" }
[[steps]]
name = "long"
stage = "tabletop"
spec = { scenes = 41 }
"""
LIMIT_S = 200
pytestmark = [pytest.mark.slow, pytest.mark.timeout(4 * LIMIT_S)]


def ask(what, query=None, method=None):
    return services.ask(prefect_api(), what, query, method)


wait_for = partial(services.wait_for, limit_s=LIMIT_S)


class Machines:
    """The machine of the runs and those of two workers, as three folders; what all are told; one store."""

    def __init__(self, folder, uri):
        self.folder, self.uri = folder, uri
        self.own = CREDENTIALS | {"AWS_ENDPOINT_URL": s3_endpoint(), "PREFECT_API_URL": prefect_api()}
        self.store = store_at(uri, folder / "reader")
        self.path = write_toy(folder / "specs", STEPS)

    def environment(self, machine, **more):
        home = {name: str(self.folder / machine / name) for name in ("ZSCIR_CACHE", "PREFECT_HOME")}
        (self.folder / machine).mkdir(exist_ok=True)
        return clean_environment(self.own | home | more)

    def start(self, name, *words):
        """``zscir run`` under way; what it says goes to a file."""
        log = self.folder / f"{name}.txt"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                command("run", str(self.path), *words), cwd=self.folder, stdout=stream, stderr=stream,
                env=self.environment("run", ZSCIR_STORE=self.uri),
            )  # fmt: skip
        return process, log

    def flow_runs(self, step):
        found = ask("flow_runs/filter", {"deployments": {"name": {"any_": [POOL]}}, "sort": "EXPECTED_START_TIME_ASC"})
        return [flow_run for flow_run in found if flow_run["name"].startswith(f"{step}-")]

    def at_work(self, step, number=1):
        """The ``number``-th flow run for a step, once it is at work, and its process."""

        def found():
            runs = self.flow_runs(step)
            if len(runs) < number or runs[number - 1]["state_type"] != "RUNNING":
                return None
            processes = of_flow_run(runs[number - 1]["id"])
            return (runs[number - 1], processes) if processes else None

        return wait_for(found)

    def row(self, step, outcome):
        """What is recorded of a step that ended so, once."""
        (found,) = query_store_rows(
            self.store, "SELECT * FROM stages WHERE step = $1 AND outcome = $2", [step, outcome]
        )
        return found


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    import boto3
    import s3fs

    with pytest.MonkeyPatch.context() as patch:
        for name, value in ({"AWS_ENDPOINT_URL": s3_endpoint()} | CREDENTIALS).items():
            patch.setenv(name, value)
        boto3.client("s3", endpoint_url=s3_endpoint(), region_name="us-east-1").create_bucket(Bucket="dispatch")
        s3fs.S3FileSystem.clear_instance_cache()
        yield Machines(tmp_path_factory.mktemp("dispatch"), "s3://dispatch/some/prefix")
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def pool(machines):
    ask("work_pools/", {"name": POOL, "type": "process"})


class Workers:
    """Workers of the pool, each on a machine of its own, each busy with one step at a time."""

    def __init__(self, machines):
        self.machines, self.processes = machines, {}

    def start(self, name):
        own = self.machines.environment(name, TMPDIR=str(self.machines.folder / name))
        self.processes[name] = start_worker(POOL, self.machines.folder / name, own, "--limit", "1")


@pytest.fixture(scope="module")
def workers(machines):
    all_of_them = Workers(machines)
    yield all_of_them
    for process in all_of_them.processes.values():
        process.send_signal(signal.SIGCONT)
        process.terminate()
    for process in all_of_them.processes.values():
        process.wait(60)


def test_a_run_that_needs_a_server_says_so():
    from flows.work_pools import ensure_work_pools

    with pytest.raises(RequestError, match="set PREFECT_API_URL=http://HOST:4200/api"):
        ensure_work_pools([POOL])


def test_a_pool_is_made_by_a_person_and_its_deployment_by_the_run_which_leaves_alone_what_was_set(pool, server):
    from flows.work_pools import ensure_work_pools

    with pytest.raises(RequestError, match="no such work pool; make one: prefect work-pool create other --type"):
        ensure_work_pools([POOL, "other"])
    ensure_work_pools([POOL])
    found = ask(f"deployments/name/make-dispatched/{POOL}")
    assert found["job_variables"] == {"env": {"PREFECT_LOGGING_EXTRA_LOGGERS": "zscir"}}
    own = {"job_variables": {"env": {"LOUD": "1"}}, "tags": ["mine"], "version": "0"}
    ask(f"deployments/{found['id']}", {**own, "concurrency_limit": 3}, "PATCH")
    ensure_work_pools([POOL])
    kept = ask(f"deployments/{found['id']}")
    assert {name: kept[name] for name in own} == {**own, "version": found["version"]}
    assert kept["global_concurrency_limit"]["limit"] == 3
    ask(f"deployments/{found['id']}", method="DELETE")


@pytest.fixture(scope="module")
def run_outputs(machines, workers, pool):
    """What two runs of one pipeline say, and where steps were made.

    The first runs one step only: it waits for a worker, and is killed by force while that makes the step. The second
    has another step made by a second worker, as the first is busy, and joins what that is at. Then the process in which
    the first worker makes it is killed by force, while the second cannot help out: it sleeps.
    """
    first, first_output = machines.start("first", "--only", "long")
    wait_for(lambda: "has no worker online" in first_output.read_text())
    with held(machines.store, machines.path, "long"):
        workers.start("one")
        begun = machines.at_work("long")[1]
        first.kill()
        first.wait()
        workers.start("two")
        second, second_output = machines.start("second")
        wait_for(lambda: "is at it already" in second_output.read_text())
        workers.processes["two"].send_signal(signal.SIGSTOP)
        for process in begun:
            process.kill()
        machines.at_work("long", 2)
        workers.processes["two"].send_signal(signal.SIGCONT)
    assert second.wait(LIMIT_S) == 0, second_output.read_text()
    return first_output.read_text(), second_output.read_text()


def test_a_run_that_waits_for_a_worker_says_how_to_start_one(run_outputs):
    assert f"long: waiting: work pool '{POOL}' has no worker online" in run_outputs[0]
    assert f"prefect worker start --pool {POOL}" in run_outputs[0]


def test_three_machines_that_share_only_a_store_give_the_bytes_of_one_and_make_nothing_twice(
    machines, run_outputs, tmp_path, measured
):
    (made,) = machines.flow_runs("ingest")
    row = machines.row("ingest", "made")
    assert (made["state_type"], row["attempts"]) == ("COMPLETED", 1)
    assert len({machines.row(step, "made")["worker"] for step in ("tabletop", "ingest", "long")}) == 3
    assert row["worker"] in made["state"]["message"]
    # What a step reads is copied to the machine that makes it: one made what reads the list, the other what reads none.
    copied = {
        name: [*(machines.folder / name / "ZSCIR_CACHE" / "artifacts").rglob("*.parquet")] for name in ("one", "two")
    }
    assert [name for name in copied if copied[name]] == ["two"]
    here = ("dispatch.ingest=here", "dispatch.long=here")
    undisturbed = run_toy(store_at(tmp_path / "store", tmp_path / "cache"), machines.path, *here)
    assert digests(run_toy(machines.store, machines.path).artifacts) == digests(undisturbed.artifacts)
    measured(MAKER_KILLED, "0 of 3 artifacts lost, digests as undisturbed")


def test_a_run_that_follows_one_that_was_killed_joins_what_is_under_way_and_survives_its_death(
    machines, run_outputs, measured
):
    crashed, made = machines.flow_runs("long")
    assert f"work pool '{POOL}' is at it already, in flow run {crashed['name']}" in run_outputs[1]
    assert [crashed["state_type"], made["state_type"]] == ["CRASHED", "COMPLETED"]
    assert re.search(r"attempt 1 of 3 failed \(flow run long-.* crashed: ", run_outputs[1])
    row = machines.row("long", "made")
    assert (row["attempts"], row["worker"] in made["state"]["message"]) == (2, True)
    measured(
        "kill -9 of a run whose step is at work in another pool",
        "1 kill: the rerun joined the step's flow run and asked for no other",
    )
    measured(MAKER_KILLED, "1 kill: 1 flow run more, the step was made in attempt 2")


def test_what_is_made_is_reused_without_a_server_or_a_pool(machines, run_outputs):
    before = len(machines.flow_runs(""))
    again = execute_run(machines.store, RunRequest(machines.path, []), run_with_prefect, check_pools)
    assert {row["outcome"] for row in again.recorder.steps()} == {"reused"}
    assert len(machines.flow_runs("")) == before


def test_a_run_that_is_stopped_stops_what_it_requested_and_a_failure_elsewhere_is_its_own(
    machines, run_outputs, server, measured
):
    changed = "long.scenes=42"
    with held(machines.store, machines.path, "long", changed):
        stopped, output = machines.start("stopped", "--only", "long", "--set", changed)
        with pytest.raises(StageError, match=r"step 'ingest' \(stage ingest\): .*nothing") as failure:
            execute_run(
                machines.store, RunRequest(machines.path, ["ingest.text_column=nothing"]), run_with_prefect, check_pools
            )
        dispatched = machines.at_work("long", 3)[0]
        stopped.send_signal(signal.SIGINT)
        interrupted_at = time.monotonic()
        assert stopped.wait(LIMIT_S) == 130, output.read_text()
        wait_for(lambda: machines.flow_runs("long")[2]["state_type"] == "CANCELLED")
        cancelled_s = time.monotonic() - interrupted_at
    measured(
        "SIGINT of a run whose step is at work in another pool",
        f"exit 130; {cancelled_s:.1f} s later its flow run was cancelled",
    )
    assert f"cancelling flow run {dispatched['name']}" in output.read_text()
    failed = machines.flow_runs("ingest")[-1]
    row = machines.row("ingest", "failed")
    assert failed["state_type"] == "FAILED"
    assert row["worker"] in failed["state"]["message"]
    assert row["worker"] in str(failure.value)
    assert (failure.value.exit_code, row["attempts"]) == (3, 1)


def test_a_step_that_is_split_is_split_by_the_worker(tmp_path, server):
    from flows.remote_worker import remote_job_flow

    store = store_at(tmp_path / "store", tmp_path / "cache")
    path = write_list(tmp_path / "specs", scenes=8, chunk_rows=4)
    run = run_toy(store, path, engine=lambda run, chosen: direct(run, ["tabletop", "ingest"]))
    download = load_pipeline(path).steps[-1]
    chunk = Chunk("split", download.stage, download.spec, {"pairs": run.artifacts["ingest"]})
    state = remote_job_flow(remote_job_for(store, chunk, 600.0), return_state=True)
    report = parse_job_report(state.message)
    assert report.outcome == "made", state.message
    assert store.lookup("download", report.key).problem == ""
    downloads = ask("flow_runs/filter", {"flows": {"name": {"any_": ["download"]}}})
    (parts,) = [flow_run for flow_run in downloads if flow_run["name"] == "split"]
    wait_for(lambda: ask("task_runs/count", {"flow_runs": {"id": {"any_": [parts["id"]]}}}) >= 2)
