"""The warden: helpers that this process started end with it, even when it is killed by force.

Prefect stops its ephemeral server when the process ends; one that dies by SIGKILL cannot, and the server would run on.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any

LOOK_EVERY_S = 1.0
FAMILY = "ZSCIR_FAMILY"  # in the environment of a process: the name of those that end together
PATIENCE_S = 10.0
PR_SET_PDEATHSIG = 1
_WARDENS: dict[str, subprocess.Popen[bytes]] = {}


def die_with_parent(parent: int) -> None:
    """End this process by force when ``parent`` is gone, however it went: the kernel does (Linux), or a thread."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
    else:
        threading.Thread(target=_die_once_adopted, args=(parent,), daemon=True).start()


def _die_once_adopted(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_EVERY_S)
    os.kill(os.getpid(), signal.SIGKILL)


def guard(mark: str) -> None:
    """Start a warden: when this process is gone it ends those children of it that have ``mark`` in their command."""
    _start("children", mark)


def guard_family(name: str) -> None:
    """Start a warden: when this process is gone it ends every process whose environment says ``FAMILY=name``.

    Whoever starts a process hands its environment down, so grandchildren in sessions of their own belong to it too.
    """
    _start("family", name)


def _start(whom: str, mark: str) -> None:
    if mark in _WARDENS:
        return
    quiet = subprocess.DEVNULL
    words = [sys.executable, "-m", "zscir.runtime.child_processes", whom, str(os.getpid()), mark]
    own = {name: value for name, value in os.environ.items() if name != FAMILY}
    _WARDENS[mark] = subprocess.Popen(words, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True, env=own)


def watch(parent_pid: int, mark: str) -> None:
    """Remember the marked children of a process while it lives, then end them."""
    import psutil

    known: set[Any] = set()
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(parent_pid)
        while parent.is_running() and parent.status() != psutil.STATUS_ZOMBIE:
            known |= {child for child in parent.children(recursive=True) if _marked(child, mark)}
            time.sleep(LOOK_EVERY_S)
    for child in known:
        with suppress(psutil.NoSuchProcess):
            child.terminate()


def watch_family(parent_pid: int, name: str) -> None:
    """Wait for the end of a process, then end its family."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(parent_pid)
        while parent.is_running() and parent.status() != psutil.STATUS_ZOMBIE:
            time.sleep(LOOK_EVERY_S)
    end_all(family(name), PATIENCE_S)
    end_all(family(name), 0)  # those that were born in the meantime


def family(name: str) -> list[Any]:
    """Every other process of this user whose environment says ``FAMILY=name``."""
    import psutil

    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(FAMILY) == name:
                found.append(process)
    return found


def end_all(processes: list[Any], patience_s: float) -> None:
    """Ask every process to end, and end by force those that have not after ``patience_s``."""
    import psutil

    for process in processes:
        with suppress(psutil.Error):
            process.terminate()
    _, left = psutil.wait_procs(processes, timeout=patience_s)
    for process in left:
        with suppress(psutil.Error):
            process.kill()


def _marked(process: Any, mark: str) -> bool:
    import psutil

    with suppress(psutil.Error):  # it may end between the listing and the look
        return process.pid != os.getpid() and any(mark in word for word in process.cmdline())
    return False


if __name__ == "__main__":
    {"children": watch, "family": watch_family}[sys.argv[1]](int(sys.argv[2]), sys.argv[3])
