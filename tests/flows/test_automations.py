"""The automations on a real Prefect server: runs that really fail, are gated or killed, and a receiver that listens."""

import asyncio
import json
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import Posture
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.automations import (
    MAX_SILENCE,
    NOTIFY_AUTOMATION,
    STALE_RUNS_AUTOMATION,
    _ensure,
    ensure_automations,
    stale_runs_automation,
)
from flows.deploy import register_deployments, watched_flows
from flows.deployment_config import DeploymentRequest, pipeline_deployment
from tests.support import services
from tests.support.services import named, prefect_api
from tests.support.toy_pipelines import STEPS, clean_environment, held, write_toy
from tests.support.toys import store_at
from zscir.pipeline.run import find_run, list_runs
from zscir.runtime.errors import RequestError

SECRET = "hunter2-hunter2"
BROKEN = STEPS.replace('source = "short", text_column = "caption"', 'source = "short", text_column = "nothing"')
# In one process: three flow runs as deployments have them, of a pipeline that is not there, of one that fails and one
# whose budget is no time at all; then two runs of one step each, of which one fails and one is stopped by its gate; at
# last the flow run of a deployment, as a worker carries it out, which works until it is killed.
SIX = """
import sys, time
from dataclasses import replace
from pathlib import Path
from prefect import get_client
from prefect.flow_engine import run_flow
from flows.deploy import watched_flows
from flows.deployed_flows import run_pipeline
from flows.pipeline import pipeline_flow
from tests.support.toys import ShardsSpec, gated
from zscir.runtime.errors import ZscirError
from zscir.pipeline.pipeline_file import load_pipeline
from zscir.pipeline.run import begin_run, end_run
from zscir.runtime.settings import Settings
from zscir.pipeline.stage import stage
from zscir.store.store import open_store

@stage(version=1)
def failing(spec: ShardsSpec, out: Path) -> dict:
    raise RuntimeError("wrong key hunter2-hunter2")

folder = Path(sys.argv[1])
store = open_store(Settings.from_env())
loaded = load_pipeline(folder / "toy.toml", [])
for name in ("missing", "broken/toy"):
    run_pipeline(str(folder / f"{name}.toml"), return_state=True)
run_pipeline(str(folder / "toy.toml"), set=["limits.max_hours=0.0000001"], return_state=True)
for stage_of_step in (failing, gated):
    first = loaded.steps[0]
    step = replace(first, stage=stage_of_step, spec=ShardsSpec(), inputs={})
    run = begin_run(store, replace(loaded, steps=[step]), [], {})
    try:
        pipeline_flow(run.run_id, "toy", [[step.name, first.stage.name]])
    except ZscirError:
        end_run(run, "failed")
(folder / "last").touch()
while not (folder / "go").exists():
    time.sleep(0.05)
with get_client(sync_client=True) as client:
    flow_run = client.read_flow_run(sys.argv[2])
run_flow(run_pipeline, flow_run=flow_run)
"""
HELD = "tabletop.scenes=43"  # so that no other run of the pipeline has made it


class Receiver:
    """An HTTP server on loopback that keeps what is posted to it."""

    def __init__(self):
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.posted.append((self.headers["Content-Type"], body.decode()))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *words):
                pass

        self.posted = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/a-secret-path"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *words):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def messages(self):
        return [json.loads(body) for _, body in list(self.posted)]

    def wait_for(self, wanted):
        """The first message that is like that; a run's id stands for those about the run."""
        of_run = wanted if callable(wanted) else lambda message: message["run_id"] == wanted

        def found():
            return [message for message in self.messages() if of_run(message)]

        return services.wait_for(found, 100)[0]


@contextmanager
def client_of(api):
    """A runner of coroutines that take a client of the server."""

    def ask(question):
        async def answer():
            async with PrefectClient(api) as client:
                return await question(client)

        with temporary_settings({PREFECT_API_URL: api}):
            return asyncio.run(answer())

    yield ask


@pytest.fixture
def ask():
    with client_of(prefect_api()) as asking:
        yield asking
        asking(remove_all)


async def remove_all(client):
    for automation in await client.read_automations():
        await client.delete_automation(automation.id)


def read(client):
    return client.read_automations()


async def raw(client):
    """Name, id and time of the last change of each automation."""
    found = (await client.request("POST", "/automations/filter", json={})).json()
    return [(automation["name"], automation["id"], automation["updated"]) for automation in found]


