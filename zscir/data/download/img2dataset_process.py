"""Run img2dataset in a child process, a fork for each job, with parts of it replaced that cost more than the images.

    python -m zscir.data.download.img2dataset_process PID  # of the parent; jobs come and go as job_protocol.py says

All that is replaced inside img2dataset 1.47 is in this file. The gain of each is the CPU time of one job (800 JPEGs of
682 x 512 pixels to 256, one worker, loopback server, best of 3) without that replacement, where it takes 1.8 s with all
of them and 9.3 s with none:

    get_context       5.3 s  each job spawns its workers, which import torch, albumentations and half of SciPy anew
    LoggerProcess     5.8 s  one more such process, which prints statistics that nobody reads
    download_image    2.2 s  urllib opens a connection for each image; here each thread keeps one to the gateway
    CACHED_TRANSFORMS 2.3 s  albumentations objects are made anew for each image, always with the same arguments
    STUBBED_MODULES   the import takes 2.5 s of CPU with torch, wandb and huggingface_hub, and 1.0 s without

The malloc settings of img2dataset_client.py are worth as much again: 2.8 s without them. Pixels and bodies are those of
the unchanged package, which a test compares.
"""

import functools
import gc
import importlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import traceback
import types
from collections.abc import Callable, Iterable, Iterator
from http.client import HTTPConnection, HTTPException
from io import BytesIO
from multiprocessing.pool import Pool
from typing import Any, Self
from urllib.parse import urlsplit

from zscir.data.download.job_protocol import adopt_orphans, reserve_stdout, serve_jobs
from zscir.runtime.child_processes import die_with_parent

STUBBED_MODULES: dict[str, types.ModuleType | None] = {
    "torch": None,  # webdataset and albumentations do without
    "huggingface_hub": None,
    "wandb": types.ModuleType("wandb"),  # imported always, used only with enable_wandb
}
PRELOADED_MODULES = ("fsspec.implementations.local", "pyarrow.dataset")  # img2dataset would import them in every job
CACHED_TRANSFORMS = ("SmallestMaxSize", "LongestMaxSize", "CenterCrop")
NEW_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
DownloadFn = Callable[..., None]


class ForkContext:
    """Replaces the "spawn" context of multiprocessing. No thread runs yet when workers are forked."""

    def __init__(self, method: str) -> None:
        del method

    def Pool(self, processes: int, maxtasksperchild: int) -> "Pool | InProcessPool":
        """Workers that stay until the end: to replace one would fork a process whose threads are running."""
        del maxtasksperchild
        if processes == 1:
            return InProcessPool()
        return multiprocessing.get_context("fork").Pool(processes, die_with_parent, (os.getpid(),))


class InProcessPool:
    """Replaces a pool of one process: the caller does the work."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""

    def imap_unordered(self, work: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        """The results, one after another."""
        return map(work, tasks)

    def terminate(self) -> None:
        """Nothing to end."""

    def join(self) -> None:
        """Nothing to wait for."""


class NullLoggerProcess:
    """Replaces img2dataset's process that collects statistics and prints them."""

    def __init__(self, *arguments: object) -> None:
        self.done_shards: set[int] = set()

    def start(self) -> None:
        """Nothing to start."""

    def join(self) -> None:
        """Nothing to wait for."""

    def terminate(self) -> None:
        """Nothing to end."""


class GatewayConnection(threading.local):
    """A thread's connection to the gateway, kept: to open one costs as much as to send an image over it."""

    def __init__(self) -> None:
        self._netloc = ""
        self._connection = HTTPConnection(self._netloc)

    def get(self, url: str) -> tuple[int, str, bytes]:
        """Status, reason and body of the answer. Raises OSError or HTTPException when there is none."""
        parts = urlsplit(url)
        if parts.netloc != self._netloc:
            self.close()
            self._netloc, self._connection = parts.netloc, HTTPConnection(parts.netloc)
        reused = self._connection.sock is not None
        try:
            return self._request(parts.path)
        except ConnectionError:
            if not reused:
                raise
        return self._request(parts.path)  # the gateway had closed a connection that was idle

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        self._connection.close()

    def _request(self, path: str) -> tuple[int, str, bytes]:
        try:
            self._connection.request("GET", path)
            answer = self._connection.getresponse()
            return answer.status, answer.reason, answer.read()
        except (OSError, HTTPException):
            self.close()
            raise


