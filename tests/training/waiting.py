"""The processes of a training on several ranks, seen from outside, and what a test waits for."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from zscir.training.resume import RESUME_FOLDER, STATE_FILE

PATIENCE_S = 120


def wait_for(what: Callable[[], Any], seconds: float = PATIENCE_S) -> Any:
    """What ``what`` gives once that is something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.02)
    raise AssertionError("nothing of the kind happened")


def launcher_and_ranks(parent: psutil.Process) -> dict[str, psutil.Process]:
    """The launcher (``launch``) and the ranks (``0``, ``1``) that a process has."""
    found = {}
    for child in parent.children(recursive=True):
        try:
            words, environment = child.cmdline(), child.environ()
        except psutil.Error:
            continue
        if "zscir.training.worker" in words:
            found["launch" if "launch" in words else environment.get("RANK", "?")] = child
    return found


def wait_for_ranks(parent: psutil.Process) -> dict[str, psutil.Process]:
    """The launcher and two ranks, as soon as all are there."""
    return wait_for(lambda: found if len(found := launcher_and_ranks(parent)) == 3 and "?" not in found else None)


def gone(process: psutil.Process) -> bool:
    """Whether nothing of a process is left but its exit code."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def none_left(found: dict[str, psutil.Process], seconds: float) -> None:
    """Wait for the end of all."""
    wait_for(lambda: all(gone(process) for process in found.values()), seconds)


def state_step(out: Path) -> int:
    """The step of the state that a training in ``out`` has saved; 0 where there is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(out / RESUME_FOLDER / STATE_FILE, framework="pt") as stored:
            return int(stored.metadata()["step"])
    except (OSError, SafetensorError):
        return 0


def listening(process: psutil.Process) -> list[str]:
    """The addresses at which a process waits for others."""
    try:
        return [
            connection.laddr.ip for connection in process.net_connections() if connection.status == psutil.CONN_LISTEN
        ]
    except psutil.Error:
        return []
