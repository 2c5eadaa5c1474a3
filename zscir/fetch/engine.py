"""Engine: run as a child process, img2dataset turns a Parquet of loopback URLs into raw tar shards.

    python -m zscir.fetch.engine '{"url_list": ..., "output_folder": ...}'  # arguments of img2dataset.download

The multiprocessing children of img2dataset import this module again before anything else, so what stands at its top
level holds for each of them: wandb and torch, which img2dataset imports and we do not use, are kept out (5 s per
process, and no telemetry), and each dies with its parent.
"""

import ctypes
import json
import os
import signal
import sys
import threading
import types
from typing import Any

PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the kernel (Linux) to kill this process when its parent is gone, however the parent went."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def keep_out(modules: dict[str, Any]) -> None:
    """Let imports of these fail (None), or find an empty module, unless they are imported already."""
    for name, stand_in in modules.items():
        sys.modules.setdefault(name, stand_in)


def watch_stdin() -> None:
    """End this process group when the pipe from the parent closes: that works where the kernel's signal does not."""
    threading.Thread(target=_wait_and_end, name="zscir-engine-watch", daemon=True).start()


def _wait_and_end() -> None:
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGTERM)


def main(arguments: dict[str, Any]) -> None:
    """Run img2dataset; what it says about success is not believed by anyone."""
    import img2dataset

    img2dataset.download(**arguments)


if __name__ in ("__main__", "__mp_main__"):
    die_with_parent()
    keep_out({"torch": None, "wandb": types.ModuleType("wandb")})

if __name__ == "__main__":
    watch_stdin()
    main(json.loads(sys.argv[1]))
