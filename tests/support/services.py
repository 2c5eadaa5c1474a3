"""Servers that several tests share: each is started once per test process, on loopback, and ends with it."""

import atexit
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import psutil
import pytest

from tests.support.environment import SCRATCH

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"}
# A Prefect server that nobody looks at is there sooner, and one that looks oftener is waited for less.
QUICK_SERVER = {
    "PREFECT_SERVER_UI_ENABLED": "false",
    "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
    "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT1S",
}
QUICK_WORKER = {"PREFECT_WORKER_QUERY_SECONDS": "1", "PREFECT_RUNNER_POLL_FREQUENCY": "1"}


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@cache
def s3_endpoint() -> str:
    """The address of an S3 protocol server; it keeps everything in memory."""
    port = free_port()
    _start(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], f"http://127.0.0.1:{port}/moto-api/"
    )
    return f"http://127.0.0.1:{port}"


@cache
def prefect_api() -> str:
    """The API of a Prefect server, for tests that run several flows and need not start one each."""
    port = free_port()
    words = ["-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    own = QUICK_SERVER | {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_HOME": str(SCRATCH / "prefect-server"),
        "PREFECT_SERVER_DATABASE_TIMEOUT": "60",  # SQLite has one writer at a time; the others wait, not fail
    }
    _start([sys.executable, *words], f"http://127.0.0.1:{port}/api/health", own)
    return f"http://127.0.0.1:{port}/api"


@contextmanager
def named(api: str, **more: str) -> Iterator[None]:
    """While it lasts, environment and settings of this process name that server; ``more`` are other settings."""
    from prefect import settings

    environment = {"PREFECT_API_URL": api, **more}
    keys = {getattr(settings, name): value for name, value in environment.items()}
    with pytest.MonkeyPatch.context() as patch, settings.temporary_settings(keys):
        for name, value in environment.items():
            patch.setenv(name, value)
        yield


def start_worker(pool: str, folder: Path, environment: dict[str, str], *words: str) -> "subprocess.Popen[bytes]":
    """A worker of a pool, which works in ``folder``; what it says is in ``worker.log`` there."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process", *words]
    with (folder / "worker.log").open("wb") as log:
        return subprocess.Popen(command, env=QUICK_WORKER | environment, stdout=log, stderr=log, cwd=folder)


def of_flow_run(flow_run_id: str) -> list[psutil.Process]:
    """The processes in which a flow run is at work."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("PREFECT__FLOW_RUN_ID") == flow_run_id:
                found.append(process)
    return found


def ask(api: str, what: str, query: object = None, method: str | None = None) -> Any:
    """What a Prefect server answers. Busy, one on SQLite says 503: come again; Prefect's own client does so too.

    The answer may take the 60 s for which ``prefect_api`` lets its server wait for the database, and more.
    """
    body = None if query is None else json.dumps(query).encode()
    request = Request(f"{api}/{what}", body, {"Content-Type": "application/json"}, method=method)
    for patience_s in (1, 2, 4, 8, 16, 0):
        try:
            with urlopen(request, timeout=120) as answer:
                text = answer.read()
            return json.loads(text) if text else None
        except HTTPError as error:
            if error.code != 503 or not patience_s:
                raise
            error.close()
            time.sleep(patience_s)
    raise AssertionError


def start_flow(api: str, deployment: str, **parameters: object) -> str:
    """The id of a new flow run of a deployment, which is known as FLOW/NAME, as REST starts one."""
    found = ask(api, f"deployments/name/{deployment}")
    return str(ask(api, f"deployments/{found['id']}/create_flow_run", parameters)["id"])


def wait_for(there: Callable[[], Any], limit_s: float) -> Any:
    """What ``there`` gives once that is something; TimeoutError when it is nothing for so long."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        if found := there():
            return found
        time.sleep(0.3)
    raise TimeoutError(f"nothing after {limit_s} s")


def _start(command: list[str], ready: str, extra: dict[str, str] | None = None, patience_s: float = 180) -> None:
    log = Path(SCRATCH, f"server-{len(list(SCRATCH.glob('server-*')))}.log")
    with log.open("wb") as stream:
        server = subprocess.Popen(command, env=os.environ | (extra or {}), stdout=stream, stderr=stream)
    atexit.register(server.wait)
    atexit.register(server.kill)
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urlopen(ready, timeout=2):
                return
        except (URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"{' '.join(command)} did not come up: {log.read_text(errors='replace')[-1000:]}")
