"""Flows that a server starts: by REST, by the page's forms and by a schedule, on a real server with a real worker."""

import json
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from urllib.error import HTTPError

import pytest

from flows.deploy import register_deployments
from flows.deployment_config import DeploymentRequest, load_deployments, pipeline_deployment
from tests.support import services
from tests.support.services import named, of_flow_run, prefect_api, start_flow, start_worker
from tests.support.stored_histories import Attic
from tests.support.toy_pipelines import ORDER, STEPS, clean_environment, digests, direct, held, run_toy, write_toy
from tests.support.toys import store_at
from zscir.lineage.sql_views import query_store_rows
from zscir.pipeline.run import list_runs
from zscir.runtime.errors import RequestError, StageError

POOL = "deployed"
BROKEN = STEPS.replace('source = "short", text_column = "caption"', 'source = "short", text_column = "nothing"')
OWN = 'stage = "tabletop"\nspec = { scenes = 39 }'  # what no other flow run makes
WHOLE = STEPS.replace('stage = "tabletop"', OWN)
SLOW = STEPS + '[[steps]]\nname = "slow"\nstage = "tabletop"\nspec = { scenes = 41 }\n'
SLICED = (
    'name = "sliced"\n[[steps]]\nstage = "ingest"\nspec = { source = "s" }\ninputs = { urls = "file:{date}.csv" }\n'
)
OVER = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
LIMIT_S = 200
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3 * LIMIT_S)]


def ask(what, query=None, method=None):
    return services.ask(prefect_api(), what, query, method)


wait_for = partial(services.wait_for, limit_s=LIMIT_S)


def start(deployment, **request_body):
    return start_flow(prefect_api(), deployment, **request_body)


def ended(flow_run):
    def over():
        found = ask(f"flow_runs/{flow_run}")
        return found if found["state_type"] in OVER else None

    return wait_for(over)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("deployed")


@pytest.fixture(scope="module")
def store(folder):
    return store_at(folder / "store", folder / "cache")


@pytest.fixture(scope="module")
def deployments(folder):
    """Everything of prefect.yaml at the shared server, one slow pipeline, and one that starts by itself, once."""
    slow = write_toy(folder / "slow", SLOW.replace('name = "toy"', 'name = "slow"', 1))
    (folder / "sliced.toml").write_text(SLICED)
    for ago in range(3):
        day = datetime.now(UTC).date() - timedelta(days=ago)
        (folder / f"{day}.csv").write_text(f"url,text\nhttp://a.example/{day}.jpg,a red cube\n")
    with named(prefect_api()):
        timed = pipeline_deployment(DeploymentRequest(folder / "sliced.toml", [], interval_s=86400, partition="day"))
        soon = timed.schedules[0].model_copy(update={"anchor_date": datetime.now(UTC) + timedelta(seconds=20)})
        register_deployments([timed.model_copy(update={"schedules": [soon]})], POOL)
        register_deployments([*load_deployments(), pipeline_deployment(DeploymentRequest(slow, []))], POOL)


@pytest.fixture(scope="module")
def worker(folder, store, deployments):
    own = {
        "PREFECT_API_URL": prefect_api(), "ZSCIR_STORE": store.uri, "ZSCIR_CACHE": str(folder / "cache"),
        "PREFECT_HOME": str(folder / "home"),
    }  # fmt: skip
    process = start_worker(POOL, folder, clean_environment(own))
    yield process
    process.terminate()
    process.wait(60)


@pytest.fixture(scope="module")
def begun(folder, store, worker):
    """All the flow runs of this module, started together so that they wait for the worker once; name -> id."""
    toy, broken = (write_toy(folder / name, steps) for name, steps in (("toy", WHOLE), ("broken", BROKEN)))
    whole, whole_again = (
        start("run-pipeline/any", parameters={"pipeline": str(toy)}, idempotency_key="only once") for _ in range(2)
    )
    by_hand = {"type": "SCHEDULED", "message": "Run from the Prefect UI with defaults"}
    with held(store, folder / "slow" / "toy.toml", "slow"):
        yield {
            "whole": whole,
            "whole again": whole_again,
            "broken": start("run-pipeline/any", parameters={"pipeline": str(broken)}, state=by_hand),
            "slow": start("run-pipeline/slow"),
        }


