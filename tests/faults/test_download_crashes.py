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

from tests.faults.downloads import files_in, pairs_in, spec_for
from tests.faults.hostile_server import HostileServer
from zscir.stages.download import DownloadSpec, download

REPO = Path(__file__).parents[2]
CHILD = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # the jobs of a shell may ignore it
from zscir.artifacts import Artifact
from zscir.stages.download import DownloadSpec, download
download(DownloadSpec.load(sys.argv[1]), pairs=Artifact.of_folder(sys.argv[2]), out=Path(sys.argv[3]))
"""


def start(folder: Path, spec: DownloadSpec, out: Path) -> subprocess.Popen[bytes]:
    lines = [f"{name} = {json.dumps(value)}" for name, value in spec.literals().items()]
    (folder / "download.toml").write_text("\n".join(lines))
    out.mkdir(exist_ok=True)
    return subprocess.Popen([sys.executable, "-c", CHILD, folder / "download.toml", folder / "pairs", out], cwd=REPO)


def engines(out: Path) -> list[psutil.Process]:
    """Living processes of img2dataset that work for ``out``, and their children."""
    found = []
    for process in psutil.process_iter():
        try:
            if "zscir.fetch.engine" in process.cmdline() and str(out) in " ".join(process.cmdline()):
                found += [process, *process.children(recursive=True)]
        except psutil.Error:
            continue
    return [process for process in found if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def wait_for(what: Any, timeout_s: float = 120.0) -> Any:
    give_up = time.monotonic() + timeout_s
    while not (found := what()):
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.05)
    return found


def all_gone(processes: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


def test_a_killed_download_goes_on_with_the_unfinished_chunks_and_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZSCIR_DOWNLOAD_PROCESSES", "1")  # the chunks come in their order
    with HostileServer() as server:
        kinds = ["ok", "ok", "gated"]  # of the three chunks; the last one waits at the gate
        urls = [server.url(f"/{kind}/{number}.jpg") for kind in kinds for number in range(10)]
        urls = [f"{url}?chunk={number // 10}" for number, url in enumerate(urls)]
        pairs = pairs_in(tmp_path / "pairs", [(url, "t") for url in urls])
        spec, out = spec_for(server, chunk_rows=10, deadline_s=60.0), tmp_path / "out"
        child = start(tmp_path, spec, out)
        wait_for(lambda: len(list(out.glob(".chunks/*.parquet"))) == 2 and "gated" in str(server.paths()))
        workers = engines(out)
        assert len(workers) >= 3  # img2dataset, its logger and its worker
        child.send_signal(signal.SIGKILL)
        child.wait()
        wait_for(lambda: all_gone(workers), 20)
        assert not engines(out)
        assert not (out / "images.parquet").exists()

        server.gate.set()
        before = len(server.requests)
        facts = download(spec, pairs=pairs, out=out)
        again = server.paths()[before:]
        assert facts["ok"] == 30
        assert len(again) == 10
        assert all("chunk=2" in path for path in again)

        undisturbed = tmp_path / "undisturbed"
        undisturbed.mkdir()
        monkeypatch.setenv("ZSCIR_DOWNLOAD_PROCESSES", "2")
        download(spec, pairs=pairs, out=undisturbed)
        assert files_in(out) == files_in(undisturbed)

        before = len(server.requests)
        assert download(spec, pairs=pairs, out=out) == facts
        assert len(server.requests) == before  # a finished download asks for nothing


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_img2dataset_and_its_children_end_with_an_interrupted_download(tmp_path: Path, number: signal.Signals) -> None:
    with HostileServer() as server:
        pairs_in(tmp_path / "pairs", [(server.url("/hang/1.jpg"), "t")])
        out = tmp_path / "out"
        child = start(tmp_path, spec_for(server, deadline_s=600.0), out)
        wait_for(lambda: server.requests)
        workers = engines(out)
        assert len(workers) >= 3
        child.send_signal(number)
        assert child.wait(20) != 0
        wait_for(lambda: all_gone(workers), 20)
