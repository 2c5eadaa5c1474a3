"""Launch: a course becomes ranks under torch's launcher, none of which outlives us, and their end facts or an error.

What passes between the processes lies in a folder: ``course.json`` goes in; ``facts.json``, ``exits.json`` (of the
launcher) and ``rankN.json`` (errors) come out, and what torch prints is in ``log``. What the first rank tells comes as
lines of JSON through a pipe that closes when the last of the processes is gone.
"""

import gc
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zscir.runtime.child_processes import terminate_all
from zscir.runtime.errors import RequestError
from zscir.runtime.progress import log_info, track
from zscir.runtime.settings import Settings
from zscir.training.job import TrainFacts, TrainJob
from zscir.training.rank_errors import error_of_ranks

RANKS_FOLDER, LAUNCHER_LOG = ".ranks", "log"
RANK_EXIT_GRACE_S = 10.0


def resolve_rank_count(batch_size: int) -> int:
    """On how many ranks to train, as ``ZSCIR_RANKS`` says; RequestError when they cannot share a batch evenly."""
    count = Settings.from_env().ranks
    if count is None:
        count = _cuda_devices()
    if batch_size % count:
        fitting = ", ".join(str(one) for one in range(1, batch_size + 1) if batch_size % one == 0)
        raise RequestError(
            f"{count} ranks (ZSCIR_RANKS) cannot share batch_size = {batch_size} evenly; set ZSCIR_RANKS to {fitting}"
        )
    return count


def _cuda_devices() -> int:
    import torch

    return max(1, torch.cuda.device_count())


def train_on_ranks(count: int, course: TrainJob) -> TrainFacts:
    """Run ``course`` on ``count`` ranks; the facts, or what stopped the first of them that stopped.

    A rank that is killed is a TransientError: the next attempt goes on from the last state that was saved.
    """
    folder = course.out / RANKS_FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "course.json").write_text(json.dumps(course.literals()), encoding="utf-8")
    log_info(f"train {course.spec.method.name}: on {count} ranks")
    _give_back_gpu_memory()
    with _launched(count, folder) as launcher:
        _relay_progress(iter(launcher.stdout or ()))
        code = launcher.wait()
    if code:
        raise error_of_ranks(folder, count, _exits(folder), code, folder / LAUNCHER_LOG)
    facts: TrainFacts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    return facts


def _give_back_gpu_memory() -> None:
    """Let go of what torch keeps of a GPU for this process's next use: the first rank trains on the same one."""
    import torch

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        gc.collect()
        torch.cuda.empty_cache()


def _exits(folder: Path) -> dict[int, int] | None:
    path = folder / "exits.json"
    if not path.exists():
        return None
    return {int(rank): int(code) for rank, code in json.loads(path.read_text(encoding="utf-8")).items()}


@contextmanager
def _launched(count: int, folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """The launcher at work, with its ranks. On the way out they are ended if they are still there, and waited for."""
    words = [sys.executable, "-m", "zscir.training.worker", "launch", str(os.getpid()), str(count), str(folder)]
    with (
        (folder / LAUNCHER_LOG).open("wb") as log,
        subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
            env=os.environ | _environment(count),
        ) as launcher,
    ):
        try:
            yield launcher
        finally:
            _end(launcher)


def _end(launcher: "subprocess.Popen[str]") -> None:
    import psutil

    if launcher.poll() is None:
        process = psutil.Process(launcher.pid)
        terminate_all([*process.children(recursive=True), process], RANK_EXIT_GRACE_S)
    for _ in launcher.stdout or ():  # what a rank had still to say; the end comes with that of the last of them
        pass


def _environment(count: int) -> dict[str, str]:
    """What the ranks find beside our own environment: their part of the cores, and the loopback to talk over."""
    found = {"OMP_NUM_THREADS": str(max(1, _cores() // count))}
    inner = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    if inner:
        found |= {"GLOO_SOCKET_IFNAME": inner[0], "NCCL_SOCKET_IFNAME": f"={inner[0]}"}  # NCCL's "=": just this one
    return {name: value for name, value in found.items() if name not in os.environ}


def _cores() -> int:
    """The cores that this process may use: in a container often fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _relay_progress(lines: Iterator[str]) -> None:
    """Show what the first rank tells, as if it had been done here, until there will be no more."""
    for line in lines:
        news = _progress_message(line)
        if "steps" in news:
            for _ in track(_steps(lines), news["steps"], news["label"]):
                pass


def _steps(lines: Iterable[str]) -> Iterator[None]:
    for line in lines:
        if "step" in _progress_message(line):
            yield


def _progress_message(line: str) -> dict[str, Any]:
    """The news in a line; a note is passed on here."""
    news: dict[str, Any] = json.loads(line) if line.startswith("{") else {"note": line.rstrip()}
    if "note" in news:
        log_info(news["note"])
    return news
