"""Processes of a training on several ranks: one rank, and the launcher that starts all by torch's elastic agent.

    python -m zscir.training.worker launch PID COUNT FOLDER   # ends, with its ranks, when process PID ends
    python -m zscir.training.worker train PID FOLDER          # one rank; the agent says which in RANK

torchrun's own rendezvous keeps pickles on a port that is open to the network. Here rendezvous and gloo listen on the
loopback, and NCCL, which by default avoids it, is set to use nothing else; the ranks exchange bytes and JSON. No rank
is restarted: the stage is tried again as a whole.
"""

import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from zscir.runtime.child_processes import die_with_parent

MONITOR_EVERY_S = 0.1
LOOPBACK = "127.0.0.1"


def run_launcher(parent_pid: int, count: int, folder: Path) -> None:
    """Start ``count`` ranks and wait; when one fails all are ended, and their exit codes are written to ``exits.json``.

    On a signal this process ends the ranks, then itself by that signal, which its exit code then names.
    """
    from torch.distributed.elastic.agent.server.api import WorkerSpec
    from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException

    from zscir.store.artifacts import atomic_path

    die_with_parent(parent_pid)
    arguments = ("-m", "zscir.training.worker", "train", str(os.getpid()), str(folder))
    spec = WorkerSpec(
        "train",
        count,
        _rendezvous(),
        entrypoint=sys.executable,
        args=arguments,
        max_restarts=0,
        monitor_interval=MONITOR_EVERY_S,
    )
    agent = LocalElasticAgent(spec, DefaultLogsSpecs(log_dir=str(folder / "elastic")))
    try:
        result = agent.run()
    except SignalException as error:
        signal.signal(error.sigval, signal.SIG_DFL)
        signal.raise_signal(error.sigval)
        raise
    if result.is_failed():
        exits = {rank: failure.exitcode for rank, failure in result.failures.items()}
        with atomic_path(folder / "exits.json") as part:
            part.write_text(json.dumps(exits), encoding="utf-8")
        raise SystemExit(1)


def _rendezvous() -> Any:
    """torch's static rendezvous of one machine, on a free port of the loopback alone."""
    import torch.distributed as dist
    from torch.distributed.elastic.rendezvous.api import RendezvousInfo, RendezvousStoreInfo
    from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous

    # The store takes over a listening socket, so that no other process can take the port in between.
    listener = socket.create_server((LOOPBACK, 0))
    port = listener.getsockname()[1]
    store = dist.TCPStore(LOOPBACK, port, 1, True, master_listen_fd=listener.detach())  # type: ignore[attr-defined]  # not in its __all__

    class Loopback(StaticTCPRendezvous):
        def next_rendezvous(self) -> RendezvousInfo:
            own = dist.PrefixStore("zscir", store)  # type: ignore[attr-defined]  # as above
            return RendezvousInfo(own, 0, 1, RendezvousStoreInfo(LOOPBACK, port))

    return Loopback(LOOPBACK, port, 0, 1, "zscir", 600)


def train_rank(launcher_pid: int, folder: Path) -> None:
    """Train as the rank that the environment names; the first one reports progress and writes ``facts.json``."""
    die_with_parent(launcher_pid)
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    messages = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what torch or a driver prints goes to the log, not among the messages
    from zscir.training.rank_errors import run_and_report

    code = run_and_report(lambda: _run_job(rank, count, folder, messages), folder, rank)
    os._exit(code)  # without the exit handlers: the transport's would wait for the other ranks


def _run_job(rank: int, count: int, folder: Path, messages: TextIO) -> None:
    from zscir.store.artifacts import atomic_path
    from zscir.training.collectives import RankGroup
    from zscir.training.job import TrainJob

    progress = _progress_writer(messages) if rank == 0 else _no_progress
    join_process_group(rank, count)
    where = folder / "job.json"
    job = TrainJob.from_json(json.loads(where.read_text(encoding="utf-8")), str(where))
    facts = job.run(RankGroup(rank, count), progress)
    if rank == 0:
        with atomic_path(folder / "facts.json") as part:
            part.write_text(json.dumps(facts), encoding="utf-8")


def join_process_group(rank: int, count: int) -> None:
    """Join the other ranks: over NCCL with a CUDA device for each rank, over gloo where there is none."""
    import torch
    import torch.distributed as dist

    from zscir.runtime.errors import RequestError

    devices = torch.cuda.device_count()  # NCCL refuses two ranks on one device
    if devices and count > devices:
        raise RequestError(f"ZSCIR_RANKS = {count}, but there are {devices} CUDA devices; set ZSCIR_RANKS=auto")
    if devices:
        torch.cuda.set_device(rank)
        dist.init_process_group("nccl", device_id=torch.device("cuda", rank))
    else:
        dist.init_process_group("gloo")


class _ProgressLogHandler(logging.Handler):
    """Writes log records as progress messages."""

    def __init__(self, messages: TextIO) -> None:
        super().__init__(logging.INFO)
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        """One line of JSON."""
        self._messages.write(json.dumps({"note": record.getMessage()}) + "\n")


def _progress_writer(messages: TextIO) -> Any:
    """A ProgressFn that writes messages, which the launching process shows as a bar or as log lines."""
    logger = logging.getLogger("zscir")
    logger.addHandler(_ProgressLogHandler(messages))
    logger.setLevel(logging.INFO)

    def progress(items: Iterable[Any], total: int | None, label: str) -> Iterator[Any]:
        messages.write(json.dumps({"steps": total, "label": label}) + "\n")
        for item in items:
            yield item
            messages.write('{"step": 1}\n')

    return progress


def _no_progress(items: Iterable[Any], total: int | None, label: str) -> Iterator[Any]:
    yield from items


def worker_main(arguments: list[str]) -> None:
    """Run as the launcher, or as a rank."""
    if arguments[0] == "launch":
        run_launcher(int(arguments[1]), int(arguments[2]), Path(arguments[3]))
    else:
        train_rank(int(arguments[1]), Path(arguments[2]))


if __name__ == "__main__":
    worker_main(sys.argv[1:])
