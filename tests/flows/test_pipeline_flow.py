"""The pipeline as a Prefect flow, through the command line, as users start it."""

import os
import signal
import subprocess
import time

import psutil
import pytest

from tests.support.services import QUICK_SERVER, ask, prefect_api, wait_for
from tests.support.toy_pipelines import (
    ORDER,
    SOURCE,
    STEPS,
    clean_environment,
    command,
    digests,
    direct,
    json_of,
    run_toy,
    write_toy,
    zscir,
)
from tests.support.toys import store_at
from zscir.pipeline.execute import execute_run, rerun_request
from zscir.pipeline.run import list_runs

BROKEN = STEPS.replace('source = "short", text_column = "caption"', 'source = "short", text_column = "nothing"')
# Big enough to be at work for many seconds, and it makes one file of a few megabytes only.
SLOW = STEPS + '[[steps]]\nname = "slow"\nstage = "tabletop"\nspec = { scenes = 400000 }\n'
NOISE = ("Traceback", "prefect", "Prefect", "Flow run", "Task run", "Warning", "ERROR", "INFO")


@pytest.fixture
def store(tmp_path):
    return store_at(tmp_path / "store", tmp_path / "cache")


@pytest.fixture
def environment(store):
    return {"ZSCIR_STORE": store.uri, "PREFECT_API_URL": prefect_api()}


def quiet(text):
    return [word for word in NOISE if word in text] == []


@pytest.mark.slow
def test_a_run_needs_no_server_leaves_none_and_a_second_one_not_even_prefect(tmp_path, store):
    """On Prefect's own ephemeral API, in a home folder of its own: killed by force, run to its end, run again."""
    home = {"ZSCIR_STORE": store.uri, "PREFECT_HOME": str(tmp_path / "home"), "HOME": str(tmp_path), **QUICK_SERVER}
    process = run_until_slow(tmp_path, store, home)
    servers = [child for child in psutil.Process(process.pid).children(recursive=True) if "uvicorn" in child.cmdline()]
    assert len(servers) == 1
    process.kill()
    process.communicate(timeout=30)  # ends when the server is gone, which holds the other end of standard error
    path = write_toy(tmp_path / "specs", source=SOURCE.replace("scenes = 40", "scenes = 41"))
    done = zscir(tmp_path, "run", str(path), **home)
    assert done.returncode == 0, done.stderr
    assert quiet(done.stdout + done.stderr), done.stderr
    assert [left for left in servers if left.is_running() and left.status() != psutil.STATUS_ZOMBIE] == []
    assert [row["status"] for row in list_runs(store)] == ["died", "succeeded"]
    assert list_runs(store)[1]["flow_run_id"]
    undisturbed = run_toy(store_at(tmp_path / "direct", tmp_path / "cache"), path)
    again = run_toy(store, path)
    assert digests(again.artifacts) == digests(undisturbed.artifacts)
    (tmp_path / "home").rename(tmp_path / "gone")
    second = zscir(tmp_path, "run", str(path), "--json", **home)
    assert {row["outcome"] for row in json_of(second)} == {"reused"}
    assert not (tmp_path / "home").exists()
    assert list_runs(store)[-1]["flow_run_id"] is None


