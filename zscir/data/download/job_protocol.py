"""A job server over pipes: JSON lines start and end jobs, each a process group, and report how each exited.

{"start": 7, "log": "...", "arguments": {...}}  # in: start job 7
{"job": 7, "pid": 4712}, later {"job": 7, "exit": 0}  # out; a negative exit is the signal that killed it
{"end": 7}  # in: kill all processes of job 7; its exit is reported as ever
"""

import ctypes
import json
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import Any

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
COMMAND_READ_BYTES = 1 << 16
CANNOT_START_STATUS = 127  # as a shell's "command not found"
StartJob = Callable[[str, dict[str, Any]], int]  # from log and arguments to the ID of a process group's leader


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
    """Handle the commands on standard input until it closes: then the parent is gone, and no job may outlive it."""
    wake_reader, wake_writer = os.pipe()
    for end in (wake_reader, wake_writer):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
    jobs = _JobTable(start, reports)
    unfinished = b""
    try:
        while True:
            ready, _, _ = select.select([0, wake_reader], [], [])
            if wake_reader in ready:
                os.read(wake_reader, COMMAND_READ_BYTES)
                jobs.reap()
            if 0 in ready:
                data = os.read(0, COMMAND_READ_BYTES)
                if not data:
                    return
                *lines, unfinished = (unfinished + data).split(b"\n")
                for line in lines:
                    jobs.handle_command(json.loads(line))
    except BrokenPipeError:  # nobody reads the reports
        return
    finally:
        jobs.close()


class _JobTable:
    """The jobs under way. The exit of one is reported when no process of its group is left."""

    def __init__(self, start: StartJob, reports: int) -> None:
        self._start = start
        self._reports = reports
        self._groups: dict[int, int] = {}
        self._exits: dict[int, int] = {}  # of those whose first process is gone, and the rest of the group not yet

    def handle_command(self, command: dict[str, Any]) -> None:
        if "start" in command:
            number = command["start"]
            try:
                self._groups[number] = self._start(command["log"], command["arguments"])
            except OSError as error:  # no process or memory left, or no folder for the log
                self._report({"job": number, "exit": CANNOT_START_STATUS, "error": str(error)})
            else:
                self._report({"job": number, "pid": self._groups[number]})
        elif command["end"] in self._groups:
            _kill(self._groups[command["end"]])

    def reap(self) -> None:
        """Reap what has exited; a group's leader after the others are killed: until then nobody else gets its ID."""
        for number, group in list(self._groups.items()):
            if number not in self._exits:
                exited = os.waitid(os.P_PID, group, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if exited is None:
                    continue
                _kill(group)
                self._exits[number] = exited.si_status if exited.si_code == os.CLD_EXITED else -exited.si_status
            if _reap_group(group):
                del self._groups[number]
                self._report({"job": number, "exit": self._exits.pop(number)})

    def close(self) -> None:
        for group in self._groups.values():
            _kill(group)
        for group in self._groups.values():
            _reap_group(group, 0)

    def _report(self, report: dict[str, Any]) -> None:
        os.write(self._reports, json.dumps(report).encode() + b"\n")


def _kill(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # macOS raises the latter for a group of zombies
        return


def _reap_group(group: int, options: int = os.WNOHANG) -> bool:
    """Reap the exited processes of a group; whether none is left. With ``options`` 0 it waits until that is so.

    Orphans of the group count as children here where ``adopt_orphans`` was called.
    """
    try:
        while os.waitpid(-group, options)[0]:
            pass
    except ChildProcessError:
        return True
    return False