def run_of(store, flow_run):
    (found,) = [run for run in list_runs(store) if run["flow_run_id"] == flow_run]
    return found


def test_a_start_by_rest_is_a_run_whose_steps_are_tasks_of_that_very_flow_run(folder, store, begun):
    flow_run = ended(begun["whole"])
    assert (flow_run["state_type"], flow_run["name"][:4]) == ("COMPLETED", "toy-")
    run = run_of(store, begun["whole"])
    assert (run["trigger"], run["status"]) == ("api", "succeeded")

    undisturbed = run_toy(store_at(folder / "direct", folder / "cache"), folder / "toy" / "toy.toml")
    assert digests(run_toy(store, folder / "toy" / "toy.toml").artifacts) == digests(undisturbed.artifacts)

    def logged():
        return ask("logs/filter", {"logs": {"flow_run_id": {"any_": [begun["whole"]]}}})

    # What a process has logged it sends at its end, after it has told of the flow run's.
    wait_for(lambda: len({line["task_run_id"] for line in logged()} - {None}) == len(ORDER))
    assert any(run["run_id"] in line["message"] for line in logged())
    # The server hears of tasks by events, and of some not at all: on SQLite it drops one for good when its database was
    # busy several times.
    tasks = ask("task_runs/filter", {"flow_runs": {"id": {"any_": [begun["whole"]]}}})
    assert {task["name"] for task in tasks} <= set(ORDER)


def test_the_same_idempotency_key_starts_nothing_twice(begun):
    assert begun["whole"] == begun["whole again"]


def test_a_failure_is_a_failed_flow_run_with_our_message_and_the_form_reruns_it(folder, store, begun):
    flow_run = ended(begun["broken"])
    run = run_of(store, begun["broken"])
    assert (flow_run["state_type"], run["status"], run["trigger"]) == ("FAILED", "failed", "ui")
    message = flow_run["state"]["message"]
    assert message.startswith("step 'short' (stage ingest): ")
    assert message.endswith(f"zscir rerun {run['run_id']}")
    write_toy(folder / "broken")
    again = start("rerun/rerun", parameters={"run_id": run["run_id"], "stage": "ingest", "walk_on": "only that"})
    assert ended(again)["state_type"] == "COMPLETED"
    mended = run_of(store, again)
    assert (mended["parent_run_id"], mended["status"], mended["trigger"]) == (run["run_id"], "succeeded", "api")
    assert mended["steps"] == 2


def test_a_second_run_is_left_out_while_one_is_at_work_and_not_once_that_was_killed_or_cancelled(
    store, begun, measured
):
    wait_for(lambda: stopped_at_slow(store, "slow", flow_run_id=begun["slow"]))
    second = ended(start("run-pipeline/slow"))
    assert (second["state_type"], second["state"]["message"]) == ("CANCELLED", "Deployment concurrency limit reached.")
    assert [run for run in list_runs(store) if run["flow_run_id"] == second["id"]] == []
    for process in of_flow_run(begun["slow"]):
        process.kill()
    assert ended(begun["slow"])["state_type"] == "CRASHED"
    third = start("run-pipeline/slow")
    wait_for(lambda: stopped_at_slow(store, "slow", flow_run_id=third))
    assert run_of(store, begun["slow"])["status"] == "died"
    ask(f"flow_runs/{third}/set_state", {"state": {"type": "CANCELLING"}})
    assert ended(third)["state_type"] == "CANCELLED"
    assert run_of(store, third)["status"] == "interrupted"
    measured(
        "a schedule that fires while the deployment's last run is under way",
        "a second start, by REST: left out by the server before it began, 1 run for 2 flow runs; "
        "the next began once that was killed",
    )


def test_what_a_form_of_upkeep_says_is_carried_out_by_a_worker(tmp_path, worker):
    attic = Attic(store_at(tmp_path / "store", tmp_path / "cache"))
    attic.put(40)
    attic.put(40)
    attic.run([0], 39)
    request_body = {"parameters": {"keep_runs": 1, "delete": True}}
    elsewhere = {"env": {"ZSCIR_STORE": attic.store.uri, "ZSCIR_CACHE": str(tmp_path / "cache")}}
    assert ended(start("gc/gc", **request_body, job_variables=elsewhere))["state_type"] == "COMPLETED"
    assert attic.left() == {0}