def run_until_slow(tmp_path, store, environment):
    """A run that is at work on the slow step of its pipeline."""
    process = subprocess.Popen(
        command("run", str(write_toy(tmp_path / "specs", SLOW))), env=clean_environment(environment), text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    wait_for(lambda: process.poll() is not None or any(row["stopped_at"] == "slow" for row in list_runs(store)), 150)
    return process


def test_reuse_imports_nothing_that_takes_long(tmp_path, store):
    """How quick that is, ``make bench`` measures. pandas is allowed: pyarrow imports it wherever it is installed."""
    path = write_toy(tmp_path / "specs")
    run_toy(store, path)
    code = (
        "import sys; sys.argv = ['zscir', 'run', sys.argv[1]]\n"
        "from zscir.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "slow = {'prefect', 'torch', 'duckdb', 'aiohttp', 'cv2', 'tenacity'}\n"
        "assert not slow & set(sys.modules), slow & set(sys.modules)"
    )
    done = subprocess.run(
        [*command()[:2], code, str(path)],
        check=False,
        env=clean_environment({"ZSCIR_STORE": store.uri}),
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr


def test_a_failing_stage_ends_with_3_a_few_lines_and_the_line_to_type(tmp_path, store, environment):
    path = write_toy(tmp_path / "specs", BROKEN)
    done = zscir(tmp_path, "run", str(path), **environment)
    assert done.returncode == 3
    assert quiet(done.stderr), done.stderr
    (run,) = list_runs(store)
    assert (run["status"], run["stopped_at"]) == ("failed", "short")
    message = done.stderr[done.stderr.index("zscir: ") :]
    assert "step 'short' (stage ingest)" in message
    assert "nothing" in message
    assert message.rstrip().endswith(f"zscir rerun {run['run_id']}")
    assert len(message.splitlines()) <= 6
    write_toy(tmp_path / "specs")
    mended = json_of(zscir(tmp_path, *message.split()[-2:], "--json", **environment))
    assert [row["outcome"] for row in mended] == ["reused", "made", "made"]


def test_a_data_gate_that_fails_ends_with_4_and_what_it_refused_is_kept(tmp_path, store, environment):
    path, bound = write_toy(tmp_path / "specs"), "short.gates.text_chars.fail_above"
    done = zscir(tmp_path, "run", str(path), "--set", f"{bound}=5", **environment)
    assert done.returncode == 4, done.stderr
    assert quiet(done.stderr), done.stderr
    (run,) = list_runs(store)
    assert (run["status"], run["stopped_at"]) == ("failed", "short")
    message = done.stderr[done.stderr.index("zscir: ") :]
    assert "step 'short' (stage ingest): a data gate failed: text_chars is " in message
    assert f"--set {bound}=" in message
    again = execute_run(store, rerun_request(store, run["run_id"], None, None, [f"{bound}=500"]), direct)
    assert [row["outcome"] for row in again.recorder.steps()] == ["reused", "reused", "made"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted_ends_with_130_and_is_recorded_as_interrupted(
    tmp_path, store, environment, number, measured
):
    process = run_until_slow(tmp_path, store, environment)
    before = store.list_keys()
    process.send_signal(number)
    interrupted_at = time.monotonic()
    _, err = process.communicate(timeout=60)
    took_s = time.monotonic() - interrupted_at
    assert process.returncode == 130, err
    assert quiet(err), err
    (run,) = list_runs(store)
    assert (run["status"], run["stopped_at"]) == ("interrupted", "slow")
    assert run["finished_at"] is not None
    assert err.rstrip().endswith(f"zscir rerun {run['run_id']}")
    assert store.list_keys("tabletop") != []
    assert set(before) <= set(store.list_keys())
    measured(
        "SIGTERM, SIGINT of a run or a download",
        f"{signal.Signals(number).name} of a run: it ended {took_s:.1f} s later, 0 of {len(before)} artifacts lost",
    )


def test_a_prefect_that_cannot_be_reached_is_reported_without_a_traceback(tmp_path, store):
    path = write_toy(tmp_path / "specs")
    environment = {
        "ZSCIR_STORE": store.uri,
        "PREFECT_API_URL": "http://127.0.0.1:9/api",
        "PREFECT_CLIENT_MAX_RETRIES": "0",
    }
    done = zscir(tmp_path, "run", str(path), **environment)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert "zscir rerun " in done.stderr
    assert [row["status"] for row in list_runs(store)] == ["failed"]
    assert os.listdir(tmp_path / "specs")


def test_a_run_through_a_server_is_known_by_the_names_of_its_stages_and_may_keep_everything_on_s3(tmp_path, s3):
    path = write_toy(tmp_path / "specs")
    environment = {"PREFECT_API_URL": prefect_api(), "ZSCIR_CACHE": str(tmp_path / "cache")}
    rows = json_of(zscir(tmp_path, "run", str(path), "--store", s3, "--json", **environment))
    assert [(row["step"], row["outcome"]) for row in rows] == [(name, "made") for name in ORDER]
    store = store_at(s3, tmp_path / "cache")
    (run,) = list_runs(store)
    flow_run = ask(prefect_api(), f"flow_runs/{run['flow_run_id']}")
    assert (flow_run["state_type"], flow_run["name"]) == ("COMPLETED", f"toy-{run['run_id']}")
    assert store.uri not in str(flow_run["parameters"])
    tasks = ask(prefect_api(), "task_runs/filter", {"flow_runs": {"id": {"any_": [flow_run["id"]]}}})
    assert sorted(task["name"] for task in tasks) == sorted(ORDER)
    query = "SELECT count(*) AS n FROM pairs JOIN artifacts ON key = artifact_key"
    ((found),) = json_of(zscir(tmp_path, "sql", query, "--store", s3, "--json", **environment))
    undisturbed = run_toy(store_at(tmp_path / "direct", tmp_path / "cache"), path).artifacts
    assert found["n"] == undisturbed["short"].facts["rows"] + undisturbed["ingest"].facts["rows"]
    assert digests(run_toy(store, path).artifacts) == digests(undisturbed)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["cache", "direct", "specs"]
