"""zscir serve: a server, a worker and schedules that live and die together, and forget nothing in between."""

import signal
import socket
import subprocess
import time
from contextlib import suppress
from urllib.error import URLError

import psutil
import pytest
from filelock import FileLock

from flows.local_server import local_server, server_home
from tests.support.services import QUICK_SERVER, ask, free_port
from tests.support.toy_pipelines import STEPS, clean_environment, command, held, write_toy
from tests.support.toys import store_at
from zscir.pipeline.run import list_runs
from zscir.runtime.errors import RequestError

# Two steps that the test holds up, with steps between them that go on by themselves.
HELD = (
    '[[steps]]\nname = "{name}"\nstage = "tabletop"\nspec = {{ scenes = {scenes} }}\n'
    '[[steps]]\nname = "after_{name}"\nstage = "ingest"\nspec = {{ source = "s", text_column = "caption" }}\n'
    'inputs = {{ urls = "{name}" }}\n'
)
TWO = STEPS + HELD.format(name="first", scenes=41) + HELD.format(name="second", scenes=42)
KILLED = "kill -9 of a Prefect worker, of `zscir serve`, of its server"
LIMIT_S = 200
pytestmark = [pytest.mark.slow, pytest.mark.timeout(4 * LIMIT_S)]


def wait_for(there, limit_s=LIMIT_S):
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        with suppress(URLError, ConnectionError, psutil.Error):
            if found := there():
                return found
        time.sleep(0.3)
    raise TimeoutError(f"nothing after {limit_s} s")


class Served:
    """One `zscir serve` after another, on one port and one store."""

    def __init__(self, folder):
        self.folder, self.port = folder, free_port()
        self.store = store_at(folder / "store", folder / "cache")
        self.path = write_toy(folder / "specs", TWO)
        self.process = None

    def begin(self):
        words = [
            "serve",
            str(self.path),
            "--port",
            str(self.port),
            "--schedule",
            "0 3 * * *",
            "--timezone",
            "Asia/Tokyo",
        ]
        own = QUICK_SERVER | {"ZSCIR_STORE": self.store.uri, "ZSCIR_CACHE": str(self.folder / "cache")}
        environment = {name: value for name, value in clean_environment(own).items() if name != "PREFECT_HOME"}
        with (self.folder / "out.txt").open("wb") as out:
            self.process = subprocess.Popen(command(*words), env=environment, stdout=out, stderr=out, cwd=self.folder)
        wait_for(lambda: self.process.poll() is not None or "started!" in self.output())
        assert self.process.poll() is None, self.output()

    def output(self):
        return (self.folder / "out.txt").read_text(errors="replace")

    def ask(self, what, query=None):
        return ask(f"http://127.0.0.1:{self.port}/api", what, query)

    def start(self, deployment, **requested):
        found = wait_for(lambda: self.ask(f"deployments/name/{deployment}"))
        return wait_for(lambda: self.ask(f"deployments/{found['id']}/create_flow_run", requested))["id"]

    def family(self):
        """Every process that it or its worker started."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                environment = process.environ()
                if "ZSCIR_FAMILY" in environment and environment.get("ZSCIR_STORE") == self.store.uri:
                    found.append(process)
        return found

    def listens_on(self):
        """The addresses on which any of them can be reached."""
        found = [connection for process in self.family() for connection in process.net_connections("tcp")]
        return {connection.laddr.ip for connection in found if connection.status == psutil.CONN_LISTEN}

    def child(self, word):
        found = [child for child in psutil.Process(self.process.pid).children() if word in child.cmdline()]
        return found[0] if found else None

    def run_at(self, step):
        return wait_for(lambda: [run for run in list_runs(self.store) if run["stopped_at"] == step])[-1]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    served = Served(tmp_path_factory.mktemp("served"))
    yield served
    if served.process is not None and served.process.poll() is None:
        served.process.kill()
        served.process.wait()
    for left in served.family():
        with suppress(psutil.Error):
            left.kill()


def test_a_run_outlives_its_worker_and_its_server_and_nobody_outlives_serve(served, measured):
    with held(served.store, served.path, "second"):
        with held(served.store, served.path, "first"):
            served.begin()
            assert f"http://127.0.0.1:{served.port}" in served.output()
            assert "0 3 * * * Asia/Tokyo" in served.output()
            flow_run = served.start("run-pipeline/toy")
            begun = served.run_at("first")
            assert served.listens_on() == {"127.0.0.1"}
            server_environment = served.child("server").environ()
            assert (server_environment["PREFECT_SERVER_ANALYTICS_ENABLED"], server_environment["DO_NOT_TRACK"]) == (
                "false",
                "1",
            )
            old = {word: served.child(word) for word in ("worker", "server")}
            for process in old.values():
                process.kill()
            killed_at = time.monotonic()
            wait_for(lambda: all(served.child(word) not in (None, process) for word, process in old.items()))
            back_s = time.monotonic() - killed_at
        assert served.run_at("second")["run_id"] == begun["run_id"]
        assert begun["flow_run_id"] == flow_run
        assert len(served.family()) >= 3
        served.process.kill()
        killed_at = time.monotonic()
        served.process.wait()
        wait_for(lambda: served.family() == [], 30)
        none_s = time.monotonic() - killed_at
    (run,) = list_runs(served.store)
    assert run["status"] in ("died", "interrupted")
    measured(
        KILLED,
        f"worker and server: new ones {back_s:.1f} s later, the same run went on meanwhile; "
        f"`zscir serve`: none of its processes left {none_s:.1f} s later",
    )


def test_started_again_it_says_what_became_of_the_run_which_is_in_the_way_of_none_and_stops_cleanly(served, measured):
    (before,) = list_runs(served.store)
    with held(served.store, served.path, "second"):
        served.begin()
        (flow_run,) = served.ask("flow_runs/filter", {"flow_runs": {"id": {"any_": [before["flow_run_id"]]}}})
        assert flow_run["state_type"] == "CRASHED"
        assert [run["status"] for run in list_runs(served.store)] in (["failed"], ["interrupted"])
        again = served.start("run-pipeline/toy")  # of which one may be at work at a time
        wait_for(
            lambda: [
                run for run in list_runs(served.store) if (run["flow_run_id"], run["stopped_at"]) == (again, "second")
            ]
        )
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(90) == 0, served.output()
    assert served.family() == []
    after = list_runs(served.store)[-1]
    assert (after["status"], after["flow_run_id"]) == ("interrupted", again)
    assert (after["made"], after["reused"]) == (0, 5)
    measured(KILLED, f"its rerun reused {after['reused']} finished steps and made {after['made']} again")


def test_a_port_or_a_folder_that_is_taken_is_reported_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.delenv("PREFECT_HOME")
    store = store_at(tmp_path / "store", tmp_path / "cache")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RequestError, match=f"port {port} of 127.0.0.1: .*; give another with --port"):
            local_server(store, port).__enter__()
    assert not (tmp_path / "store").exists()
    server_home(store).mkdir(parents=True)
    with (
        FileLock(server_home(store) / "serve.lock"),
        pytest.raises(RequestError, match="another `zscir serve` works there"),
    ):
        local_server(store, free_port()).__enter__()


def test_a_server_keeps_its_data_beside_the_artifacts_unless_set_otherwise(tmp_path, monkeypatch):
    monkeypatch.delenv("PREFECT_HOME")
    store = store_at(tmp_path / "store", tmp_path / "cache")
    assert server_home(store) == tmp_path / "store" / ".prefect"
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "elsewhere"))
    assert server_home(store) == tmp_path / "elsewhere"
