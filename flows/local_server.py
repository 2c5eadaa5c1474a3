"""Run a Prefect server and a worker on this machine for as long as ``zscir serve`` runs, and restart one that dies."""

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
RESTART_AFTER_S = 10.0  # at least this long between two starts, so that a broken worker does not start every second
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
    """The server or the worker: its command, and the process that runs it now."""

    name: str
    command: list[str]
    log: Path | None
    process: "subprocess.Popen[bytes] | None" = None
    started_at_s: float = 0.0

    def start(self) -> None:
        """Start it (again)."""
        self.started_at_s = time.monotonic()
        if self.log is None:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=sys.stderr)
            return
        with self.log.open("wb") as stream:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream)

    def has_exited(self) -> bool:
        """Whether it has ended, or was never started."""
        return self.process is None or self.process.poll() is not None

    def stop(self, grace_s: float) -> None:
        """Terminate it, and kill it when it has not ended after ``grace_s``."""
        if self.process is None:
            return
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(grace_s)
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
    """A server to be started on ``port`` of this machine; every process that it or its worker started ends with it.

    RequestError when the port or the folder is taken. The environment of this process names the server from here on,
    so Prefect's own modules, which read it at import, are imported inside.
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
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", SERVER_HOST, "--port", str(port)]
    server = ManagedProcess("server", command, home / "server.log")
    try:
        yield server
    finally:
        server.stop(STOP_LIMIT_S)
        terminate_all(process_group(name), 0)
        lock.release()


def start_server(server: ManagedProcess, port: int) -> None:
    """Start the server and wait until it answers; StageError with the end of its log when it does not."""
    server.start()
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline and not server.has_exited():
        with suppress(OSError), urllib.request.urlopen(f"http://{SERVER_HOST}:{port}/api/health", timeout=2):
            return
        time.sleep(0.1)
    last = "" if server.log is None else server.log.read_text(errors="replace")[-1000:]
    raise StageError(f"Prefect's server did not come up in {START_LIMIT_S:.0f} s; the end of {server.log}:\n{last}")


def supervise_worker(server: ManagedProcess, pool: str, limit: int | None) -> None:
    """Start a worker; restart it, or the server, when one dies; return at SIGINT or SIGTERM."""
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process"]
    worker = ManagedProcess("worker", command + ([] if limit is None else ["--limit", str(limit)]), None)
    with _stop_event() as stop:
        worker.start()
        try:
            while not stop.wait(CHECK_EVERY_S):
                for child in (server, worker):
                    if child.has_exited() and time.monotonic() - child.started_at_s > RESTART_AFTER_S:
                        log_info(f"serve: the {child.name} ended; it is started again")
                        child.start()
        finally:
            _stop_worker(worker)


def mark_orphaned_runs(pool: str) -> list[str]:
    """Set the states of flow runs whose process ended with an earlier `zscir serve`; return their names.

    One that had begun is Crashed; one that had not is scheduled anew. Neither holds a place under a limit after that.
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
    marked = []
    with prefect_client() as client:
        of_pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[pool]))
        for flow_run in client.read_flow_runs(flow_run_filter=FlowRunFilter(state=state), work_pool_filter=of_pool):
            if _is_process_alive(flow_run.infrastructure_pid, str(flow_run.id)):
                continue
            had_begun = flow_run.state_type != StateType.PENDING
            reason = "its process ended with `zscir serve`; `zscir runs` lists the run, `zscir rerun` resumes it"
            new: Any = Crashed(message=reason) if had_begun else Scheduled(scheduled_time=datetime.now(UTC))
            client.set_flow_run_state(flow_run.id, new, force=True)
            marked.append(flow_run.name)
    return marked


def _is_process_alive(pid: str | None, flow_run_id: str) -> bool:
    import psutil

    try:  # the id in its environment, too: the operating system may have given its number to another process
        return pid is not None and psutil.Process(int(pid)).environ().get(RUN_ID_VARIABLE) == flow_run_id
    except (psutil.Error, ValueError):
        return False


@contextmanager
def _stop_event() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set. With a handler set here, children do not inherit an ignored SIGINT."""
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    old_handlers = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in old_handlers.items():
            signal.signal(number, handler)


def _stop_worker(worker: ManagedProcess) -> None:
    """Terminate flow runs first, while server and worker are there to take their last states; then the worker."""
    log_info("serve: stopping")
    group = process_group(os.environ[GROUP_VARIABLE])
    at_work = {process.pid: process for process in group if _runs_a_flow(process)}
    # Only the outermost: a flow run ends its own children, and must be alive to record which run was interrupted.
    terminate_all([process for process in at_work.values() if process.ppid() not in at_work], STOP_LIMIT_S)
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
