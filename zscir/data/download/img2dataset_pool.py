"""Warm: one engine per process of ours is started when first needed, and takes jobs from any thread.

It ends with us, with nobody left of its jobs, and by itself when there has been no job for a while.
"""

import atexit
import json
import os
import selectors
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from zscir.data.download.fetch_spec import MIB
from zscir.runtime.errors import StageError

IDLE_S = 60.0
ANSWER_S = 15.0  # an engine that has not done by then what takes milliseconds is killed
REPORT_READ_BYTES = 1 << 16
STDERR_TAIL_BYTES = 2000


class RunningJob:
    """One job in the engine's hands."""

    def __init__(self, number: int, engine: "Img2datasetProcess") -> None:
        self.number = number
        self.pid: int | None = None  # of its first process
        self.exit: int | None = None  # minus the signal where one ended it; None where the engine itself is gone
        self.words = ""  # of the engine, where it could not start the job or went itself
        self.over = threading.Event()  # set when no process of it is left
        self._engine = engine

    def end(self) -> None:
        """End it with all its processes, if it is not over, and wait until they are gone."""
        self._engine.end(self)


class Img2datasetProcess:
    """The child process, its jobs, and a thread that takes its reports."""

    def __init__(self, environment: dict[str, str], idle_s: float = IDLE_S) -> None:
        self.open = False  # for new jobs
        self._environment = environment
        self._idle_s = idle_s
        self._lock = threading.Lock()
        self._runs: dict[int, RunningJob] = {}
        self._count = 0
        self._child: subprocess.Popen[bytes] | None = None
        self.words = ""  # what it wrote last to standard error, once it is gone
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._live, name="zscir-engine", daemon=True)
        self._thread.start()
        self._begun.wait()

    def start(self, log: Path, arguments: dict[str, Any]) -> RunningJob | None:
        """Start a job; None when the engine is gone or about to go."""
        with self._lock:
            self._count += 1
            run = RunningJob(self._count, self)
            if not self._ask({"start": run.number, "log": str(log), "arguments": arguments}):
                return None
            self._runs[run.number] = run
            return run

    def end(self, run: RunningJob) -> None:
        """See ``RunningJob.end``. An engine that does not answer is ended, with all jobs."""
        with self._lock:
            if run.number in self._runs:
                self._ask({"end": run.number})
        if not run.over.wait(ANSWER_S):
            self._kill()
            run.over.wait(ANSWER_S)

    def close(self) -> None:
        """End the engine and its jobs, and wait until it is gone."""
        with self._lock:
            self._let_go()
        self._thread.join(ANSWER_S)
        if self._thread.is_alive():
            self._kill()
            self._thread.join(ANSWER_S)

    def disown(self) -> None:
        """In a fork of our process: let go of its standard input, which must close when its owner ends."""
        if self._child is not None and self._child.stdin is not None and not self._child.stdin.closed:
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, self._child.stdin.fileno())
            os.close(nothing)

    def _live(self) -> None:
        """The engine's whole life. Linux takes the end of the thread that started it for our end: it is this one."""
        try:
            with tempfile.TemporaryFile() as said:
                self._attend(said)
        except OSError as error:  # no process, memory or file left for it
            self.words = str(error)
        finally:
            self._begun.set()
            with self._lock:
                self._let_go()
                for run in self._runs.values():
                    run.words = self.words
                    run.over.set()
                self._runs.clear()

    def _attend(self, said: IO[bytes]) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "zscir.data.download.img2dataset_process", str(os.getpid())],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            start_new_session=True,
            env=self._environment,
        )
        with self._child:
            self.open = True
            self._begun.set()
            self._listen(self._child)
            self._kill()  # it has closed its end, so it is over with it
        said.seek(max(0, said.seek(0, os.SEEK_END) - STDERR_TAIL_BYTES))
        self.words = said.read().decode("utf-8", "replace")

    def _listen(self, child: "subprocess.Popen[bytes]") -> None:
        """Take reports until there will be no more."""
        if child.stdout is None:
            return
        unfinished = b""
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            while True:
                if not selector.select(self._idle_s):
                    self._rest()
                    continue
                data = os.read(child.stdout.fileno(), REPORT_READ_BYTES)
                if not data:
                    break
                *lines, unfinished = (unfinished + data).split(b"\n")
                for line in lines:
                    self._take(json.loads(line))
        with self._lock:
            self._let_go()

    def _take(self, report: dict[str, Any]) -> None:
        with self._lock:
            run = self._runs[report["job"]]
            run.pid = report.get("pid", run.pid)
            if "exit" in report:
                del self._runs[run.number]
                run.exit, run.words = report["exit"], report.get("error", "")
                run.over.set()

    def _rest(self) -> None:
        with self._lock:
            if not self._runs:
                self._let_go()

    def _ask(self, what: dict[str, Any]) -> bool:
        """Hand it a line, with the lock held; whether somebody may read it."""
        if not self.open or self._child is None or self._child.stdin is None or self._child.poll() is not None:
            self._let_go()  # so that the next who asks does not find it again, before the listener knows
            return False
        line = memoryview(json.dumps(what).encode() + b"\n")
        try:
            while line:
                line = line[self._child.stdin.write(line) :]
        except BrokenPipeError:
            self._let_go()
            return False
        return True

    def _let_go(self) -> None:
        """Close its standard input, with the lock held: it ends then."""
        self.open = False
        if self._child is not None and self._child.stdin is not None:
            self._child.stdin.close()

    def _kill(self) -> None:
        if self._child is not None:
            self._child.kill()


