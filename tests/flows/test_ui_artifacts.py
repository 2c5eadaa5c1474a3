"""What a run shows on Prefect's page, asked of a real server; and that nothing of it can stop a run."""

import json
import logging
from datetime import UTC, datetime

import pytest
from prefect import flow
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows import ui_artifacts
from flows.ui_artifacts import ChunkProgressBar, publish_plan, publish_scores
from tests.support.services import ask, free_port, prefect_api
from tests.support.small_run import shared_store
from tests.support.toy_pipelines import digests, load_toy, run_toy, zscir
from tests.support.toys import store_at
from tests.support.url_lists import write_list
from zscir.lineage.heartbeats import Heartbeat
from zscir.lineage.recorder import Recorder, RunInfo
from zscir.lineage.sql_views import query_store_rows
from zscir.pipeline.plan import make_plan
from zscir.pipeline.run import Run, list_runs
from zscir.pipeline.stage import ChunkResult

GATES = """
[steps.gates]
counts = ["images == pairs"]
success_rate = { fail_below = 0.5, fail_drop = 0.2 }
width_px = { fail_below = 16, fail_above = 64 }
"""


def artifact_of(key):
    """The newest artifact of a key, as the page would read it."""
    found = ask(prefect_api(), "artifacts/filter", {"artifacts": {"key": {"any_": [key]}}, "sort": "CREATED_DESC"})
    return found[0] if found else None


def run_of(tmp_path, store=None, run_id=None):
    """A run that is known to be under way, of the toy pipeline."""
    store = store or store_at(tmp_path / "store", tmp_path / "cache")
    pipeline = load_toy(tmp_path / "specs", f"name={tmp_path.name}")
    recorder = Recorder(
        store_at(tmp_path / "lineage", tmp_path / "cache"), RunInfo(run_id or "r", "toy", "", "cli", "{}")
    )
    return Run(store, pipeline, recorder, {}, {}, Heartbeat(store, "r"), make_plan(store, pipeline))


def ended(number, key="k"):
    outcome = "made" if key else "failed"
    return ChunkResult(str(number), "fetch_chunk", key, outcome, datetime.now(UTC), 0.1, "here")


@pytest.fixture
def server():
    with temporary_settings({PREFECT_API_URL: prefect_api(), PREFECT_CLIENT_MAX_RETRIES: 0}):
        yield


@pytest.mark.slow
def test_a_run_shows_its_plan_its_progress_and_where_its_report_is(tmp_path):
    """Its chunks are made on threads, the default, to the bytes of a run without Prefect."""
    store = store_at(tmp_path / "store", tmp_path / "cache")
    path = write_list(tmp_path, name="Shown toy", more=GATES)
    environment = {"ZSCIR_STORE": store.uri, "PREFECT_API_URL": prefect_api(), "ZSCIR_LOG": "json"}
    done = zscir(tmp_path, "run", str(path), **environment)
    assert done.returncode == 0, done.stderr
    [run] = list_runs(store)
    plan = artifact_of("shown-toy-plan")
    assert plan["type"] == "table"
    assert [(row["step"], row["action"]) for row in json.loads(plan["data"])] == [
        ("tabletop", "make"), ("ingest", "make"), ("download", "make"),
    ]  # fmt: skip
    assert run["run_id"] in plan["description"]
    assert plan["flow_run_id"] == run["flow_run_id"]
    bar = artifact_of("shown-toy-download-progress")
    assert (bar["type"], bar["data"]) == ("progress", 100.0)
    chunks = query_store_rows(store, "SELECT outcome, worker FROM pieces WHERE stage = 'fetch_chunk'")
    assert bar["description"] == "download: {n} of {n} chunks".format(n=len(chunks))
    assert {row["outcome"] for row in chunks} == {"made"}
    assert {row["worker"] for row in chunks} == {
        row["worker"] for row in query_store_rows(store, "SELECT worker FROM stages")
    }
    assert f"{run['run_id']}.html" in artifact_of("shown-toy-report")["data"]
    assert artifact_of("shown-toy-scores") is None  # this run has none
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert {line["level"] for line in lines} == {"info"}
    assert {line.get("run") for line in lines[1:]} == {run["run_id"]}
    assert [line["step"] for line in lines if ": made " in line["message"]] == ["tabletop", "ingest", "download"]
    assert all(len(line["key"]) == 64 for line in lines if ": made " in line["message"])
    found = query_store_rows(
        store, "SELECT metric, value = reference AS same, verdict FROM gates WHERE step = 'download' ORDER BY 1"
    )
    assert [(row["metric"], row["same"], row["verdict"]) for row in found] == [
        ("rows of images", True, "pass"), ("schema", None, "pass"), ("success_rate", None, "pass"),
        ("width_px", None, "pass"),
    ]  # fmt: skip
    undisturbed = run_toy(store_at(tmp_path / "direct", tmp_path / "cache"), path)
    assert digests(run_toy(store, path).artifacts) == digests(undisturbed.artifacts)


def test_scores_are_shown_as_a_table(tmp_path, server):
    store = shared_store()
    run = run_of(tmp_path, store, list_runs(store)[0]["run_id"])

    @flow
    def scoring():
        publish_scores(run)

    scoring()
    table = artifact_of(f"{tmp_path.name}-scores".replace("_", "-"))
    methods = [row["method"] for row in json.loads(table["data"])]
    assert {"image only", "pli", "tscir_map"} <= set(methods)
    assert table["description"] == f"Scores of run {run.run_id}, in percent"


def test_a_bar_is_moved_in_place_and_seldom(tmp_path, server, monkeypatch):
    monkeypatch.setattr(ui_artifacts, "PROGRESS_EVERY_S", 1000.0)
    key = f"{tmp_path.name}-down-load-progress".replace("_", "-")
    states = []

    @flow
    def moving():
        bar = ChunkProgressBar(run_of(tmp_path), "down load", 4)
        for number, result in enumerate([ended(0), ended(1), ended(2, key=None), ended(3)]):
            bar.due = 0.0 if number == 2 else bar.due
            bar.add(result)
            states.append((artifact_of(key)["data"], artifact_of(key)["id"]))

    moving()
    assert [percent for percent, _ in states] == [0.0, 0.0, 75.0, 100.0]
    assert len({name for _, name in states}) == 1
    assert artifact_of(key)["description"] == "down load: 4 of 4 chunks, 1 failed"


@pytest.mark.filterwarnings("ignore:Artifact creation outside of a flow:FutureWarning")  # a flow keeps its first client
def test_a_server_that_is_gone_stops_nothing_and_is_reported_once_for_each_thing(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("zscir"), "propagate", True)
    gone = f"http://127.0.0.1:{free_port()}/api"
    with temporary_settings({PREFECT_API_URL: gone, PREFECT_CLIENT_MAX_RETRIES: 0}):
        run = run_of(tmp_path)
        publish_plan(run, ["tabletop", "short", "ingest"])
        bar = ChunkProgressBar(run, "download", 2)
        bar.add(ended(1))
        bar.add(ended(2))
    warned = [record.message for record in caplog.records if record.name == "zscir"]
    assert len(warned) == 3  # the plan, the report's place, the bar
    assert [line for line in warned if not line.startswith("not shown on Prefect's page: ConnectError: ")] == []


def test_a_run_of_its_own_server_shows_nothing(tmp_path, caplog):
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        publish_plan(run_of(tmp_path), ["tabletop"])
        publish_scores(run_of(tmp_path))
    assert caplog.records == []