def test_a_run_is_given_up_after_three_heartbeats_that_did_not_come():
    """The default period is 180 s; what Prefect's page shows, 90 s, would crash every healthy run."""
    from prefect.settings import get_current_settings

    trigger = stale_runs_automation(watched_flows()).trigger
    assert trigger.within == MAX_SILENCE == 3 * timedelta(seconds=get_current_settings().flows.heartbeat_frequency)
    assert (trigger.posture, trigger.after) == (Posture.Proactive, {"prefect.flow-run.heartbeat"})
    names = trigger.match_related["prefect.resource.name"]
    assert {"pipeline", "run-pipeline", "run-stage", "rerun", "reap"} <= set(names)


def test_setting_up_twice_is_setting_up_once_and_what_changed_is_mended(ask):
    assert ask(lambda client: ensure_automations(client, watched_flows(), None)) == [STALE_RUNS_AUTOMATION]
    (first,) = ask(raw)
    address = "http://127.0.0.1:9/x"
    assert ask(lambda client: ensure_automations(client, watched_flows(), address)) == [
        STALE_RUNS_AUTOMATION,
        NOTIFY_AUTOMATION,
    ]
    before = sorted(ask(raw))
    assert ask(lambda client: ensure_automations(client, watched_flows(), address)) == [
        STALE_RUNS_AUTOMATION,
        NOTIFY_AUTOMATION,
    ]
    assert sorted(ask(raw)) == before
    assert first in before
    ask(lambda client: _ensure(client, stale_runs_automation(watched_flows(), timedelta(seconds=99))))
    ask(lambda client: client.create_automation(stale_runs_automation(watched_flows())))
    ask(lambda client: ensure_automations(client, watched_flows(), None))
    by_name = {automation.name: automation for automation in ask(read)}
    assert len(ask(read)) == len(by_name) == 2
    assert by_name[STALE_RUNS_AUTOMATION].trigger.within == MAX_SILENCE


def test_what_somebody_paused_stays_paused(ask):
    ask(lambda client: ensure_automations(client, watched_flows(), None))
    (there,) = ask(read)
    ask(lambda client: client.pause_automation(there.id))
    ask(lambda client: ensure_automations(client, watched_flows(), None))
    ask(lambda client: _ensure(client, stale_runs_automation(watched_flows(), timedelta(seconds=99))))
    (there,) = ask(read)
    assert (there.enabled, there.trigger.within) == (False, timedelta(seconds=99))


@pytest.mark.parametrize("given", ["", "slack", "slack-webhook/", "ftp://host/x", "slack-webhook/no-such-block"])
def test_an_address_that_is_none_is_refused(ask, given):
    with pytest.raises(RequestError, match="webhook"):
        ask(lambda client: ensure_automations(client, watched_flows(), given))


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # apprise imports it
def test_a_notification_block_of_the_server_sends_as_text_how_to_continue(ask):
    """Apprise posts to loopback as it would to a team's chat."""
    from prefect.blocks.notifications import MattermostWebhook

    with Receiver() as receiver:

        async def make(client):
            await MattermostWebhook.aregister_type_and_schema(client=client)
            block = MattermostWebhook(hostname="127.0.0.1", port=receiver.port, token="abcdefghijklmnopqrstuvwxyz")
            return await block.asave("alerts", overwrite=True, client=client)

        block_id = ask(make)
        ask(lambda client: ensure_automations(client, watched_flows(), "mattermost-webhook/alerts"))
        notify = next(automation for automation in ask(read) if automation.name == NOTIFY_AUTOMATION)
        assert isinstance(notify.actions[0], SendNotification)
        assert notify.actions[0].block_document_id == block_id
        name = flow_run_that_failed("step 'a' (stage b): no\nGo on with: zscir rerun r-1 --from b")
        posted = receiver.wait_for(lambda message: name in message["text"])
    assert f"zscir: {name}: failed" in posted["text"]
    assert posted["text"].rstrip().endswith("Go on with: zscir rerun r-1 --from b")


def flow_run_that_failed(message):
    """The name of a flow run of ours that the server is told of without anybody having run it."""
    flow = services.ask(prefect_api(), "flows/", {"name": "rerun"})["id"]
    made = services.ask(prefect_api(), "flow_runs/", {"flow_id": flow, "state": {"type": "RUNNING"}})
    failed = {"state": {"type": "FAILED", "message": message}, "force": True}
    services.ask(prefect_api(), f"flow_runs/{made['id']}/set_state", failed)
    return made["name"]


