"""The commands and settings of compose.yaml, run as plain processes on loopback: the services find each other."""

import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.deploy import register_deployments
from flows.deployment_config import DeploymentRequest, pipeline_deployment
from tests.support.services import QUICK_SERVER, QUICK_WORKER, named
from tests.support.toy_pipelines import write_toy
from tests.support.toys import store_at
from zscir.pipeline.run import list_runs

REPO = Path(__file__).resolve().parents[2]
SERVICES: dict[str, Any] = yaml.safe_load((REPO / "infra/compose.yaml").read_text())["services"]
SECRETS = {"POSTGRES_PASSWORD": "hunter2@/:of the base", "PREFECT_AUTH": "admin:hunter2"}
LIMIT_S = 240
# Compose starts a server again that gave up on a slow database; here it has to wait.
BUSY = QUICK_SERVER | {
    "PREFECT_SERVER_DATABASE_HOST": "127.0.0.1",
    "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "100",
    "PREFECT_SERVER_DATABASE_TIMEOUT": "100",
}

Start = Callable[[list[str], dict[str, str]], subprocess.Popen[bytes]]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def settings_of(service: str, changes: dict[str, str]) -> dict[str, str]:
    """The environment of a service as compose would fill it in, with hosts and ports of this machine."""
    filled = {
        key: re.sub(r"\$\{([A-Z_]+):(?:\?|-)([^}]*)\}", lambda m: SECRETS.get(m[1], ""), value)
        for key, value in SERVICES[service]["environment"].items()
    }
    return {key: value for key, value in filled.items() if value} | changes