GATEWAY_CONNECTION = GatewayConnection()


def download_from_gateway(row: tuple[int, str], *_: object) -> tuple[int, BytesIO | None, str | None]:
    """Replaces img2dataset's `download_image`: (the URL's number, its body or None, None or the error)."""
    number, url = row
    try:
        status, reason, body = GATEWAY_CONNECTION.get(url)
    except (OSError, HTTPException) as error:
        return number, None, str(error) or type(error).__name__
    return (number, BytesIO(body), None) if status == 200 else (number, None, f"{status} {reason}")


IMG2DATASET_PATCHES = (
    ("img2dataset.distributor", "get_context", ForkContext),
    ("img2dataset.main", "LoggerProcess", NullLoggerProcess),
    ("img2dataset.downloader", "download_image", download_from_gateway),
)


def load_img2dataset() -> DownloadFn:
    """Import img2dataset with the replacements; its `download`, whose word on success nobody relies on."""
    sys.modules.update(STUBBED_MODULES)  # type: ignore[arg-type]  # None makes an import fail, as the reference of import says
    from img2dataset import download

    if sys.platform == "linux":
        for name in PRELOADED_MODULES:
            importlib.import_module(name)
        for module, name, stand_in in IMG2DATASET_PATCHES:
            vars(importlib.import_module(module))[name] = stand_in
        transforms = vars(importlib.import_module("albumentations"))
        transforms.update({name: functools.cache(transforms[name]) for name in CACHED_TRANSFORMS})
    run: DownloadFn = download
    return run


def run_forked(download: DownloadFn, reports: int, log: str, arguments: dict[str, Any]) -> int:
    """Fork a process for a job and return its ID. This process must have no other thread."""
    parent = os.getpid()
    child = os.fork()
    if child:
        _lead_process_group(child)
        return child
    code = 1
    try:
        die_with_parent(parent)
        _lead_process_group(0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.close(reports)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(log, NEW_FILE_FLAGS, 0o644), 1)
        os.dup2(1, 2)
        download(**arguments)
        code = 0
    except BaseException:  # noqa: BLE001 - whatever it is, the fork must not go on as its parent
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _lead_process_group(process: int) -> None:
    """Make a process the leader of a new group; parent and child both do, as either may come first."""
    try:
        os.setpgid(process, process)
    except OSError:
        return


def run_spawned(lifeline: int, log: str, arguments: dict[str, Any]) -> int:
    """Start a process for a job that imports everything anew, where a fork is not safe (macOS); return its ID.

    ``lifeline`` becomes its standard input: the end of a pipe that closes when this process is gone.
    """
    command = [sys.executable, "-m", "zscir.data.download.img2dataset_process", str(os.getpid()), json.dumps(arguments)]
    files = [
        (os.POSIX_SPAWN_DUP2, lifeline, 0),
        (os.POSIX_SPAWN_OPEN, 1, log, NEW_FILE_FLAGS, 0o644),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return os.posix_spawn(sys.executable, command, os.environ, file_actions=files, setpgroup=0)


def _exit_with_lifeline() -> None:
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGTERM)


def run_jobs(parent: int, arguments: str | None = None) -> None:
    """Serve ``parent``, or run one job for it."""
    die_with_parent(parent)
    if arguments is not None:
        threading.Thread(target=_exit_with_lifeline, daemon=True).start()
        load_img2dataset()(**json.loads(arguments))
        return
    reports = reserve_stdout()
    if sys.platform == "linux":
        adopt_orphans()
        download = load_img2dataset()
        gc.collect()
        gc.freeze()  # what is there now stays shared with the forks: no collection writes to its pages
        serve_jobs(functools.partial(run_forked, download, reports), reports)
    else:
        lifeline, _ = os.pipe()  # the other end stays open as long as this process lives
        serve_jobs(functools.partial(run_spawned, lifeline), reports)
    os._exit(0)  # Python would take half a second to free a million objects


if __name__ == "__main__":
    run_jobs(int(sys.argv[1]), *sys.argv[2:3])
