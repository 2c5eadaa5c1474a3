"""Engine: run as a child process, img2dataset turns a Parquet of loopback URLs into raw tar shards.

    python -m zscir.fetch.engine '{"url_list": ..., "output_folder": ...}'  # arguments of img2dataset.download

img2dataset starts a process per worker and one for its log, and each imports torch, wandb and half of SciPy anew:
20 s of CPU before the first URL. Here what is not used is kept out, workers are forked from the one process that has
imported the rest, and nobody writes a log that nobody reads: 2 s.
"""

import ctypes
import json
import multiprocessing
import os
import signal
import sys
import threading
import types
from multiprocessing.pool import Pool
from typing import Any

PR_SET_PDEATHSIG = 1
NOT_USED: dict[str, types.ModuleType | None] = {
    "torch": None,  # webdataset and albumentations do without
    "huggingface_hub": None,
    "wandb": types.ModuleType("wandb"),  # imported always, used only when asked for
}


def die_with_parent() -> None:
    """Ask the kernel (Linux) to kill this process when its parent is gone, however the parent went."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def watch_stdin() -> None:
    """End this process group when the pipe from the parent closes: that works where the kernel's signal does not."""
    threading.Thread(target=_wait_and_end, name="zscir-engine-watch", daemon=True).start()


def _wait_and_end() -> None:
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGTERM)


class Forking:
    """Stands in for the "spawn" context of multiprocessing. Nothing but the watch runs yet when workers are forked."""

    def __init__(self, method: str) -> None:
        del method

    def Pool(self, processes: int, maxtasksperchild: int) -> Pool:
        """Workers that stay until the end: to replace one would fork a process with threads at work."""
        del maxtasksperchild
        return multiprocessing.get_context("fork").Pool(processes, initializer=die_with_parent)


class NoLog:
    """Stands in for img2dataset's process that reads statistics and prints them."""

    def __init__(self, *arguments: object) -> None:
        self.done_shards: set[int] = set()

    def start(self) -> None:
        """Nothing to start."""

    def join(self) -> None:
        """Nothing to wait for."""

    def terminate(self) -> None:
        """Nothing to end."""


def main(arguments: dict[str, Any]) -> None:
    """Run img2dataset; what it says about success is not believed by anyone."""
    sys.modules.update(NOT_USED)  # type: ignore[arg-type]  # None makes an import fail, as documented
    from img2dataset import download

    if sys.platform == "linux":
        vars(sys.modules["img2dataset.distributor"])["get_context"] = Forking
        vars(sys.modules["img2dataset.main"])["LoggerProcess"] = NoLog
    download(**arguments)


if __name__ == "__main__":
    die_with_parent()
    watch_stdin()
    main(json.loads(sys.argv[1]))
