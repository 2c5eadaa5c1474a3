"""What tests of the job server (img2dataset's own process) share: a look at its processes, and jobs to give it."""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from zscir.data.download.img2dataset_job import Img2datasetJob


def fake_img2dataset(folder: Path, code: str) -> Path:
    """A folder for PYTHONPATH, in which a job server finds ``code`` as img2dataset, and at once."""
    package = folder / "fake" / "img2dataset"
    package.mkdir(parents=True)
    for module in ("distributor", "downloader", "main"):
        (package / f"{module}.py").write_text("")
    (package / "__init__.py").write_text(code)
    (package.parent / "albumentations.py").write_text("SmallestMaxSize = LongestMaxSize = CenterCrop = dict")
    return package.parent


def job_servers_of(process: int) -> list[psutil.Process]:
    """The job servers of a process: one, if any, except while an old one ends."""
    found = []
    for child in psutil.Process(process).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.cmdline()[-2:] == ["zscir.data.download.img2dataset_process", str(process)]:
                found.append(child)
    return found


def the_job_server(process: int | None = None) -> psutil.Process:
    """The job server of a process, of this one if none is named; old ones are given the time to end."""
    wait_for(lambda: len(job_servers_of(process or os.getpid())) == 1, 20)
    return job_servers_of(process or os.getpid())[0]


def session_of(job_server: psutil.Process) -> list[int]:
    """The living processes of a job server's session: itself, its jobs, their workers."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getsid(process.pid) == job_server.pid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def jobs_now() -> list[int]:
    """The processes that work for the job server of this process."""
    return [
        pid for job_server in job_servers_of(os.getpid()) for pid in session_of(job_server) if pid != job_server.pid
    ]


def wait_for(what: Callable[[], Any], timeout_s: float = 60.0) -> Any:
    give_up = time.monotonic() + timeout_s
    while not (found := what()):
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.02)
    return found


def job(folder: Path, urls: list[str], shards: int = 1) -> Img2datasetJob:
    """A job for these URLs in this folder."""
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table({"url": urls}), folder / "urls.parquet")
    return Img2datasetJob(
        folder / "urls.parquet", folder / "raw", max(2, len(urls) // shards), shards, {"image_size": 64}
    )
