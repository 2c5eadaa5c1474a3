"""Run img2dataset over a Parquet of loopback URLs, and watch it until its raw shards are done or it stalls.

Exit codes are ignored: img2dataset 1.47 exits with 0 after failures and SIGINT alike. A shard is done when its
`_stats.json` is there, which comes last, and even then it is only something to be checked.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zscir.data.download.img2dataset_client import RunningJob, run_img2dataset
from zscir.runtime.progress import log_info
from zscir.runtime.settings import count_from_env

POLL_S = 0.1
DEFAULT_THREADS = 64  # they only wait for the gateway, which fetches up to 256 URLs ahead
LOG_TAIL_BYTES = 2000
READ_TIMEOUT_S = 24 * 3600  # img2dataset's own per read; in effect none: the gateway always answers, in time


@dataclass(frozen=True)
class Img2datasetJob:
    """One run of img2dataset: the URLs in ``urls`` (one column, `url`) in shards of ``shard_rows`` under ``folder``."""

    urls: Path
    folder: Path
    shard_rows: int
    shards: int
    options: dict[str, Any]  # of the spec that decide pixels, by img2dataset's names


def download_processes(shards: int) -> int:
    """Worker processes: ``ZSCIR_DOWNLOAD_PROCESSES``, else one per core, and never more than there are shards."""
    return max(1, min(count_from_env("ZSCIR_DOWNLOAD_PROCESSES", os.cpu_count() or 1), shards))


def download_threads() -> int:
    """URLs under way per worker process: ``ZSCIR_DOWNLOAD_THREADS``, else 64."""
    return count_from_env("ZSCIR_DOWNLOAD_THREADS", DEFAULT_THREADS)


def download_raw_shards(job: Img2datasetJob, progress_at: Callable[[], float], stall_s: float) -> Iterator[int]:
    """Yield the number of each raw shard when img2dataset calls it done. Any number of threads may call this at once.

    Ends early, with shards missing, when img2dataset dies or makes no progress for ``stall_s`` seconds (it hangs for
    good when one of its workers is killed). ``progress_at`` gives the monotonic time of the gateway's last activity.
    No process of the job is left in any case. Raises StageError when img2dataset cannot be started at all.
    """
    seen: set[int] = set()
    job.folder.mkdir(parents=True, exist_ok=True)
    log = job.folder / ".log"
    with run_img2dataset(log, _arguments(job)) as job_run:
        began = time.monotonic()
        while len(seen) < job.shards:
            finished = job_run.finished.wait(POLL_S)
            newly_done = sorted(_finished_shards(job.folder) - seen)
            for number in newly_done:
                began = time.monotonic()
                yield number
            seen.update(newly_done)
            if finished and not newly_done:
                how = "with its process" if job_run.exit_code is None else f"exit code {job_run.exit_code}"
                log_info(f"download: img2dataset ended early ({how}); its log ends in: {_log_tail(log, job_run)}")
                return
            if time.monotonic() - max(began, progress_at()) > stall_s:
                log_info(f"download: img2dataset made no progress for {stall_s:.0f} s; starting it anew")
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


def _log_tail(log: Path, job_run: RunningJob) -> str:
    tail = log.read_bytes()[-LOG_TAIL_BYTES:].decode("utf-8", "replace") if log.exists() else ""
    return " | ".join((tail.strip() or job_run.stderr_tail).strip().split("\n")[-6:])
