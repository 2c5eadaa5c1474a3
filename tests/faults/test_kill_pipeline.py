"""kill -9 of a whole run at random moments: the next one goes on, and ends with what an undisturbed run makes."""

import itertools
import os
import random
import signal
import subprocess
import time

import pytest

from tests.faults.processes import finish, kill_after, start
from tests.support.services import CREDENTIALS, prefect_api, s3_endpoint
from tests.support.toy_pipelines import clean_environment, command, digests, json_of, run_toy, write_toy, zscir
from tests.support.toys import store_at
from zscir.lineage.sql_views import query_store_rows
from zscir.pipeline.pipeline_file import load_pipeline
from zscir.pipeline.plan import make_plan
from zscir.pipeline.run import list_runs

pytestmark = pytest.mark.slow

FAULT = "kill -9 of a run, at random moments"


def one_run(uri, cache, path, environment):
    os.environ.update(environment)
    run_toy(store_at(uri, cache), path)


def check_against(store, path, expected):
    """Every artifact whole to the last bit and equal to the undisturbed one; no leftovers that a reader could see."""
    plan = make_plan(store, load_pipeline(path))
    assert {planned.step.name: planned.artifact.digest for planned in plan if planned.artifact} == expected
    for stage, key in store.list_keys():
        assert store.lookup(stage, key, verify=True).problem == ""


def begun_again(store):
    """How many times a step was begun that had been begun before, by the records of all runs."""
    (found,) = query_store_rows(
        store, "SELECT count(*) - count(DISTINCT step) AS n FROM stages WHERE outcome <> 'reused'"
    )
    return found["n"]


def committed(store):
    """What has its manifest, all of it whole."""
    found = set(store.list_keys())
    assert all(store.lookup(stage, key, verify=True).problem == "" for stage, key in found)
    return found


def kill_and_go_on(uri, tmp_path, environment, wanted_kills):
    """Kill each seed's runs at random moments, then let one end and compare; seeds until there were enough kills.

    Says how often a run was killed, how many artifacts each had to end with, and how many steps were begun again.
    """
    path = write_toy(tmp_path / "specs")
    cache = tmp_path / "cache"
    expected = digests(run_toy(store_at(tmp_path / "undisturbed", cache), path).artifacts)
    finish(start(time.sleep, 0))  # the process that all others come from is warm now
    began = time.monotonic()
    finish(start(one_run, f"{uri}-run", cache, path, environment))
    usual_s = time.monotonic() - began
    kills = again = 0
    seeds = itertools.count()
    while kills < wanted_kills:
        seed = next(seeds)
        assert seed < 5 * wanted_kills, "the runs end before they can be killed"
        rng = random.Random(seed)
        store = store_at(f"{uri}-{seed}", cache)
        work = (one_run, store.uri, cache, path, environment)
        killed, kept = 0, set()
        for _ in range(rng.randint(1, 4)):
            killed += kill_after(start(*work), rng.uniform(0, usual_s))
            list_runs(store)
            found = committed(store)
            assert kept <= found
            kept = found
        finish(start(*work))
        check_against(store, path, expected)
        assert kept <= set(store.list_keys())
        assert begun_again(store) <= killed
        kills, again = kills + killed, again + begun_again(store)
        statuses = [row["status"] for row in list_runs(store)]
        assert statuses[-1] == "succeeded"
        assert set(statuses[:-1]) <= {"died", "succeeded"}
        made = query_store_rows(
            store, "SELECT key, count(*) AS n FROM stages WHERE outcome = 'made' GROUP BY key HAVING n > 1"
        )
        assert made == [], "a step that was recorded as made was made again"
    return f"{kills} kills: 0 of {next(seeds) * len(expected)} artifacts lost, steps begun again: {again}"


def test_runs_killed_at_any_moment_end_with_the_same_digests(tmp_path, measured):
    measured(FAULT, f"on a folder, {kill_and_go_on(f'{tmp_path}/store', tmp_path, {}, wanted_kills=12)}")


def test_runs_killed_on_s3_end_with_the_same_digests(tmp_path, s3, measured):
    environment = {"AWS_ENDPOINT_URL": s3_endpoint()} | CREDENTIALS
    measured(FAULT, f"on S3, {kill_and_go_on(s3, tmp_path, environment, wanted_kills=4)}")


def test_the_command_killed_again_and_again_and_rerun_ends_with_the_same_digests(tmp_path, measured):
    """Through the command line and Prefect: run, kill -9, ``rerun latest``, kill -9, ..., to the end."""
    path = write_toy(tmp_path / "specs")
    expected = digests(run_toy(store_at(tmp_path / "undisturbed", tmp_path / "cache"), path).artifacts)
    store = store_at(tmp_path / "store", tmp_path / "cache")
    environment = {"ZSCIR_STORE": store.uri, "PREFECT_API_URL": prefect_api()}
    rng, kills, kept = random.Random(7), 0, set()
    for attempt in range(4):
        words = ("rerun", "latest") if list_runs(store) else ("run", str(path))
        process = subprocess.Popen(
            command(*words), env=clean_environment(environment), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        known = len(list_runs(store))
        while len(list_runs(store)) == known and process.poll() is None:
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 1.5 + attempt))
        process.kill()
        assert process.wait() in (0, -signal.SIGKILL)
        kills += process.returncode != 0
        found = committed(store)
        assert kept <= found
        kept = found
    runs = json_of(zscir(tmp_path, "rerun", "latest", "--json", **environment))
    assert {row["outcome"] for row in runs} <= {"made", "reused"}
    check_against(store, path, expected)
    newest = list_runs(store)[-1]
    assert (newest["status"], newest["trigger"]) == ("succeeded", "rerun")
    assert newest["parent_run_id"] == list_runs(store)[-2]["run_id"]
    assert kept <= set(store.list_keys())
    again = begun_again(store)
    assert again <= kills
    measured(FAULT, f"the command, {kills} kills: 0 of {len(expected)} artifacts lost, steps begun again: {again}")
