"""Train on several ranks: start them under torch's launcher, relay their progress, end them with this process.

The processes exchange files in one folder: ``job.json`` goes in; ``facts.json``, ``exits.json`` (of the launcher) and
``rankN.json`` (errors) come out, and what torch prints is in ``log``. Progress of the first rank comes as lines of JSON
through a pipe, which closes when the last of the processes has ended.
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
RANK_EXIT_GRACE_S = 10.0  # between SIGTERM and SIGKILL


def resolve_rank_count(batch_size: int) -> int:
    """The number of ranks: ``ZSCIR_RANKS``, else one per GPU; RequestError when they cannot share a batch evenly."""
    count = Settings.from_env().ranks
    if count is None:
        count = _cuda_devices()
    if batch_size % count:
        fitting = ", ".join(str(divisor) for divisor in range(1, batch_size + 1) if batch_size % divisor == 0)
        raise RequestError(
            f"{count} ranks (ZSCIR_RANKS) cannot share batch_size = {batch_size} evenly; set ZSCIR_RANKS to {fitting}"
        )
    return count


def _cuda_devices() -> int:
    import torch

    return max(1, torch.cuda.device_count())


def train_on_ranks(count: int, job: TrainJob) -> TrainFacts:
    """Run ``job`` on ``count`` ranks and return its facts, or raise what stopped the first rank that stopped.

    A killed rank is a TransientError: the next attempt resumes from the last saved state.
    """
    folder = job.out / RANKS_FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "job.json").write_text(json.dumps(job.as_json()), encoding="utf-8")
    log_info(f"train {job.spec.method.name}: on {count} ranks")
    _release_gpu_memory()
    with _launched(count, folder) as launcher:
        _relay_progress(iter(launcher.stdout or ()))
        code = launcher.wait()
    if code:
        raise error_of_ranks(folder, count, _exits(folder), code, folder / LAUNCHER_LOG)
    facts: TrainFacts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    return facts


def _release_gpu_memory() -> None:
    """Free the GPU memory that torch caches in this process: the first rank trains on the same GPU."""
    import torch

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch leaves it without annotations
        gc.collect()
        torch.cuda.empty_cache()


def _exits(folder: Path) -> dict[int, int] | None:
    path = folder / "exits.json"
    if not path.exists():
        return None
    return {int(rank): int(code) for rank, code in json.loads(path.read_text(encoding="utf-8")).items()}


@contextmanager
def _launched(count: int, folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """The running launcher, with its ranks. On leaving, those still running are ended and waited for."""
    command = [sys.executable, "-m", "zscir.training.worker", "launch", str(os.getpid()), str(count), str(folder)]
    with (
        (folder / LAUNCHER_LOG).open("wb") as log,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,  # Ctrl-C reaches this process alone, which then ends them in order
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
    for _ in launcher.stdout or ():  # drain: end of file comes when the last rank has ended
        pass


def _environment(count: int) -> dict[str, str]:
    """Variables that the ranks get beside our own: their share of the cores, and the loopback interface."""
    # Each rank would start a thread for every core of the machine otherwise.
    found = {"OMP_NUM_THREADS": str(max(1, _cores() // count))}
    loopbacks = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    if loopbacks:
        found |= {"GLOO_SOCKET_IFNAME": loopbacks[0], "NCCL_SOCKET_IFNAME": f"={loopbacks[0]}"}  # "=": no prefix match
    return {name: value for name, value in found.items() if name not in os.environ}


def _cores() -> int:
    """The cores that this process may use: in a container often fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _relay_progress(lines: Iterator[str]) -> None:
    """Show the first rank's progress as if it were this process's own, until the pipe closes."""
    for line in lines:
        message = _progress_message(line)
        if "steps" in message:
            for _ in track(_steps(lines), message["steps"], message["label"]):
                pass


def _steps(lines: Iterable[str]) -> Iterator[None]:
    for line in lines:
        if "step" in _progress_message(line):
            yield


def _progress_message(line: str) -> dict[str, Any]:
    """The message in a line; a note is logged here."""
    message: dict[str, Any] = json.loads(line) if line.startswith("{") else {"note": line.rstrip()}
    if "note" in message:
        log_info(message["note"])
    return message
