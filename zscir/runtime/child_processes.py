"""End the child processes of this process with it, even when it is killed by SIGKILL.

Prefect stops its ephemeral server when the process ends; a process that is killed cannot, and the server would run on.
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

WATCH_EVERY_S = 1.0
GROUP_VARIABLE = "ZSCIR_FAMILY"  # in the environment of a process: its group, whose members end together
TERMINATE_GRACE_S = 10.0
PR_SET_PDEATHSIG = 1
_WATCHERS: dict[str, subprocess.Popen[bytes]] = {}


def die_with_parent(parent: int) -> None:
    """End this process by force when ``parent`` is gone, for whatever reason: the kernel does (Linux), or a thread."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        # The parent may have gone before prctl was called; the kernel sends no signal for that.
        if os.getppid() != parent:
            os._exit(1)
    else:
        threading.Thread(target=_die_once_adopted, args=(parent,), daemon=True).start()


def _die_once_adopted(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH_EVERY_S)
    os.kill(os.getpid(), signal.SIGKILL)


def kill_children_on_exit(command_mark: str) -> None:
    """Start a watcher that, when this process is gone, ends its children with ``command_mark`` in their command."""
    _start_watcher("children", command_mark)


def kill_group_on_exit(group: str) -> None:
    """Start a watcher that, when this process is gone, ends all with ``ZSCIR_FAMILY=group`` in their environment.

    A process hands its environment down, so grandchildren in sessions of their own belong to the group too.
    """
    _start_watcher("family", group)


def _start_watcher(whom: str, mark: str) -> None:
    if mark in _WATCHERS:
        return
    quiet = subprocess.DEVNULL
    command = [sys.executable, "-m", "zscir.runtime.child_processes", whom, str(os.getpid()), mark]
    # Without the variable, and in a session of its own: neither the group's end nor Ctrl-C may end the watcher first.
    own = {name: value for name, value in os.environ.items() if name != GROUP_VARIABLE}
    _WATCHERS[mark] = subprocess.Popen(
        command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True, env=own
    )


def watch_children(parent_pid: int, mark: str) -> None:
    """Remember the marked children of a process while it lives, then end them."""
    import psutil

    known: set[Any] = set()
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(parent_pid)
        while parent.is_running() and parent.status() != psutil.STATUS_ZOMBIE:
            # Collected while it lives: once it is gone, its children have another parent.
            known |= {child for child in parent.children(recursive=True) if _has_mark(child, mark)}
            time.sleep(WATCH_EVERY_S)
    for child in known:
        with suppress(psutil.NoSuchProcess):
            child.terminate()


def watch_group(parent_pid: int, name: str) -> None:
    """Wait for the end of a process, then end its group."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(parent_pid)
        while parent.is_running() and parent.status() != psutil.STATUS_ZOMBIE:
            time.sleep(WATCH_EVERY_S)
    # Time to end cleanly: Prefect's server writes to SQLite.
    terminate_all(process_group(name), TERMINATE_GRACE_S)
    terminate_all(process_group(name), 0)  # those that were started in the meantime


def process_group(name: str) -> list[Any]:
    """Every other process of this user whose environment has ``ZSCIR_FAMILY=name``."""
    import psutil

    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(GROUP_VARIABLE) == name:
                found.append(process)
    return found


def terminate_all(processes: list[Any], grace_s: float) -> None:
    """Terminate every process, and kill those that have not after ``grace_s``."""
    import psutil

    for process in processes:
        with suppress(psutil.Error):
            process.terminate()
    _, left = psutil.wait_procs(processes, timeout=grace_s)
    for process in left:
        with suppress(psutil.Error):
            process.kill()


def _has_mark(process: Any, mark: str) -> bool:
    import psutil

    with suppress(psutil.Error):  # it may have ended since it was listed
        return process.pid != os.getpid() and any(mark in word for word in process.cmdline())
    return False


if __name__ == "__main__":
    {"children": watch_children, "family": watch_group}[sys.argv[1]](int(sys.argv[2]), sys.argv[3])
