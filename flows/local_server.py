"""serving: one machine's Prefect server, worker and deployments live as long as one process of ours, and no longer."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from zscir.runtime.child_processes import GROUP_VARIABLE, kill_group_on_exit, process_group, terminate_all
from zscir.runtime.errors import RequestError, StageError
from zscir.runtime.progress import log_info
from zscir.store.store import Store

SERVER_HOST = "127.0.0.1"
START_LIMIT_S = 180.0  # a first start makes the database
STOP_LIMIT_S = 25.0
CHECK_EVERY_S = 1.0
RESTART_AFTER_S = 10.0  # what does not live longer than that is not started again at once
RUN_ID_VARIABLE = "PREFECT__FLOW_RUN_ID"  # in the environment of a flow run's process
SERVER_SETTINGS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLI_PROMPT": "false",
    # Kept in files, a run's place under a concurrency limit outlives the server that gave it.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    "PREFECT_WORKER_QUERY_SECONDS": "3",  # the server is next door
    "PREFECT_SERVER_DATABASE_TIMEOUT": "60",  # SQLite has one writer at a time; the others wait
}


@dataclass
class ManagedProcess:
    """The server or the worker: how it is started, and the process that it is now."""

    name: str
    words: list[str]
    log: Path | None
    process: "subprocess.Popen[bytes] | None" = None
    started_at_s: float = 0.0

    def start(self) -> None:
        """Start it (again)."""
        self.started_at_s = time.monotonic()
        if self.log is None:
            self.process = subprocess.Popen(self.words, stdin=subprocess.DEVNULL, stdout=sys.stderr)
            return
        with self.log.open("wb") as stream:
            self.process = subprocess.Popen(self.words, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream)

    def gone(self) -> bool:
        """Whether it has ended."""
        return self.process is None or self.process.poll() is not None

    def stop(self, patience_s: float) -> None:
        """Ask it to end, and end it by force when it does not."""
        if self.process is None:
            return
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(patience_s)
            return
        self.process.kill()
        self.process.wait()


def server_home(store: Store) -> Path:
    """Where the server keeps its database: PREFECT_HOME, else beside the artifacts, else (S3) in the cache."""
    if given := os.environ.get("PREFECT_HOME"):
        return Path(given).expanduser().resolve()
    return (store.scratch if store.remote else Path(store.root)) / ".prefect"


@contextmanager
def local_server(store: Store, port: int) -> Iterator[ManagedProcess]:
    """A server to be brought up on ``port`` of this machine; all that its family started ends with it.

    RequestError when the port or the folder is taken. The environment of this process names the server from here on,
    so Prefect's own modules are imported inside.
    """
    from filelock import FileLock, Timeout

    _check_port_free(port)
    home = server_home(store)
    home.mkdir(parents=True, exist_ok=True)
    lock = FileLock(home / "serve.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RequestError(f"{home}: another `zscir serve` works there; stop it, or set PREFECT_HOME") from None
    name = secrets.token_hex(8)
    kill_group_on_exit(name)
    os.environ |= SERVER_SETTINGS | {
        GROUP_VARIABLE: name,
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://{SERVER_HOST}:{port}/api",
        "ZSCIR_STORE": store.location,
    }
    words = [sys.executable, "-m", "prefect", "server", "start", "--host", SERVER_HOST, "--port", str(port)]
    server = ManagedProcess("server", words, home / "server.log")
    try:
        yield server
    finally:
        server.stop(STOP_LIMIT_S)
        terminate_all(process_group(name), 0)
        lock.release()


def start_server(server: ManagedProcess, port: int) -> None:
    """Start the server and wait until it answers; StageError with its last words when it does not."""
    server.start()
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline and not server.gone():
        with suppress(OSError), urllib.request.urlopen(f"http://{SERVER_HOST}:{port}/api/health", timeout=2):
            return
        time.sleep(0.1)
    last = "" if server.log is None else server.log.read_text(errors="replace")[-1000:]
    raise StageError(f"Prefect's server did not come up in {START_LIMIT_S:.0f} s; the end of {server.log}:\n{last}")


def supervise_worker(server: ManagedProcess, pool: str, limit: int | None) -> None:
    """Start a worker; start it or the server again when one dies; return when a signal says so."""
    words = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process"]
    worker = ManagedProcess("worker", words + ([] if limit is None else ["--limit", str(limit)]), None)
    with _stop_event() as told:
        worker.start()
        try:
            while not told.wait(CHECK_EVERY_S):
                for one in (server, worker):
                    if one.gone() and time.monotonic() - one.started_at_s > RESTART_AFTER_S:
                        log_info(f"serve: the {one.name} ended; it is started again")
                        one.start()
        finally:
            _stop_worker(worker)


def mark_orphaned_runs(pool: str) -> list[str]:
    """Say in Prefect what became of flow runs whose process is gone with an earlier `zscir serve`; their names.

    One that had begun crashed; one that had not is scheduled anew. Neither holds a place under a limit after that.
    """
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
        WorkPoolFilter,
        WorkPoolFilterName,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed, Scheduled

    from flows.deploy import prefect_client

    under_way = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
    state = FlowRunFilterState(type=FlowRunFilterStateType(any_=under_way))
    buried = []
    with prefect_client() as client:
        of_pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[pool]))
        for one in client.read_flow_runs(flow_run_filter=FlowRunFilter(state=state), work_pool_filter=of_pool):
            if _is_process_alive(one.infrastructure_pid, str(one.id)):
                continue
            begun = one.state_type != StateType.PENDING
            why = "its process ended with `zscir serve`; `zscir runs` lists the run, `zscir rerun` goes on with it"
            new: Any = Crashed(message=why) if begun else Scheduled(scheduled_time=datetime.now(UTC))
            client.set_flow_run_state(one.id, new, force=True)
            buried.append(one.name)
    return buried


def _is_process_alive(pid: str | None, flow_run_id: str) -> bool:
    import psutil

    try:
        return pid is not None and psutil.Process(int(pid)).environ().get(RUN_ID_VARIABLE) == flow_run_id
    except (psutil.Error, ValueError):
        return False


@contextmanager
def _stop_event() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set. A handler of ours is also what makes children not ignore them."""
    told = threading.Event()

    def tell(number: int, frame: FrameType | None) -> None:
        told.set()

    before = {number: signal.signal(number, tell) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop_worker(worker: ManagedProcess) -> None:
    """Flow runs at work are told to stop while server and worker are there to hear of it; then the worker is."""
    log_info("serve: stopping")
    at_work = {one.pid: one for one in process_group(os.environ[GROUP_VARIABLE]) if _runs_a_flow(one)}
    # What a flow run has started itself is ended by it: told at once, it could not say which run was interrupted.
    terminate_all([one for one in at_work.values() if one.ppid() not in at_work], STOP_LIMIT_S)
    worker.stop(STOP_LIMIT_S)


def _runs_a_flow(process: Any) -> bool:
    import psutil

    with suppress(psutil.Error):
        return RUN_ID_VARIABLE in process.environ()
    return False


def _check_port_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((SERVER_HOST, port))
        except OSError as error:
            raise RequestError(f"port {port} of {SERVER_HOST}: {error.strerror}; give another with --port") from None
