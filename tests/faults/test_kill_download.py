"""A download that is killed by force at random points: nothing is lost, a chunk per worker is fetched twice at most.

``make faults`` kills ten times, ``make test`` three times; ``ZSCIR_TEST_KILLS`` says otherwise.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from tests.faults.downloads import download, pairs_in, spec_for
from tests.faults.hostile_server import HostileServer
from tests.faults.matrix import Measured
from tests.faults.test_download_crashes import REPO, all_gone, family, finished_chunks, wait_for, write_spec

KILLS = int(os.environ.get("ZSCIR_TEST_KILLS", "3"))
WORKERS = 2
CHUNK_ROWS = 12
CHILD = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tests.faults.downloads import download
from zscir.store.artifacts import Artifact
from zscir.data.download.specs import DownloadSpec
from zscir.pipeline.stage import run_chunk

def two_at_once(store, chunks):
    with ThreadPoolExecutor(2) as pool:
        yield from pool.map(lambda chunk: run_chunk(store, chunk), chunks)

folder = Path(sys.argv[1])
download(folder, DownloadSpec.load(folder / "download.toml"), Artifact.of_folder(folder / "pairs"), two_at_once)
"""


def start(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", CHILD, folder], cwd=REPO)


def kill_once(folder: Path, server: HostileServer, rng: random.Random) -> bool:
    """Go on with the download and kill it by force some time after its first request; False if it ended before."""
    requests_before, chunks = len(server.requests), finished_chunks(folder)
    child = start(folder)
    wait_for(lambda: len(server.requests) > requests_before or child.poll() is not None)
    time.sleep(rng.uniform(0, 1.5))
    if child.poll() is not None:
        return False
    workers = family(child)
    child.send_signal(signal.SIGKILL)
    child.wait()
    wait_for(lambda: all_gone(workers), 20)
    assert finished_chunks(folder) >= chunks
    return True


def test_kills_at_random_points_lose_nothing_and_repeat_a_chunk_per_worker(tmp_path: Path, measured: Measured) -> None:
    rng = random.Random(2026)
    with HostileServer() as server:
        urls = [server.url(f"/ok/{number}.jpg?row") for number in range(40 * (KILLS + 1))]
        pairs = pairs_in(tmp_path / "pairs", [(url, "t") for url in urls])
        spec = spec_for(server, chunk_rows=CHUNK_ROWS, deadline_s=30.0)
        write_spec(tmp_path, spec)
        killed = [kill_once(tmp_path, server, rng) for _ in range(KILLS)]
        made = download(tmp_path, spec, pairs)
        times = Counter(server.paths())
        (tmp_path / "undisturbed").mkdir()
        undisturbed = download(tmp_path / "undisturbed", spec, pairs)
    assert all(killed), "the download ended before it could be killed so often"
    assert made.digests() == undisturbed.digests()
    assert made.facts["ok"] == len(urls)
    again, most = sum(count - 1 for count in times.values()), KILLS * WORKERS * CHUNK_ROWS
    assert again <= most
    measured(
        "kill -9 of a download by two workers, at random moments",
        f"{KILLS} kills: {made.facts['ok']} of {len(urls)} images, digests as undisturbed, "
        f"requests made again: {again}, at most {most} may be",
    )
