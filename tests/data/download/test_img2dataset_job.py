"""What becomes of an img2dataset that dies, stands still or lies. The liars are small packages of its name."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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
from tests.faults.downloads import download, pairs_in, spec_for
from tests.faults.hostile_server import HostileServer
from tests.faults.matrix import Measured
from zscir.data.download.img2dataset_client import close_img2dataset
from zscir.data.download.img2dataset_job import download_processes, download_raw_shards, download_threads
from zscir.runtime.errors import StageError

# Leaves, as the real one does after SIGINT, a truncated tar beside a table and statistics, and exits with 0.
LIAR = """
import pyarrow as pa, pyarrow.parquet as pq, urllib.request
def download(url_list, output_folder, **_):
    urls = pq.read_table(url_list)["url"].to_pylist()
    for url in urls:
        urllib.request.urlopen(url).read()
    with open(output_folder + "/00000.tar", "wb") as tar:
        tar.write(b"x" * 700)
    rows = pa.table({"url": urls, "error_message": pa.nulls(len(urls), pa.string())})
    pq.write_table(rows, output_folder + "/00000.parquet")
    open(output_folder + "/00000_stats.json", "w").write("{}")
"""
FAULT = "kill -9 of img2dataset or its workers"
QUITTER = "def download(**_): print('nothing to see here')\n"
FAINTER = "def download(**_): raise MemoryError('no room for this')\n"
BROKEN = "raise ImportError('half of it is missing')\n"


@pytest.fixture
def instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Make the next job server find code as img2dataset."""
    close_img2dataset()
    yield lambda code: monkeypatch.setenv("PYTHONPATH", str(fake_img2dataset(tmp_path, code)))
    close_img2dataset()


def good(server: HostileServer, count: int = 4) -> list[str]:
    return [server.url(f"/ok/{number}.jpg") for number in range(count)]


def hanging(server: HostileServer) -> list[str]:
    return [server.url(f"/hang/{number}.jpg") for number in range(4)]


def shards_of(folder: Path, urls: list[str], stall_s: float = 60.0) -> list[int]:
    """The raw shards of one job, whose only sign of progress is themselves."""
    return list(download_raw_shards(job(folder, urls), lambda: 0.0, stall_s))


@pytest.mark.parametrize("code", [LIAR, QUITTER, FAINTER], ids=["a truncated tar", "nothing at all", "an exception"])
def test_exit_codes_are_not_believed(tmp_path: Path, instead: Callable[[str], None], code: str) -> None:
    instead(code)
    with HostileServer() as server:
        pairs = pairs_in(tmp_path / "pairs", [(url, "t") for url in good(server)])
        with pytest.raises(StageError, match=r"could not finish these 4 URLs in 3 attempts"):
            download(tmp_path, spec_for(server), pairs)
    assert not list(tmp_path.glob("store/*/*/*.tar"))
    assert jobs_now() == []


@pytest.mark.parametrize(
    ("code", "ended", "words"),
    [(QUITTER, "exit code 0", "nothing to see here"), (FAINTER, "exit code 1", "MemoryError: no room for this"),
     (BROKEN, "with its process", "ImportError: half of it is missing")],
    ids=["it leaves", "it raises", "it cannot be imported"],
)  # fmt: skip
def test_the_end_of_img2datasets_log_is_reported(
    tmp_path: Path, instead: Callable[[str], None], caplog: pytest.LogCaptureFixture, code: str, ended: str, words: str
) -> None:
    instead(code)
    caplog.set_level("INFO", "zscir")
    assert shards_of(tmp_path / "job", ["http://127.0.0.1:9/"] * 2) == []
    assert f"ended early ({ended})" in caplog.text
    assert words in caplog.text


def test_a_job_whose_worker_was_killed_is_ended_when_it_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """img2dataset itself would wait for the dead worker for ever."""
    monkeypatch.setenv("ZSCIR_DOWNLOAD_PROCESSES", "2")
    with HostileServer() as server:
        shards = download_raw_shards(job(tmp_path, hanging(server), shards=2), lambda: progress_until_kill(server), 1.0)
        assert list(shards) == []
        assert len(server.requests) == 4
    assert jobs_now() == []


def progress_until_kill(server: HostileServer) -> float:
    """Progress until both workers have sent requests; then one of them is killed and there is none."""
    if len(server.requests) < 4:
        return time.monotonic()
    workers = the_job_server().children()[0].children()
    if len(workers) == 2:
        workers[0].kill()
    return 0.0


def test_a_job_of_one_process_that_is_killed_ends_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, measured: Measured
) -> None:
    caplog.set_level("INFO", "zscir")
    with HostileServer() as server, ThreadPoolExecutor(1) as pool:
        result = pool.submit(shards_of, tmp_path, hanging(server), 600.0)
        wait_for(lambda: server.requests)
        [process] = jobs_now()
        os.kill(process, signal.SIGKILL)
        killed_at = time.monotonic()
        assert result.result(20) == []
        reported_s = time.monotonic() - killed_at
    assert f"exit code -{signal.SIGKILL:d}" in caplog.text
    measured(FAULT, f"reported {reported_s:.2f} s after the kill")