def notification_of(flow_run_id):
    """Whether the server has a heartbeat of a flow run."""
    wanted = {
        "event": {"name": ["prefect.flow-run.heartbeat"]},
        "resource": {"id": [f"prefect.flow-run.{flow_run_id}"]},
    }
    return services.ask(prefect_api(), "events/filter", {"filter": wanted})["total"]


def wait_until(true, process, patience_s=150):
    deadline = time.monotonic() + patience_s
    while not true():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.1)


def began(name):
    """A flow run of a deployment, as it is when a worker has got it and wants to begin."""
    flow_run = services.start_flow(prefect_api(), f"run-pipeline/{name}")
    services.ask(prefect_api(), f"flow_runs/{flow_run}/set_state", {"state": {"type": "PENDING"}})
    return services.ask(prefect_api(), f"flow_runs/{flow_run}")


@pytest.mark.slow
def test_runs_that_fail_are_gated_cost_too_much_or_die_are_notified_and_a_dead_one_blocks_none(ask, tmp_path):
    path = write_toy(tmp_path / "toy")
    folder = path.parent
    write_toy(folder / "broken", BROKEN)
    store = store_at(tmp_path / "store", tmp_path / "cache")
    environment = {"ZSCIR_STORE": store.uri, "PREFECT_API_URL": prefect_api(), "SOME_API_KEY": SECRET}
    with Receiver() as receiver, held(store, path, "tabletop", HELD):
        with named(prefect_api()):
            register_deployments(
                [pipeline_deployment(DeploymentRequest(path, ["name=lone", HELD]))], "lone", receiver.url
            )
        lone = began("lone")
        assert lone["state_type"] == "PENDING"
        process = subprocess.Popen(
            [sys.executable, "-c", SIX, str(folder), lone["id"]], env=clean_environment(environment), text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        wait_until((folder / "last").exists, process)
        ask(lambda client: _ensure(client, stale_runs_automation(watched_flows(), timedelta(seconds=10))))
        (folder / "go").touch()
        wait_until(lambda: len(list_runs(store)) == 5 and list_runs(store)[4]["flow_run_id"], process)
        # The first heartbeat goes out at once, but by way of queues: a run that was never heard of is not missed.
        wait_until(lambda: notification_of(lone["id"]), process)
        assert began("lone")["state_type"] == "CANCELLED"
        process.kill()
        process.communicate()
        deployed, dear, failed, gated, dead = list_runs(store)

        message = receiver.wait_for(None)
        assert (message["status"], message["flow"], message["rerun"]) == ("failed", "run-pipeline", None)
        assert f"{folder}/missing.toml" in message["reason"]

        message = receiver.wait_for(deployed["run_id"])
        assert (message["status"], message["flow"]) == ("failed", "run-pipeline")
        assert "stopped at 'short'; what was finished is kept" in message["reason"]
        assert message["rerun"] == f"zscir rerun {deployed['run_id']}"

        message = receiver.wait_for(dear["run_id"])
        assert (dear["status"], message["status"], message["flow"]) == ("over_budget", "budget", "run-pipeline")
        assert message["rerun"].startswith(f"zscir rerun {dear['run_id']} --max-hours ")
        assert "the run's limit of 1e-07 hours stops it" in message["reason"]

        message = receiver.wait_for(failed["run_id"])
        assert (message["status"], message["flow"]) == ("failed", "pipeline")
        assert "stage failing): RuntimeError: wrong key ***" in message["reason"]
        assert message["rerun"] == f"zscir rerun {failed['run_id']}"

        message = receiver.wait_for(gated["run_id"])
        assert message["status"] == "gate"
        assert "6 shards, at least 100 are needed" in message["reason"]

        message = receiver.wait_for(lone["id"])
        assert (dead["status"], message["status"], message["flow"]) == ("died", "crashed", "run-pipeline")
        assert message["reason"] == "no heartbeat for 10 s: its process is gone or cut off"
        assert message["rerun"] == f"zscir rerun {lone['id']}"
        assert message["flow_run_id"] == lone["id"]
        assert find_run(store, lone["id"])["run_id"] == dead["run_id"]
        assert began("lone")["state_type"] == "PENDING"

        # At least once: a server on SQLite takes an event again when its database was busy at the first time.
        messages = {json.dumps(message) for message in receiver.messages()}
        assert len(messages) == 6, messages
        assert {kind for kind, _ in receiver.posted} == {"application/json"}
        assert SECRET not in str(receiver.posted)
        assert receiver.url not in str(receiver.posted)