_LOCK = threading.Lock()
_PROCESS: Img2datasetProcess | None = None
_INHERITED: list[Img2datasetProcess] = []  # kept, or Python would bury in a fork what is not its child


@contextmanager
def run_img2dataset(log: Path, arguments: dict[str, Any]) -> Iterator[RunningJob]:
    """Run a job while inside: `download(**arguments)` of img2dataset, which writes to ``log``. May be called anywhere.

    Raises StageError when there is no engine to be had.
    """
    run = _started(log, arguments)
    try:
        yield run
    finally:
        run.end()


def _started(log: Path, arguments: dict[str, Any]) -> RunningJob:
    for _ in range(2):  # one that is there may have gone to rest, or have been killed, at this very moment
        engine = _process()
        run = engine.start(log, arguments)
        if run is not None:
            return run
    raise StageError(f"the process that runs img2dataset does not start: {engine.words or 'it ends at once'}")


def _process() -> Img2datasetProcess:
    global _PROCESS  # noqa: PLW0603 - one per process is the point of it
    with _LOCK:
        if _PROCESS is None or not _PROCESS.open:
            _PROCESS = Img2datasetProcess(_environment())
        return _PROCESS


def close_img2dataset() -> None:
    """End the engine of this process, if there is one, with its jobs; the next job starts another."""
    global _PROCESS
    with _LOCK:
        engine, _PROCESS = _PROCESS, None
    if engine is not None:
        engine.close()


def _disown_after_fork() -> None:
    """In a fork of our process: the engine is the parent's, and the thread that listens to it is not here."""
    global _LOCK, _PROCESS  # noqa: PLW0603
    _LOCK = threading.Lock()
    if _PROCESS is not None:
        _PROCESS.disown()
        _INHERITED.append(_PROCESS)
        _PROCESS = None


def _environment() -> dict[str, str]:
    # A decoded image takes a megabyte or more, which glibc would give back to the kernel after each and fault in anew
    # for the next: a third of the CPU time of img2dataset. It ends with the job anyway.
    keep = {"MALLOC_MMAP_THRESHOLD_": str(32 * MIB), "MALLOC_TRIM_THRESHOLD_": str(256 * MIB)}
    quiet = {"NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "disabled"}
    # The workers are the parallelism; and the engine may have no second thread, of libraries neither, when it forks.
    single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
    return {**os.environ, **quiet, **single, **keep, "no_proxy": "127.0.0.1"}  # the gateway is reached directly


atexit.register(close_img2dataset)
os.register_at_fork(after_in_child=_disown_after_fork)