def command_of(service: str, port: int) -> list[str]:
    """A service's own command, but on loopback and a free port."""
    here = {"4200": str(port), "0.0.0.0": "127.0.0.1"}  # what compose.yaml says is not done here
    program, *words = [here.get(word, word) for word in SERVICES[service]["command"]]
    start = {"prefect": ["-m", "prefect"], "zscir": ["-c", "from zscir.cli.main import main; main()"]}[program]
    return [sys.executable, *start, *words]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    running: list[subprocess.Popen[bytes]] = []

    def begin(words: list[str], changes: dict[str, str]) -> subprocess.Popen[bytes]:
        environment = (
            os.environ | {"PYTHONPATH": str(REPO), "PREFECT_HOME": str(tmp_path / f"home{len(running)}")} | changes
        )
        with (tmp_path / f"{len(running)}.log").open("wb") as log:
            running.append(subprocess.Popen(words, env=environment, stdout=log, stderr=log, cwd=tmp_path))
        return running[-1]

    yield begin
    for process in reversed(running):
        process.terminate()
    for process in reversed(running):
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture
def postgres() -> Iterator[int]:
    """The port of a PostgreSQL of the machine's own packages, on loopback, set up as compose.yaml asks."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = str(found[-1]) if found else shutil.which("initdb")
    if initdb is None:
        pytest.skip("no PostgreSQL server on this machine (Debian: apt-get install postgresql)")
    user = "postgres" if os.getuid() == 0 else None  # it refuses to be root
    requested, port = SERVICES["postgres"]["environment"], free_port()
    with tempfile.TemporaryDirectory(prefix="zscir-postgres-") as folder:
        (Path(folder) / "password").write_text(SECRETS["POSTGRES_PASSWORD"])
        if user:
            shutil.chown(folder, user)
            shutil.chown(Path(folder) / "password", user)
        words = [
            "-D",
            "data",
            "-U",
            requested["POSTGRES_USER"],
            "-A",
            "scram-sha-256",
            "--no-sync",
            "--pwfile=password",
        ]
        subprocess.run([initdb, *words], user=user, check=True, capture_output=True, cwd=folder)
        words = ["-D", "data", "-p", str(port), "-h", "127.0.0.1", "-k", folder, "-F"]
        server = subprocess.Popen(
            [Path(initdb).with_name("postgres"), *words],
            user=user, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder,
        )  # fmt: skip
        create = [
            "createdb",
            "-h",
            "127.0.0.1",
            "-p",
            str(port),
            "-U",
            requested["POSTGRES_USER"],
            requested["POSTGRES_DB"],
        ]
        environment = os.environ | {"PGPASSWORD": SECRETS["POSTGRES_PASSWORD"]}
        wait_for(lambda: not subprocess.run(create, env=environment, capture_output=True, check=False).returncode)
        yield port
        server.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown: it does not wait for clients
        server.wait(30)


def wait_for(there: Callable[[], Any]) -> Any:
    until = time.monotonic() + LIMIT_S
    while time.monotonic() < until:
        if found := there():
            return found
        time.sleep(0.5)
    raise TimeoutError(f"nothing after {LIMIT_S} s")


def ask(url: str, auth: str = "", body: object = None) -> tuple[int, Any]:
    request = urllib.request.Request(url, data=None if body is None else json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    if auth:
        request.add_header("Authorization", "Basic " + base64.b64encode(auth.encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code, None
    except OSError:
        return 0, None


@pytest.mark.slow
@pytest.mark.timeout(3 * LIMIT_S)
def test_server_database_deployments_and_worker_find_each_other_and_run_what_is_requested_and_what_is_due(
    postgres: int, start: Start, tmp_path: Path
) -> None:
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    server = start(
        command_of("server", port), settings_of("server", BUSY | {"PREFECT_SERVER_DATABASE_PORT": str(postgres)})
    )
    wait_for(lambda: ask(f"{api}/health")[0] == 200 or server.poll() is not None)
    assert server.poll() is None, (tmp_path / "0.log").read_text()[-2000:]
    assert ask(f"{api}/work_pools/filter", body={})[0] == 401
    assert ask(f"{api}/work_pools/filter", "admin:wrong", body={})[0] == 401
    assert start(command_of("deploy", port), settings_of("deploy", {"PREFECT_API_URL": api})).wait(LIMIT_S) == 0
    here = QUICK_WORKER | {"PREFECT_API_URL": api, "ZSCIR_STORE": str(tmp_path / "store")}
    start(command_of("worker", port), settings_of("worker", here))
    pool = SERVICES["worker"]["command"][4]
    workers = wait_for(lambda: ask(f"{api}/work_pools/{pool}/workers/filter", SECRETS["PREFECT_AUTH"], body={})[1])
    assert [one["status"] for one in workers] == ["ONLINE"]
    assert tables_in(postgres) > 10
    toy = str(write_toy(tmp_path / "specs"))
    with named(api, PREFECT_API_AUTH_STRING=SECRETS["PREFECT_AUTH"]):
        register_deployments(
            [pipeline_deployment(DeploymentRequest(Path(toy), ["name=due", "tabletop.scenes=41"], interval_s=5))], pool
        )
    started = [begin(api, {"parameters": {"pipeline": toy}, "idempotency_key": "once"}) for _ in range(2)]
    assert started[0] == started[1]
    assert ended(api, started[0])["state_type"] == "COMPLETED"
    store = store_at(tmp_path / "store", tmp_path / "cache")
    (run,) = [one for one in list_runs(store) if one["pipeline"] == "toy"]
    assert (run["flow_run_id"], run["trigger"], run["made"]) == (started[0], "api", 3)
    due = wait_for(lambda: [one for one in list_runs(store) if one["trigger"] == "schedule"])[0]["flow_run_id"]
    _, scheduled = ask(f"{api}/deployments/name/run-pipeline/due", SECRETS["PREFECT_AUTH"])
    ask(f"{api}/deployments/{scheduled['id']}/pause_deployment", SECRETS["PREFECT_AUTH"], body={})  # once is enough
    flow_run = ended(api, due)
    assert (flow_run["state_type"], flow_run["auto_scheduled"]) == ("COMPLETED", True)
    (run,) = [one for one in list_runs(store) if one["flow_run_id"] == due]
    assert (run["pipeline"], run["status"], run["made"]) == ("due", "succeeded", 3)


def begin(api: str, requested: dict[str, Any]) -> str:
    """The flow run that REST starts of the form for any pipeline."""
    _, found = ask(f"{api}/deployments/name/run-pipeline/any", SECRETS["PREFECT_AUTH"])
    code, flow_run = ask(f"{api}/deployments/{found['id']}/create_flow_run", SECRETS["PREFECT_AUTH"], body=requested)
    assert code in (200, 201), flow_run
    return str(flow_run["id"])


def ended(api: str, flow_run: str) -> dict[str, Any]:
    """The flow run, once it is over."""

    def over() -> Any:
        _, found = ask(f"{api}/flow_runs/{flow_run}", SECRETS["PREFECT_AUTH"])
        return found if found and found["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None

    found: dict[str, Any] = wait_for(over)
    return found


def tables_in(port: int) -> int:
    """How many tables Prefect made: the server did take the database, not a file of its own."""
    words = ["psql", "-h", "127.0.0.1", "-p", str(port), "-U", "prefect", "-At", "-c"]
    counted = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'"
    done = subprocess.run(
        [*words, counted, "prefect"], env=os.environ | {"PGPASSWORD": SECRETS["POSTGRES_PASSWORD"]},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(done.stdout)
