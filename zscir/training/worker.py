"""Rank: a process that trains beside others, and the launcher that starts them all with torch's elastic agent.

    python -m zscir.training.worker launch PID COUNT FOLDER   # PID asks; neither launcher nor ranks outlive it
    python -m zscir.training.worker train PID FOLDER          # one rank; the agent says which in RANK

torchrun's own rendezvous keeps pickles on a port that is open to the network. Here rendezvous and gloo listen on the
loopback, and NCCL, which left to itself avoids it, is told to use nothing else; what they hand each other is bytes and
JSON. Nobody restarts a rank: the stage is tried again as a whole.
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


def run_launcher(asker: int, count: int, folder: Path) -> None:
    """Start ``count`` ranks and wait; when one ends badly all are ended, and ``exits.json`` says how each did.

    Asked to end by a signal, this process ends the ranks and then by that signal, as who is killed does.
    """
    from torch.distributed.elastic.agent.server.api import WorkerSpec
    from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException

    from zscir.store.artifacts import atomic_path

    die_with_parent(asker)
    words = ("-m", "zscir.training.worker", "train", str(os.getpid()), str(folder))
    spec = WorkerSpec(
        "train",
        count,
        _rendezvous(),
        entrypoint=sys.executable,
        args=words,
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

    listener = socket.create_server((LOOPBACK, 0))
    port = listener.getsockname()[1]
    store = dist.TCPStore(LOOPBACK, port, 1, True, master_listen_fd=listener.detach())  # type: ignore[attr-defined]

    class Loopback(StaticTCPRendezvous):
        def next_rendezvous(self) -> RendezvousInfo:
            own = dist.PrefixStore("zscir", store)  # type: ignore[attr-defined]
            return RendezvousInfo(own, 0, 1, RendezvousStoreInfo(LOOPBACK, port))

    return Loopback(LOOPBACK, port, 0, 1, "zscir", 600)


def train_rank(launcher: int, folder: Path) -> None:
    """Train as the rank that the environment names; the first one tells what it does, and leaves ``facts.json``."""
    die_with_parent(launcher)
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    news = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what torch or a driver prints is no news
    from zscir.training.rank_errors import run_and_report

    code = run_and_report(lambda: _trained(rank, count, folder, news), folder, rank)
    os._exit(code)  # the others need nothing of this one any more, and the transport would wait for them


def _trained(rank: int, count: int, folder: Path, news: TextIO) -> None:
    from zscir.store.artifacts import atomic_path
    from zscir.training.collectives import RankGroup
    from zscir.training.job import TrainJob

    show = _progress_writer(news) if rank == 0 else _no_progress
    join_process_group(rank, count)
    where = folder / "course.json"
    course = TrainJob.parse(json.loads(where.read_text(encoding="utf-8")), str(where))
    facts = course.run(RankGroup(rank, count), show)
    if rank == 0:
        with atomic_path(folder / "facts.json") as part:
            part.write_text(json.dumps(facts), encoding="utf-8")


def join_process_group(rank: int, count: int) -> None:
    """Join the others: over NCCL with a CUDA device for each rank, over gloo where there is none."""
    import torch
    import torch.distributed as dist

    from zscir.runtime.errors import RequestError

    devices = torch.cuda.device_count()
    if devices and count > devices:
        raise RequestError(f"ZSCIR_RANKS = {count}, but there are {devices} CUDA devices; set ZSCIR_RANKS=auto")
    if devices:
        torch.cuda.set_device(rank)
        dist.init_process_group("nccl", device_id=torch.device("cuda", rank))
    else:
        dist.init_process_group("gloo")


class _ProgressLogHandler(logging.Handler):
    """Log lines become news."""

    def __init__(self, news: TextIO) -> None:
        super().__init__(logging.INFO)
        self._news = news

    def emit(self, record: logging.LogRecord) -> None:
        """One line of JSON."""
        self._news.write(json.dumps({"note": record.getMessage()}) + "\n")


def _progress_writer(news: TextIO) -> Any:
    """A way to show progress: lines that the process that asked turns into a bar or log lines of its own."""
    logger = logging.getLogger("zscir")
    logger.addHandler(_ProgressLogHandler(news))
    logger.setLevel(logging.INFO)

    def tell(items: Iterable[Any], total: int | None, label: str) -> Iterator[Any]:
        news.write(json.dumps({"steps": total, "label": label}) + "\n")
        for item in items:
            yield item
            news.write('{"step": 1}\n')

    return tell


def _no_progress(items: Iterable[Any], total: int | None, label: str) -> Iterator[Any]:
    yield from items


def worker_main(words: list[str]) -> None:
    """Be the launcher, or a rank."""
    if words[0] == "launch":
        run_launcher(int(words[1]), int(words[2]), Path(words[3]))
    else:
        train_rank(int(words[1]), Path(words[2]))


if __name__ == "__main__":
    worker_main(sys.argv[1:])
