"""Keep one img2dataset process per process of ours: started when first needed, given jobs by any thread.

It ends with its owner, with all processes of its jobs, and by itself when it has had no job for a while.
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
ANSWER_S = 15.0  # killed when by then it has not ended a job, which takes milliseconds
REPORT_READ_BYTES = 1 << 16
STDERR_TAIL_BYTES = 2000


class RunningJob:
    """One job of an img2dataset process."""

    def __init__(self, number: int, process: "Img2datasetProcess") -> None:
        self.number = number
        self.pid: int | None = None  # of its first process
        self.exit_code: int | None = None  # negative: the signal that killed it; None: img2dataset's process is gone
        self.stderr_tail = ""  # of img2dataset's process, where it could not start the job or is gone
        self.finished = threading.Event()  # set when no process of the job is left
        self._process = process

    def end(self) -> None:
        """Kill all its processes, if any are left, and wait until they are gone."""
        self._process.end(self)


class Img2datasetProcess:
    """The child process that runs img2dataset, its jobs, and a thread that reads its reports."""

    def __init__(self, environment: dict[str, str], idle_s: float = IDLE_S) -> None:
        self.accepts_jobs = False
        self._environment = environment
        self._idle_s = idle_s
        self._lock = threading.Lock()
        self._jobs: dict[int, RunningJob] = {}
        self._last_number = 0
        self._child: subprocess.Popen[bytes] | None = None
        self.stderr_tail = ""  # once it is gone
        self._started_or_failed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="zscir-img2dataset", daemon=True)
        self._thread.start()
        self._started_or_failed.wait()

    def start(self, log: Path, arguments: dict[str, Any]) -> RunningJob | None:
        """Start a job; None when the process is gone or about to go."""
        with self._lock:
            self._last_number += 1
            job = RunningJob(self._last_number, self)
            if not self._send({"start": job.number, "log": str(log), "arguments": arguments}):
                return None
            self._jobs[job.number] = job
            return job

    def end(self, job: RunningJob) -> None:
        """See ``RunningJob.end``. A process that does not answer is killed, with all jobs."""
        with self._lock:
            if job.number in self._jobs:
                self._send({"end": job.number})
        if not job.finished.wait(ANSWER_S):
            self._kill()
            job.finished.wait(ANSWER_S)

    def close(self) -> None:
        """End the process and its jobs, and wait until it is gone."""
        with self._lock:
            self._release()
        self._thread.join(ANSWER_S)
        if self._thread.is_alive():
            self._kill()
            self._thread.join(ANSWER_S)

    def abandon(self) -> None:
        """In a fork of its owner: close our copy of its standard input, which must close when the owner ends."""
        if self._child is not None and self._child.stdin is not None and not self._child.stdin.closed:
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, self._child.stdin.fileno())
            os.close(nothing)

    def _run(self) -> None:
        """Start the process and serve it to its end: PR_SET_PDEATHSIG fires when the thread that started it ends."""
        try:
            with tempfile.TemporaryFile() as stderr:
                self._read_reports(stderr)
        except OSError as error:  # no process, memory or file left for it
            self.stderr_tail = str(error)
        finally:
            self._started_or_failed.set()
            with self._lock:
                self._release()
                for job in self._jobs.values():
                    job.stderr_tail = self.stderr_tail
                    job.finished.set()
                self._jobs.clear()

    def _read_reports(self, stderr: IO[bytes]) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "zscir.data.download.img2dataset_process", str(os.getpid())],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
            env=self._environment,
        )
        with self._child:
            self.accepts_jobs = True
            self._started_or_failed.set()
            self._read_stdout(self._child)
            self._kill()  # it has closed its standard output: it is exiting, or broken
        stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - STDERR_TAIL_BYTES))
        self.stderr_tail = stderr.read().decode("utf-8", "replace")

    def _read_stdout(self, child: "subprocess.Popen[bytes]") -> None:
        """Handle reports until standard output closes."""
        if child.stdout is None:
            return
        unfinished = b""
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            while True:
                if not selector.select(self._idle_s):
                    self._stop_when_idle()
                    continue
                data = os.read(child.stdout.fileno(), REPORT_READ_BYTES)
                if not data:
                    break
                *lines, unfinished = (unfinished + data).split(b"\n")
                for line in lines:
                    self._handle_report(json.loads(line))
        with self._lock:
            self._release()

    def _handle_report(self, report: dict[str, Any]) -> None:
        with self._lock:
            job = self._jobs[report["job"]]
            job.pid = report.get("pid", job.pid)
            if "exit" in report:
                del self._jobs[job.number]
                job.exit_code, job.stderr_tail = report["exit"], report.get("error", "")
                job.finished.set()

    def _stop_when_idle(self) -> None:
        with self._lock:
            if not self._jobs:
                self._release()

    def _send(self, command: dict[str, Any]) -> bool:
        """Send a command, with the lock held; whether the process may read it."""
        if not self.accepts_jobs or self._child is None or self._child.stdin is None or self._child.poll() is not None:
            self._release()  # or the next caller finds it again, before the reading thread knows
            return False
        line = memoryview(json.dumps(command).encode() + b"\n")
        try:
            while line:
                line = line[self._child.stdin.write(line) :]
        except BrokenPipeError:
            self._release()
            return False
        return True

    def _release(self) -> None:
        """Close its standard input, with the lock held: then it ends."""
        self.accepts_jobs = False
        if self._child is not None and self._child.stdin is not None:
            self._child.stdin.close()

    def _kill(self) -> None:
        if self._child is not None:
            self._child.kill()


_LOCK = threading.Lock()
_PROCESS: Img2datasetProcess | None = None
_INHERITED: list[Img2datasetProcess] = []  # kept: Popen.__del__ in a fork would wait for what is not its child


@contextmanager
def run_img2dataset(log: Path, arguments: dict[str, Any]) -> Iterator[RunningJob]:
    """Run `img2dataset.download(**arguments)`, logging to ``log``, while inside. May be called by any thread.

    Raises StageError when img2dataset's process cannot be started.
    """
    job = _start_job(log, arguments)
    try:
        yield job
    finally:
        job.end()


def _start_job(log: Path, arguments: dict[str, Any]) -> RunningJob:
    for _ in range(2):  # one that is there may have stopped when idle, or been killed, at this very moment
        process = _process()
        job = process.start(log, arguments)
        if job is not None:
            return job
    raise StageError(f"the process that runs img2dataset does not start: {process.stderr_tail or 'it ends at once'}")


def _process() -> Img2datasetProcess:
    global _PROCESS  # noqa: PLW0603 - one per process is the point of it
    with _LOCK:
        if _PROCESS is None or not _PROCESS.accepts_jobs:
            _PROCESS = Img2datasetProcess(_environment())
        return _PROCESS


def close_img2dataset() -> None:
    """End this process's img2dataset process, if there is one, with its jobs; the next job starts another."""
    global _PROCESS
    with _LOCK:
        process, _PROCESS = _PROCESS, None
    if process is not None:
        process.close()


def _disown_after_fork() -> None:
    """In a fork of this process: img2dataset's process is the parent's, and no thread here reads from it."""
    global _LOCK, _PROCESS  # noqa: PLW0603 - as above; and the lock may be held by a thread that is not here
    _LOCK = threading.Lock()
    if _PROCESS is not None:
        _PROCESS.abandon()
        _INHERITED.append(_PROCESS)
        _PROCESS = None


def _environment() -> dict[str, str]:
    # A decoded image takes a megabyte or more, which glibc would give back to the kernel after each and fault in anew
    # for the next: 2.75 s of CPU instead of 1.8 s for the job that img2dataset_process.py measures.
    keep = {"MALLOC_MMAP_THRESHOLD_": str(32 * MIB), "MALLOC_TRIM_THRESHOLD_": str(256 * MIB)}
    quiet = {"NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "disabled"}
    # The workers are the parallelism; and the process may have no second thread, not even a library's, when it forks.
    single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
    return {**os.environ, **quiet, **single, **keep, "no_proxy": "127.0.0.1"}  # the gateway is reached directly


atexit.register(close_img2dataset)
os.register_at_fork(after_in_child=_disown_after_fork)
