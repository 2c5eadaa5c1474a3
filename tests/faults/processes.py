"""Processes to kill: each starts in milliseconds from a warm one, works on a store, and dies where a test says."""

import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from zscir.store.store import Store

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["tests.faults.processes", "tests.support.toys", "s3fs", "duckdb", "psutil", "pandas", "filelock"]
)


def start(work: Callable[..., Any], *args: Any) -> multiprocessing.process.BaseProcess:
    """A process that does ``work(*args)`` and exits with 0 if that raises nothing."""
    process = CONTEXT.Process(target=work, args=args)
    process.start()
    return process


def kill_after(process: multiprocessing.process.BaseProcess, seconds: float) -> bool:
    """kill -9 after ``seconds``; whether it was still at work then."""
    process.join(seconds)
    at_work = process.is_alive()
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return at_work


def finish(process: multiprocessing.process.BaseProcess) -> None:
    """Wait for a process that must end well."""
    process.join(120)
    assert process.exitcode == 0


def dying_at(number: int, calls: list[str], work: Callable[..., Any], *args: Any) -> None:
    """Do ``work(*args)`` and die by SIGKILL just before the ``number``-th of these calls, or never if there are fewer.

    ``os.NAME`` counts calls of that function of ``os``; ``s3.NAME`` counts requests of that kind.
    """
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    for name in [call.removeprefix("os.") for call in calls if call.startswith("os.")]:
        setattr(os, name, _counted(getattr(os, name), step))
    requests = [call.removeprefix("s3.") for call in calls if call.startswith("s3.")]
    if requests:
        _count_requests(requests, step)
    work(*args)


def _counted(real: Callable[..., Any], step: Callable[[], None]) -> Callable[..., Any]:
    def counted(*args: Any, **kwargs: Any) -> Any:
        step()
        return real(*args, **kwargs)

    return counted


def _count_requests(names: list[str], step: Callable[[], None]) -> None:
    import s3fs

    real = s3fs.S3FileSystem._call_s3

    async def counted(fs: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        if method in names:
            step()
        return await real(fs, method, *args, **kwargs)

    s3fs.S3FileSystem._call_s3 = counted


@contextmanager
def watched(store: Store, stage: str, key: str, digest: str) -> Iterator[dict[str, int]]:
    """Look for an artifact all the time; it must be whole, and the one that is expected, whenever it is seen."""
    counts = {"looks": 0, "seen": 0}
    wrong: list[str] = []
    over = threading.Event()

    def look() -> None:
        while not over.is_set() and not wrong:
            counts["looks"] += 1
            artifact = store.lookup(stage, key).artifact
            if artifact is not None:
                counts["seen"] += 1
                problem = store.lookup(stage, key, verify=True).problem
                if artifact.digest != digest or problem not in ("", "no artifact"):
                    wrong.append(f"{artifact.digest} {problem}")
            time.sleep(0.002)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield counts
    finally:
        over.set()
        thread.join()
    assert wrong == []


def wipe(folder: Any) -> None:
    """Remove a folder if it is there."""
    shutil.rmtree(folder, ignore_errors=True)
