"""What becomes of an img2dataset that dies, stands still or lies. The liars are small packages of its name."""

import contextlib
import os
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.faults.downloads import files_in, pairs_in, spec_for
from tests.faults.hostile_server import HostileServer
from zscir.errors import StageError
from zscir.fetch.supervise import Job, processes, raw_shards, threads
from zscir.stages.download import download

# Leaves, as the real one does after SIGINT, a truncated tar beside a table and statistics, and exits with 0.
LIAR = """
import os, sys, pyarrow as pa, pyarrow.parquet as pq, urllib.request
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
QUITTER = "def download(**_): print('nothing to see here')\n"


def instead(monkeypatch: pytest.MonkeyPatch, folder: Path, code: str) -> None:
    """Let the child process find ``code`` as img2dataset."""
    package = folder / "instead" / "img2dataset"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from img2dataset import distributor, main\n" + code)
    (package / "distributor.py").write_text("")
    (package / "main.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))


def job(folder: Path, url: str) -> Job:
    pq.write_table(pa.table({"url": [url, url]}), folder / "urls.parquet")
    return Job(folder / "urls.parquet", folder / "raw", 2, 1, {"image_size": 64})


def children() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "zscir.fetch.engine" in " ".join(process.cmdline()):
                found.append(process)
    return found


@pytest.mark.parametrize("code", [LIAR, QUITTER], ids=["a truncated tar", "nothing at all"])
def test_exit_code_0_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    instead(monkeypatch, tmp_path, code)
    with HostileServer() as server:
        pairs = pairs_in(tmp_path / "pairs", [(server.url(f"/ok/{number}.jpg"), "t") for number in range(3)])
        out = tmp_path / "out"
        out.mkdir()
        with pytest.raises(StageError, match=r"could not finish the chunks \[0\] in 3 attempts"):
            download(spec_for(server), pairs=pairs, out=out)
    assert files_in(out) == {}
    assert not children()


def test_what_img2dataset_said_last_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    instead(monkeypatch, tmp_path, QUITTER)
    caplog.set_level("INFO", "zscir")
    assert list(raw_shards(job(tmp_path, "http://127.0.0.1:9/"), time.monotonic, 60.0)) == []
    assert "ended early" in caplog.text
    assert "nothing to see here" in caplog.text


def test_an_engine_whose_worker_was_killed_is_ended_when_it_stands_still(tmp_path: Path) -> None:
    """img2dataset itself would wait for the dead worker for ever."""
    with HostileServer() as server:
        shards = raw_shards(job(tmp_path, server.url("/hang/1.jpg")), lambda: when_asked(server), 2.0)
        assert list(shards) == []
        assert len(server.requests) == 2
    assert not children()


def when_asked(server: HostileServer) -> float:
    """News for as long as the engine starts; then its workers are killed and there is none."""
    if not server.requests:
        return time.monotonic()
    for engine in children()[:1]:
        for worker in engine.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()
    return 0.0


def test_leaving_early_ends_the_whole_process_group(tmp_path: Path) -> None:
    with HostileServer() as server:
        shards = raw_shards(job(tmp_path, server.url("/hang/1.jpg")), lambda: leave_when_asked(server), 600.0)
        with pytest.raises(KeyboardInterrupt):
            next(shards)
        assert not children()


def leave_when_asked(server: HostileServer) -> float:
    if server.requests:
        raise KeyboardInterrupt
    return time.monotonic()


def test_workers_are_bounded_by_cores_shards_and_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert processes(1) == 1
    assert processes(10_000) == os.cpu_count()
    monkeypatch.setenv("ZSCIR_DOWNLOAD_PROCESSES", "3")
    monkeypatch.setenv("ZSCIR_DOWNLOAD_THREADS", "5")
    assert (processes(2), processes(9), threads()) == (2, 3, 5)
    monkeypatch.setenv("ZSCIR_DOWNLOAD_PROCESSES", "many")
    monkeypatch.setenv("ZSCIR_DOWNLOAD_THREADS", "0")
    assert (processes(10_000), threads()) == (os.cpu_count(), 64)
