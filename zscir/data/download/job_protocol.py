"""Jobs: lines of JSON on standard input become process groups, and lines on standard output say how each ended.

{"start": 7, "log": "...", "arguments": {...}}  # comes in
{"job": 7, "pid": 4712} and later {"job": 7, "exit": 0}  # goes out; minus the signal where one ended it
{"end": 7}  # comes in: end this job with all its processes; its exit is told as ever
"""

import ctypes
import json
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import Any

PR_SET_CHILD_SUBREAPER = 36
COMMAND_READ_BYTES = 1 << 16
CANNOT_START_STATUS = 127
StartJob = Callable[
    [str, dict[str, Any]], int
]  # log and arguments to the ID of a process that leads a group of its own


def adopt_orphans() -> None:
    """Ask the kernel (Linux) to make this process the parent of its descendants whose parents are gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reserve_stdout() -> int:
    """Keep standard output for reports: what is printed from now on goes to standard error. To be done first."""
    reports = os.dup(1)
    os.dup2(2, 1)
    return reports


def serve_jobs(start: StartJob, reports: int) -> None:
    """Obey standard input until it closes: who asks is gone then, and nothing may outlive it."""
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    jobs = _JobTable(start, reports)
    unfinished = b""
    try:
        while True:
            ready, _, _ = select.select([0, woken], [], [])
            if woken in ready:
                os.read(woken, COMMAND_READ_BYTES)
                jobs.look()
            if 0 in ready:
                data = os.read(0, COMMAND_READ_BYTES)
                if not data:
                    return
                *lines, unfinished = (unfinished + data).split(b"\n")
                for line in lines:
                    jobs.obey(json.loads(line))
    except BrokenPipeError:  # nobody reads the reports
        return
    finally:
        jobs.close()


class _JobTable:
    """The jobs under way. The end of one is told when nothing of its group is left."""

    def __init__(self, start: StartJob, reports: int) -> None:
        self._start = start
        self._reports = reports
        self._groups: dict[int, int] = {}
        self._exits: dict[int, int] = {}  # of those whose first process is gone, and the rest of the group not yet

    def obey(self, asked: dict[str, Any]) -> None:
        if "start" in asked:
            number = asked["start"]
            try:
                self._groups[number] = self._start(asked["log"], asked["arguments"])
            except OSError as error:  # no process or memory left, or no folder for the log
                self._tell({"job": number, "exit": CANNOT_START_STATUS, "error": str(error)})
            else:
                self._tell({"job": number, "pid": self._groups[number]})
        elif asked["end"] in self._groups:
            _kill(self._groups[asked["end"]])

    def look(self) -> None:
        """Bury the dead; the first of a group only after the others are killed, for until then its ID is theirs."""
        for number, group in list(self._groups.items()):
            if number not in self._exits:
                found = os.waitid(os.P_PID, group, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if found is None:
                    continue
                _kill(group)
                self._exits[number] = found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
            if _reap_group(group):
                del self._groups[number]
                self._tell({"job": number, "exit": self._exits.pop(number)})

    def close(self) -> None:
        for group in self._groups.values():
            _kill(group)
        for group in self._groups.values():
            _reap_group(group, 0)

    def _tell(self, report: dict[str, Any]) -> None:
        os.write(self._reports, json.dumps(report).encode() + b"\n")


def _kill(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # macOS says the latter of a group in which all are dead
        return


def _reap_group(group: int, options: int = os.WNOHANG) -> bool:
    """Bury the dead of a group; whether nobody of it is left. Orphans are our children by then, if we adopt them.

    With no ``options`` it waits until that is so.
    """
    try:
        while os.waitpid(-group, options)[0]:
            pass
    except ChildProcessError:
        return True
    return False