def test_a_schedule_starts_a_run_by_itself_on_the_partition_that_is_over(store, worker):
    wait_for(lambda: [run for run in list_runs(store) if run["trigger"] == "schedule"])
    (run,) = [run for run in list_runs(store) if run["trigger"] == "schedule"]
    flow_run = ended(run["flow_run_id"])
    assert (flow_run["state_type"], flow_run["auto_scheduled"]) == ("COMPLETED", True)
    assert flow_run["idempotency_key"].startswith("scheduled ")
    day = datetime.fromisoformat(flow_run["expected_start_time"]).date() - timedelta(days=1)
    assert json.loads(run["user_config"])["set"] == [f"partition.date={day}"]


def test_a_schedule_that_fires_during_a_rerun_waits_for_what_that_makes_and_nothing_is_made_twice(
    folder, store, worker, measured
):
    path = write_toy(folder / "twice", SLOW.replace("scenes = 41", "scenes = 42").replace('"toy"', '"twice"', 1))
    with pytest.raises(StageError, match="zscir rerun"):
        run_toy(store, path, engine=fails_before_slow)
    (before,) = [run for run in list_runs(store) if run["pipeline"] == "twice"]
    with held(store, path, "slow"):
        rerun = start("rerun/rerun", parameters={"run_id": before["run_id"]})
        wait_for(lambda: stopped_at_slow(store, "twice", flow_run_id=rerun))
        with schedule_of(path):
            wait_for(lambda: stopped_at_slow(store, "twice", trigger="schedule"))
    (scheduled,) = [run for run in list_runs(store) if run["pipeline"] == "twice" and run["trigger"] == "schedule"]
    for flow_run in (rerun, scheduled["flow_run_id"]):
        assert ended(flow_run)["state_type"] == "COMPLETED"
    query = "SELECT outcome FROM stages WHERE step = 'slow' AND run_id IN ($1, $2) ORDER BY outcome"
    both = [run_of(store, rerun)["run_id"], scheduled["run_id"]]
    assert [row["outcome"] for row in query_store_rows(store, query, both)] == ["made", "reused"]
    made = query_store_rows(store, "SELECT key FROM stages WHERE outcome = 'made' AND run_id IN ($1, $2)", both)
    assert len(made) == 1
    measured(
        "a schedule that fires during a rerun of the pipeline",
        "1 of 4 steps was not there: made by one of the 2 runs and reused by the other, no step was made twice",
    )


def fails_before_slow(run, chosen):
    direct(run, [name for name in chosen if name != "slow"])
    raise StageError("as things go")


def stopped_at_slow(store, pipeline, **known):
    """Whether a run of the pipeline that is known by these has come to the step that is held."""
    wanted = {"pipeline": pipeline, "stopped_at": "slow", **known}
    return [run for run in list_runs(store) if wanted.items() <= run.items()]


@contextmanager
def schedule_of(path):
    """A deployment of a pipeline that starts every few seconds, one at a time; what would be a second is left out."""
    deployment = pipeline_deployment(DeploymentRequest(path, [], interval_s=5))
    with named(prefect_api()):
        register_deployments([deployment], POOL)
    try:
        yield
    finally:
        found = ask(f"deployments/name/run-pipeline/{deployment.name}")
        ask(f"deployments/{found['id']}/pause_deployment", {})


def test_a_request_that_no_worker_can_serve_says_what_to_give(monkeypatch):
    from flows import deployed_flows, outcome

    monkeypatch.setenv("ZSCIR_STORE", "./zscir-store")
    with pytest.raises(RequestError, match="ZSCIR_STORE=/an/absolute/folder"):
        outcome._open_store()
    with pytest.raises(RequestError, match="give an absolute path of the worker's machine"):
        deployed_flows._find_pipeline("specs/toy.toml")
    assert deployed_flows._find_pipeline("data_specs/pipelines/tabletop.toml").is_file()


def test_a_parameter_that_no_form_offers_is_refused_by_the_server(deployments):
    for name, wrong in (
        ("rerun/rerun", {"stage": "walk"}),
        ("run-pipeline/any", {}),
        ("run-pipeline/any", {"pipeline": "p.toml", "partition": "fortnight"}),
    ):
        with pytest.raises(HTTPError) as error:
            start(name, parameters=wrong)
        assert error.value.code == 409
        error.value.close()