def test_a_download_whose_img2dataset_is_killed_fetches_that_chunk_once_more_and_loses_nothing(
    tmp_path: Path, measured: Measured
) -> None:
    with HostileServer() as server, ThreadPoolExecutor(1) as pool:
        urls = [*good(server, 7), server.url("/gated/7.jpg")]
        pairs = pairs_in(tmp_path / "pairs", [(url, "t") for url in urls])
        made = pool.submit(download, tmp_path, spec_for(server, chunk_rows=4, deadline_s=60.0), pairs)
        wait_for(lambda: "gated" in str(server.paths()))
        [process] = wait_for(jobs_now)  # the gateway may fetch before img2dataset is there
        os.kill(process, signal.SIGKILL)
        server.gate.set()
        assert made.result(120).facts["ok"] == len(urls)
        requested = Counter(path for path in server.paths() if path != "/robots.txt")
    again = requested.total() - len(urls)
    assert again <= 4
    measured(FAULT, f"1 kill: {len(urls)} of {len(urls)} images, requests made again: {again}, at most 4 may be")


def test_leaving_early_ends_all_processes_of_the_job_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZSCIR_DOWNLOAD_PROCESSES", "2")
    with HostileServer() as server:
        shards = download_raw_shards(
            job(tmp_path, hanging(server), shards=2), lambda: leave_progress_until_kill(server), 600.0
        )
        with pytest.raises(KeyboardInterrupt):
            next(shards)
        assert jobs_now() == []
        before = the_job_server().pid
        assert shards_of(tmp_path / "next", good(server)) == [0]
        assert the_job_server().pid == before


def leave_progress_until_kill(server: HostileServer) -> float:
    if server.requests:
        assert len(jobs_now()) == 3  # img2dataset and its two workers
        raise KeyboardInterrupt
    return time.monotonic()


def test_jobs_run_at_the_same_time_and_one_that_stands_still_is_ended_alone(tmp_path: Path) -> None:
    others_done = threading.Event()
    with HostileServer() as server, ThreadPoolExecutor(5) as pool:
        progress_at = lambda: 0.0 if others_done.is_set() else time.monotonic()  # noqa: E731
        stuck = pool.submit(list, download_raw_shards(job(tmp_path / "stuck", hanging(server)), progress_at, 0.5))
        wait_for(lambda: server.requests)
        [stuck_process] = jobs_now()
        gated = [server.url(f"/gated/{number}.jpg") for number in range(4)]
        others = [pool.submit(shards_of, tmp_path / f"{number}", gated) for number in range(4)]
        wait_for(lambda: str(server.paths()).count("gated") == 16)
        assert len(jobs_now()) == 5
        server.gate.set()
        assert [other_job.result(60) for other_job in others] == [[0]] * 4
        assert jobs_now() == [stuck_process]
        others_done.set()
        assert stuck.result(60) == []
    assert jobs_now() == []


def test_a_killed_job_server_ends_its_jobs_early_and_the_next_one_is_new(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "zscir")
    with HostileServer() as server, ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(shards_of, tmp_path / f"{number}", hanging(server), 600.0) for number in range(2)]
        wait_for(lambda: len(server.requests) == 8)
        killed = the_job_server()
        assert len(jobs_now()) == 2
        killed.kill()
        assert [job.result(20) for job in jobs] == [[], []]
        wait_for(lambda: session_of(killed) == [], 20)
        assert caplog.text.count("ended early (with its process)") == 2
        assert shards_of(tmp_path / "next", good(server)) == [0]
        assert the_job_server().pid != killed.pid

        killed = the_job_server()
        killed.kill()  # while nobody needs it
        wait_for(lambda: not killed.is_running() or killed.status() == psutil.STATUS_ZOMBIE)
        assert shards_of(tmp_path / "after", good(server)) == [0]


def test_a_job_server_outlives_the_thread_that_needed_it_first(tmp_path: Path) -> None:
    """Linux would take the end of the thread that started it for the end of its parent."""
    close_img2dataset()
    with HostileServer() as server:
        thread = threading.Thread(target=shards_of, args=(tmp_path / "first", good(server)))
        thread.start()
        thread.join()
        job_server = the_job_server()
        assert shards_of(tmp_path / "second", good(server)) == [0]
        assert the_job_server() == job_server


def test_many_jobs_leave_no_file_no_thread_no_process_and_no_memory(tmp_path: Path) -> None:
    with HostileServer() as server:
        shards_of(tmp_path / "first", good(server))
        job_server, ours = the_job_server(), psutil.Process()
        before = (ours.num_fds(), threading.active_count(), job_server.num_fds(), job_server.memory_info().rss)
        for number in range(10):
            assert shards_of(tmp_path / f"{number}", good(server)) == [0]
        wait_for(lambda: ours.num_fds() <= before[0], 10)  # the server, in this process, closes its ends a little later
        after = (ours.num_fds(), threading.active_count(), job_server.num_fds(), job_server.memory_info().rss)
    assert after[:3] == before[:3]
    assert after[3] < before[3] + 2_000_000
    assert job_server.num_threads() == 1  # it forks
    assert jobs_now() == []


def test_workers_are_bounded_by_cores_shards_and_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert download_processes(1) == 1
    assert download_processes(10_000) == os.cpu_count()
    monkeypatch.setenv("ZSCIR_DOWNLOAD_PROCESSES", "3")
    monkeypatch.setenv("ZSCIR_DOWNLOAD_THREADS", "5")
    assert (download_processes(2), download_processes(9), download_threads()) == (2, 3, 5)
    monkeypatch.setenv("ZSCIR_DOWNLOAD_PROCESSES", "many")
    monkeypatch.setenv("ZSCIR_DOWNLOAD_THREADS", "0")
    assert (download_processes(10_000), download_threads()) == (os.cpu_count(), 64)
