"""The job server's life: it begins when it is needed, stops when it is not, and never outlives its owner."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import psutil
import pytest

from tests.data.download.img2dataset_job_servers import (
    fake_img2dataset,
    job,
    jobs_now,
    session_of,
    the_job_server,
    wait_for,
)
from zscir.data.download.img2dataset_client import Img2datasetProcess, RunningJob, close_img2dataset, run_img2dataset
from zscir.data.download.img2dataset_job import download_raw_shards
from zscir.runtime.errors import StageError

REPO = Path(__file__).parents[3]
# Has as many workers as the real one, forked as the real one's are, and is never done.
SLEEPER = """
import time
from img2dataset import distributor
def download(processes_count=1, **_):
    with distributor.get_context("spawn").Pool(processes_count, maxtasksperchild=5) as pool:
        print("began", flush=True)
        list(pool.imap_unordered(time.sleep, [600] * processes_count))
"""
# Is done at once.
QUICK = """
def download(output_folder, **_):
    open(output_folder + "/00000_stats.json", "w").write("{}")
"""
# Two threads, each with a job of two workers; and a fork that holds what we held.
US = """
import os, signal, sys, time
from pathlib import Path
from threading import Thread
signal.signal(signal.SIGINT, signal.default_int_handler)  # the jobs of a shell may ignore it
from zscir.data.download.img2dataset_job import Img2datasetJob, download_raw_shards

def work(number):
    job = Img2datasetJob(Path("urls"), Path(sys.argv[1]) / str(number), 2, 2, {})
    list(download_raw_shards(job, time.monotonic, 600.0))

Thread(target=work, args=(0,), daemon=True).start()
while not (Path(sys.argv[1]) / "0" / ".log").exists():
    time.sleep(0.02)
if os.fork() == 0:
    time.sleep(600)
work(1)
"""
# A process that has a job server forks: both go on with jobs, each with a job server of its own.
FORKING = """
import os, sys
from pathlib import Path
from zscir.data.download.img2dataset_job import Img2datasetJob, download_raw_shards

def work(name):
    job = Img2datasetJob(Path("urls"), Path(sys.argv[1]) / name, 4, 1, {})
    return list(download_raw_shards(job, lambda: 0.0, 60.0))

assert work("before") == [0]
child = os.fork()
if child == 0:
    code = 1
    try:
        code = 0 if work("child") == [0] else 2
    finally:
        os._exit(code)
assert work("parent") == [0]
assert os.waitpid(child, 0)[1] == 0
assert work("after") == [0]
"""


def python(code: str, folder: Path, fake: str) -> "subprocess.Popen[str]":
    env = os.environ | {"PYTHONPATH": str(fake_img2dataset(folder, fake)), "ZSCIR_DOWNLOAD_PROCESSES": "2"}
    command = [sys.executable, "-W", "ignore", "-c", code, str(folder)]
    return subprocess.Popen(command, cwd=REPO, env=env, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nobody_outlives_us(tmp_path: Path, number: signal.Signals) -> None:
    with python(US, tmp_path, SLEEPER) as us:
        wait_for(lambda: began(tmp_path / "0") and began(tmp_path / "1"))
        job_server = the_job_server(us.pid)
        assert len(session_of(job_server)) == 7  # the job server, two jobs, two workers of each
        [fork] = [process for process in psutil.Process(us.pid).children() if process != job_server]
        us.send_signal(number)
        wait_for(lambda: session_of(job_server) == [], 20)
        assert fork.is_running()
        fork.kill()
        us.communicate()
        assert us.returncode != 0


def began(folder: Path) -> bool:
    log = folder / ".log"
    return log.exists() and "began" in log.read_text()


def test_a_fork_of_ours_has_a_job_server_of_its_own(tmp_path: Path) -> None:
    with python(FORKING, tmp_path, QUICK) as us:
        assert us.communicate(timeout=60)[1] == ""
        assert us.returncode == 0


@pytest.fixture
def fake_job_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The environment in which job servers of this process run the sleeper."""
    monkeypatch.setenv("PYTHONPATH", str(fake_img2dataset(tmp_path, SLEEPER)))
    close_img2dataset()
    yield dict(os.environ)
    close_img2dataset()


def start_sleeping_job(job_server: Img2datasetProcess, folder: Path) -> RunningJob:
    """A job of ``job_server`` that is under way."""
    folder.mkdir()
    run = job_server.start(folder / ".log", {})
    assert run is not None
    wait_for(lambda: began(folder))
    return run


def test_a_job_server_that_is_not_needed_ends_by_itself(fake_job_server: dict[str, str], tmp_path: Path) -> None:
    job_server = Img2datasetProcess(fake_job_server, idle_s=0.1)
    child = the_job_server()
    wait_for(lambda: not job_server.accepts_jobs)
    assert job_server.start(tmp_path / "log", {}) is None
    wait_for(lambda: not child.is_running())


def test_a_job_server_with_a_long_job_does_not_stop(fake_job_server: dict[str, str], tmp_path: Path) -> None:
    job_server = Img2datasetProcess(fake_job_server, idle_s=0.1)
    run = start_sleeping_job(job_server, tmp_path / "job")
    time.sleep(0.4)
    assert job_server.accepts_jobs
    assert not run.finished.is_set()
    run.end()
    assert run.exit_code == -signal.SIGKILL
    assert not psutil.pid_exists(run.pid or 0)
    wait_for(lambda: not job_server.accepts_jobs)


def test_closing_ends_jobs_that_are_under_way(fake_job_server: dict[str, str], tmp_path: Path) -> None:
    job_server = Img2datasetProcess(fake_job_server)
    child, run = the_job_server(), start_sleeping_job(job_server, tmp_path / "job")
    wait_for(lambda: jobs_now() == [run.pid])  # a job may have begun before the job server has reported its process
    job_server.close()
    assert session_of(child) == []
    assert run.finished.is_set()
    assert run.exit_code is None
    run.end()  # it is over already


@pytest.mark.usefixtures("fake_job_server")
def test_a_job_is_over_even_where_the_job_server_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zscir.data.download.img2dataset_client.ANSWER_S", 0.5)
    suspended = Event()
    with ThreadPoolExecutor(1) as pool:
        progress_at = lambda: 0.0 if suspended.is_set() else time.monotonic()  # noqa: E731
        result = pool.submit(list, download_raw_shards(job(tmp_path, ["http://127.0.0.1:9/"] * 2), progress_at, 1.0))
        wait_for(lambda: began(tmp_path / "raw"))
        child = the_job_server()
        child.suspend()
        suspended.set()
        assert result.result(30) == []
    wait_for(lambda: session_of(child) == [], 10)


def test_without_python_there_is_no_job_server_and_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    close_img2dataset()
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    why = r"does not start: .*No such file or directory: '/no/such/python'"
    with pytest.raises(StageError, match=why), run_img2dataset(tmp_path / "log", {}):
        pass
