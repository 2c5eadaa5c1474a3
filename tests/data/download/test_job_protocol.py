"""The job server's protocol, with shell commands for jobs."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.data.download.img2dataset_job_servers import wait_for

SERVER = """
import os
from zscir.data.download.job_protocol import adopt_orphans, reserve_stdout, serve_jobs

def start(log, arguments):
    words = ["/bin/sh", "-c", arguments["command"]]
    files = [(os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT, 0o644)]
    return os.posix_spawn(words[0] if arguments["command"] else "/no/such/shell", words, os.environ,
                          file_actions=files, setpgroup=0)

adopt_orphans()
reports = reserve_stdout()
print("this is no report")
serve_jobs(start, reports)
"""


class JobServer:
    """A job server in a child process, and its reports."""

    def __init__(self, child: "subprocess.Popen[bytes]", log: Path) -> None:
        self.child = child
        self._log = log

    def start(self, number: int, command: str) -> None:
        self._send({"start": number, "log": str(self._log), "arguments": {"command": command}})

    def end(self, number: int) -> None:
        self._send({"end": number})

    def report(self) -> dict[str, Any]:
        assert self.child.stdout is not None
        report: dict[str, Any] = json.loads(self.child.stdout.readline())
        return report

    def _send(self, what: dict[str, Any]) -> None:
        assert self.child.stdin is not None
        self.child.stdin.write(json.dumps(what).encode() + b"\n")
        self.child.stdin.flush()


@pytest.fixture
def job_server(tmp_path: Path) -> Iterator[JobServer]:
    with subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        yield JobServer(child, tmp_path / "log")
        child.kill()


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_the_start_and_the_exit_of_a_job_are_reported(job_server: JobServer) -> None:
    job_server.start(7, "exit 3")
    started = job_server.report()
    assert started["job"] == 7
    assert job_server.report() == {"job": 7, "exit": 3}


def test_a_killed_job_reports_the_signal(job_server: JobServer) -> None:
    job_server.start(1, "kill -11 $$")
    job_server.report()
    assert job_server.report() == {"job": 1, "exit": -11}


def test_an_exit_is_reported_when_no_process_of_the_job_is_left(job_server: JobServer, tmp_path: Path) -> None:
    """The first process leaves a child behind, which nobody else would wait for."""
    job_server.start(1, "sleep 600 & echo $! && exit 0")
    first = job_server.report()["pid"]
    assert job_server.report() == {"job": 1, "exit": 0}
    assert not alive(first)
    assert not alive(int((tmp_path / "log").read_text()))


def test_a_job_is_ended_with_its_children_while_others_go_on(job_server: JobServer, tmp_path: Path) -> None:
    job_server.start(1, "sleep 600 & echo $!; sleep 600")
    job_server.report()
    child = int(wait_for((tmp_path / "log").read_text))
    job_server.start(2, "sleep 600")
    other = job_server.report()["pid"]
    job_server.end(1)
    assert job_server.report() == {"job": 1, "exit": -9}
    assert not alive(child)
    assert alive(other)
    job_server.end(1)  # it is over already
    job_server.end(2)
    assert job_server.report() == {"job": 2, "exit": -9}


def test_a_job_that_cannot_start_is_over_and_says_why(job_server: JobServer) -> None:
    job_server.start(5, "")
    assert job_server.report() == {
        "job": 5, "exit": 127, "error": "[Errno 2] No such file or directory: '/no/such/shell'",
    }  # fmt: skip
    job_server.start(6, "exit 0")
    job_server.report()
    assert job_server.report() == {"job": 6, "exit": 0}


@pytest.mark.parametrize("pipe", ["stdin", "stdout"])
def test_all_jobs_end_when_either_pipe_closes(job_server: JobServer, pipe: str) -> None:
    job_server.start(1, "sleep 600")
    job = job_server.report()["pid"]
    if pipe == "stdin":
        job_server.child.stdin.close()  # type: ignore[union-attr]
    else:
        job_server.child.stdout.close()  # type: ignore[union-attr]
        job_server.start(2, "exit 0")
    assert job_server.child.wait(20) == 0
    wait_for(lambda: not alive(job), 10)


def test_commands_may_arrive_in_parts_and_many_at_a_time(job_server: JobServer, tmp_path: Path) -> None:
    command = {"log": str(tmp_path / "log"), "arguments": {"command": "exit 0"}}
    lines = b"".join(json.dumps({"start": number, **command}).encode() + b"\n" for number in range(20))
    stdin = job_server.child.stdin.fileno()  # type: ignore[union-attr]
    os.write(stdin, lines[:333])
    os.write(stdin, lines[333:])
    reports = [job_server.report() for _ in range(40)]
    assert sorted(report["job"] for report in reports if "exit" in report) == list(range(20))
