"""The protocol of jobs, with shell commands for jobs."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.data.download.img2dataset_engines import wait_for

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


class Asked:
    """A server of jobs, and what it says."""

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
def asked(tmp_path: Path) -> Iterator[Asked]:
    with subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        yield Asked(child, tmp_path / "log")
        child.kill()


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_the_start_and_the_end_of_a_job_are_told(asked: Asked) -> None:
    asked.start(7, "exit 3")
    started = asked.report()
    assert started["job"] == 7
    assert asked.report() == {"job": 7, "exit": 3}


def test_a_job_that_is_killed_tells_the_signal(asked: Asked) -> None:
    asked.start(1, "kill -11 $$")
    asked.report()
    assert asked.report() == {"job": 1, "exit": -11}


def test_an_end_is_told_when_nobody_of_the_job_is_left(asked: Asked, tmp_path: Path) -> None:
    """The first process leaves a child behind, which nobody else would wait for."""
    asked.start(1, "sleep 600 & echo $! && exit 0")
    first = asked.report()["pid"]
    assert asked.report() == {"job": 1, "exit": 0}
    assert not alive(first)
    assert not alive(int((tmp_path / "log").read_text()))


def test_a_job_is_ended_with_its_children_while_others_go_on(asked: Asked, tmp_path: Path) -> None:
    asked.start(1, "sleep 600 & echo $!; sleep 600")
    asked.report()
    child = int(wait_for((tmp_path / "log").read_text))
    asked.start(2, "sleep 600")
    other = asked.report()["pid"]
    asked.end(1)
    assert asked.report() == {"job": 1, "exit": -9}
    assert not alive(child)
    assert alive(other)
    asked.end(1)  # it is over already
    asked.end(2)
    assert asked.report() == {"job": 2, "exit": -9}


def test_a_job_that_cannot_start_is_over_and_says_why(asked: Asked) -> None:
    asked.start(5, "")
    assert asked.report() == {
        "job": 5, "exit": 127, "error": "[Errno 2] No such file or directory: '/no/such/shell'",
    }  # fmt: skip
    asked.start(6, "exit 0")
    asked.report()
    assert asked.report() == {"job": 6, "exit": 0}


@pytest.mark.parametrize("pipe", ["stdin", "stdout"])
def test_all_jobs_end_when_nobody_asks_or_listens_any_more(asked: Asked, pipe: str) -> None:
    asked.start(1, "sleep 600")
    job = asked.report()["pid"]
    if pipe == "stdin":
        asked.child.stdin.close()  # type: ignore[union-attr]
    else:
        asked.child.stdout.close()  # type: ignore[union-attr]
        asked.start(2, "exit 0")
    assert asked.child.wait(20) == 0
    wait_for(lambda: not alive(job), 10)


def test_lines_may_come_in_pieces_and_many_at_a_time(asked: Asked, tmp_path: Path) -> None:
    ask = {"log": str(tmp_path / "log"), "arguments": {"command": "exit 0"}}
    lines = b"".join(json.dumps({"start": number, **ask}).encode() + b"\n" for number in range(20))
    stdin = asked.child.stdin.fileno()  # type: ignore[union-attr]
    os.write(stdin, lines[:333])
    os.write(stdin, lines[333:])
    reports = [asked.report() for _ in range(40)]
    assert sorted(report["job"] for report in reports if "exit" in report) == list(range(20))
