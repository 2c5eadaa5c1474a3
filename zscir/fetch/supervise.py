"""Supervision: a Parquet of loopback URLs becomes img2dataset's raw shards, in a process group that never outlives us.

Its exit code is not looked at: a shard counts when its `_stats.json` is there, and then as something to be checked.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zscir.progress import note

POLL_S = 0.1
GRACE_S = 2.0
TRACKER_GRACE_S = 0.5
LOG_TAIL_BYTES = 2000
NO_ANSWER_S = 24 * 3600  # img2dataset's own time-out per read: the gateway always answers, when it is a URL's turn


@dataclass(frozen=True)
class Job:
    """One run of img2dataset: the URLs in ``urls`` (one column, `url`) in shards of ``shard_rows`` under ``folder``."""

    urls: Path
    folder: Path
    shard_rows: int
    shards: int
    options: dict[str, Any]  # what the spec says about pixels, in img2dataset's own names


def processes(shards: int) -> int:
    """Worker processes: ``ZSCIR_DOWNLOAD_PROCESSES``, else one per core, and never more than there are shards."""
    asked = os.environ.get("ZSCIR_DOWNLOAD_PROCESSES", "")
    wanted = int(asked) if asked.isdecimal() and int(asked) else os.cpu_count() or 1
    return max(1, min(wanted, shards))


def threads() -> int:
    """URLs under way per worker process: ``ZSCIR_DOWNLOAD_THREADS``, else 64."""
    asked = os.environ.get("ZSCIR_DOWNLOAD_THREADS", "")
    return int(asked) if asked.isdecimal() and int(asked) else 64


def raw_shards(job: Job, news: Callable[[], float], stall_s: float) -> Iterator[int]:
    """Yield the number of each raw shard when img2dataset calls it done.

    Ends early, with shards missing, when img2dataset dies or nothing at all has happened for ``stall_s``
    seconds; ``news`` gives the monotonic time at which the gateway last had anything to do.
    """
    seen: set[int] = set()
    with _child(job) as child:
        began = time.monotonic()
        while len(seen) < job.shards:
            gone = child.poll() is not None
            fresh = sorted(_done(job.folder) - seen)
            for number in fresh:
                began = time.monotonic()
                yield number
            seen.update(fresh)
            if gone and not fresh:
                note(f"download: img2dataset ended early; it said: {_last_words(job.folder)}")
                return
            if time.monotonic() - max(began, news()) > stall_s:
                note(f"download: img2dataset stood still for {stall_s:.0f} s; starting it anew")
                return
            time.sleep(POLL_S)


def _done(folder: Path) -> set[int]:
    return {int(name.partition("_")[0]) for name in os.listdir(folder) if name.endswith("_stats.json")}


@contextmanager
def _child(job: Job) -> Iterator[subprocess.Popen[bytes]]:
    job.folder.mkdir(parents=True, exist_ok=True)
    # The write end of stdin is ours alone: when we are gone, however we went, the child sees it and ends its group.
    with (job.folder / ".log").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "zscir.fetch.engine", json.dumps(_arguments(job))],
            stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True, env=_environment(),
        )  # fmt: skip
    try:
        yield child
    finally:
        _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the whole group, children of the child included, and wait for it.

    First SIGTERM: it ends all but multiprocessing's resource tracker, which then gives back the semaphores and goes.
    """
    _signal(child.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(GRACE_S)
    give_up = time.monotonic() + TRACKER_GRACE_S
    while _signal(child.pid, 0) and time.monotonic() < give_up:
        time.sleep(0.02)
    _signal(child.pid, signal.SIGKILL)
    child.wait()
    if child.stdin is not None:
        child.stdin.close()


def _signal(group: int, number: int) -> bool:
    """Signal a process group; False when nobody of it is left."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def _environment() -> dict[str, str]:
    quiet = {"NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "disabled", "PYTHONDONTWRITEBYTECODE": "1"}
    # One thread per worker in the numeric libraries: the workers are the parallelism. No proxy towards the gateway.
    single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "no_proxy": "127.0.0.1"}
    return {**os.environ, **quiet, **single}


def _arguments(job: Job) -> dict[str, Any]:
    return {
        "url_list": str(job.urls), "input_format": "parquet", "url_col": "url",
        "output_folder": str(job.folder), "output_format": "webdataset",
        "processes_count": processes(job.shards), "thread_count": threads(),
        "number_sample_per_shard": job.shard_rows, "max_shard_retry": 0,
        "timeout": NO_ANSWER_S, "retries": 0,  # time-outs and retries are the gateway's
        "extract_exif": False, "compute_hash": None, "incremental_mode": "incremental",
        **job.options,
    }  # fmt: skip


def _last_words(folder: Path) -> str:
    text = (folder / ".log").read_bytes()[-LOG_TAIL_BYTES:].decode("utf-8", "replace")
    return " | ".join(text.split("\n")[-6:]).strip()
