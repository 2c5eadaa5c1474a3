"""A download that is killed or interrupted: what is left, who is left, and how it goes on."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.faults.downloads import download, pairs_in, spec_for
from tests.faults.hostile_server import HostileServer
from tests.faults.matrix import Measured
from zscir.data.download.specs import DownloadSpec

REPO = Path(__file__).parents[2]
CHILD = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # the jobs of a shell may ignore it
from tests.faults.downloads import download
from zscir.store.artifacts import Artifact
from zscir.data.download.specs import DownloadSpec
folder = Path(sys.argv[1])
download(folder, DownloadSpec.load(folder / "download.toml"), Artifact.of_folder(folder / "pairs"))
"""


def write_spec(folder: Path, spec: DownloadSpec) -> None:
    lines = [f"{name} = {json.dumps(value)}" for name, value in spec.literals().items()]
    (folder / "download.toml").write_text("\n".join(lines))


def start(folder: Path, spec: DownloadSpec) -> subprocess.Popen[bytes]:
    write_spec(folder, spec)
    return subprocess.Popen([sys.executable, "-c", CHILD, folder], cwd=REPO)


def family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The living children of a process, and theirs."""
    return [child for child in psutil.Process(process.pid).children(recursive=True) if not gone(child)]


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def finished_chunks(folder: Path) -> int:
    return len(list(folder.glob("store/fetch_chunk/*/manifest.json")))


def wait_for(what: Any, timeout_s: float = 120.0) -> Any:
    give_up = time.monotonic() + timeout_s
    while not (found := what()):
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.05)
    return found


def all_gone(processes: list[psutil.Process]) -> bool:
    return all(gone(process) for process in processes)


def test_a_killed_download_resumes_with_the_unfinished_chunks_and_ends_with_the_same_bytes(
    tmp_path: Path, measured: Measured
) -> None:
    with HostileServer() as server:
        # In the order of the list: chunks are cut along it. The last URLs wait at the gate.
        urls = [server.url(f"/ok/{number}.jpg?row") for number in range(24)]
        urls += [server.url(f"/gated/{number}.jpg?row") for number in range(3)]
        pairs = pairs_in(tmp_path / "pairs", [(url, "t") for url in urls])
        spec = spec_for(server, chunk_rows=10, deadline_s=60.0)
        child = start(tmp_path, spec)
        wait_for(lambda: finished_chunks(tmp_path) >= 2 and "gated" in str(server.paths()))
        workers = wait_for(lambda: family(child))  # img2dataset
        child.send_signal(signal.SIGKILL)
        child.wait()
        wait_for(lambda: all_gone(workers), 20)
        kept = finished_chunks(tmp_path)
        assert not list(tmp_path.glob("store/download/*/manifest.json"))

        server.gate.set()
        requested = set(server.paths())
        before = len(server.requests)
        made = download(tmp_path, spec, pairs)
        twice = [path for path in server.paths()[before:] if path in requested]
        assert made.facts["ok"] == 27
        assert len(twice) <= 10  # one chunk: there was one worker
        assert finished_chunks(tmp_path) > kept

        (tmp_path / "undisturbed").mkdir()
        assert download(tmp_path / "undisturbed", spec, pairs).digests() == made.digests()

        before = len(server.requests)
        assert download(tmp_path, spec, pairs).outcome == "reused"
        assert len(server.requests) == before  # a finished download asks for nothing
    measured(
        "kill -9 of a download by two workers, at random moments",
        f"by one worker, 1 kill: 27 of 27 images, requests made again: {len(twice)}, at most 10 may be",
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_img2dataset_and_its_children_end_with_an_interrupted_download(
    tmp_path: Path, number: signal.Signals, measured: Measured
) -> None:
    with HostileServer() as server:
        pairs_in(tmp_path / "pairs", [(server.url("/hang/1.jpg"), "t")])
        child = start(tmp_path, spec_for(server, deadline_s=600.0))
        wait_for(lambda: server.requests)
        workers = wait_for(lambda: family(child))
        child.send_signal(number)
        signalled_at = time.monotonic()
        assert child.wait(20) != 0
        wait_for(lambda: all_gone(workers), 20)
        took_s = time.monotonic() - signalled_at
    measured(
        "SIGTERM, SIGINT of a run or a download",
        f"{number.name} of a download that hangs: {took_s:.1f} s until none of its processes was left",
    )
