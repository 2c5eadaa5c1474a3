"""Supervision: a Parquet of loopback URLs becomes img2dataset's raw shards, in processes that never outlive us.

Their exit code is not looked at: a shard counts when its `_stats.json` is there, and then as something to be checked.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zscir.data.download.img2dataset_pool import RunningJob, run_img2dataset
from zscir.runtime.progress import log_info

POLL_S = 0.1
LOG_TAIL_BYTES = 2000
READ_TIMEOUT_S = 24 * 3600  # img2dataset's own time-out per read: the gateway always answers, when it is a URL's turn


@dataclass(frozen=True)
class Img2datasetJob:
    """One run of img2dataset: the URLs in ``urls`` (one column, `url`) in shards of ``shard_rows`` under ``folder``."""

    urls: Path
    folder: Path
    shard_rows: int
    shards: int
    options: dict[str, Any]  # what the spec says about pixels, in img2dataset's own names


def download_processes(shards: int) -> int:
    """Worker processes: ``ZSCIR_DOWNLOAD_PROCESSES``, else one per core, and never more than there are shards."""
    asked = os.environ.get("ZSCIR_DOWNLOAD_PROCESSES", "")
    wanted = int(asked) if asked.isdecimal() and int(asked) else os.cpu_count() or 1
    return max(1, min(wanted, shards))


def download_threads() -> int:
    """URLs under way per worker process: ``ZSCIR_DOWNLOAD_THREADS``, else 64."""
    asked = os.environ.get("ZSCIR_DOWNLOAD_THREADS", "")
    return int(asked) if asked.isdecimal() and int(asked) else 64


def download_raw_shards(job: Img2datasetJob, news: Callable[[], float], stall_s: float) -> Iterator[int]:
    """Yield the number of each raw shard when img2dataset calls it done. Any number of threads may do so at a time.

    Ends early, with shards missing, when img2dataset dies or nothing at all has happened for ``stall_s``
    seconds; ``news`` gives the monotonic time at which the gateway last had anything to do. Either way no process
    of the job is left. Raises StageError when img2dataset cannot be started at all.
    """
    seen: set[int] = set()
    job.folder.mkdir(parents=True, exist_ok=True)
    log = job.folder / ".log"
    with run_img2dataset(log, _arguments(job)) as run:
        began = time.monotonic()
        while len(seen) < job.shards:
            gone = run.over.wait(POLL_S)
            fresh = sorted(_finished_shards(job.folder) - seen)
            for number in fresh:
                began = time.monotonic()
                yield number
            seen.update(fresh)
            if gone and not fresh:
                log_info(
                    f"download: img2dataset ended early ({_exit_description(run)}); it said: {_log_tail(log, run)}"
                )
                return
            if time.monotonic() - max(began, news()) > stall_s:
                log_info(f"download: img2dataset stood still for {stall_s:.0f} s; starting it anew")
                return


def _finished_shards(folder: Path) -> set[int]:
    return {int(name.partition("_")[0]) for name in os.listdir(folder) if name.endswith("_stats.json")}


def _arguments(job: Img2datasetJob) -> dict[str, Any]:
    return {
        "url_list": str(job.urls),
        "input_format": "parquet",
        "url_col": "url",
        "output_folder": str(job.folder),
        "output_format": "webdataset",
        "processes_count": download_processes(job.shards),
        "thread_count": download_threads(),
        "number_sample_per_shard": job.shard_rows,
        "max_shard_retry": 0,
        "timeout": READ_TIMEOUT_S,
        "retries": 0,  # time-outs and retries are the gateway's
        "extract_exif": False,
        "compute_hash": None,
        "incremental_mode": "incremental",
        **job.options,
    }


def _exit_description(run: RunningJob) -> str:
    return "with its engine" if run.exit is None else f"exit code {run.exit}"


def _log_tail(log: Path, run: RunningJob) -> str:
    said = log.read_bytes()[-LOG_TAIL_BYTES:].decode("utf-8", "replace") if log.exists() else ""
    return " | ".join((said.strip() or run.words).strip().split("\n")[-6:])
