"""The warden: helpers that this process started end with it, even when it is killed by force.

Prefect stops its ephemeral server when the process ends; one that dies by SIGKILL cannot, and the server would run on.
"""

import os
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

LOOK_EVERY_S = 1.0
_WARDENS: list[subprocess.Popen[bytes]] = []


def guard(mark: str) -> None:
    """Start a warden: when this process is gone it ends those children of it that have ``mark`` in their command."""
    quiet = subprocess.DEVNULL
    words = [sys.executable, "-m", "zscir.warden", str(os.getpid()), mark]
    _WARDENS.append(subprocess.Popen(words, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True))


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


def _marked(process: Any, mark: str) -> bool:
    import psutil

    with suppress(psutil.Error):  # it may end between the listing and the look
        return process.pid != os.getpid() and any(mark in word for word in process.cmdline())
    return False


if __name__ == "__main__":
    watch(int(sys.argv[1]), sys.argv[2])
