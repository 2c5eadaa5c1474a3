"""The download stage beside bare img2dataset: the same 2,000 pictures of a loopback server to the same pixels.

Both run as whole commands, in turn, with the same settings and the same compiled bytecode, and must store the same
images. A run over a few URLs beside each tells what is start-up and what is work. What counts are the ratios.
"""

import json
import os
import ssl
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.bench.conftest import Figure
from tests.faults.downloads import pairs_in
from zscir.data.download.img2dataset_client import close_img2dataset
from zscir.data.download.img2dataset_job import Img2datasetJob, download_raw_shards

REPO = Path(__file__).resolve().parents[2]
URLS, FEW = 2_000, 20
CHUNK_ROWS = 500
PICTURES = 200
PROCESSES = min(2, os.cpu_count() or 1)
THREADS = 64
PIXELS = {"resize_mode": "keep_ratio", "image_size": 256}
QUALITY = 92
SMALL_JOB_S = 0.5

BARE = "import json, sys; from img2dataset import download; download(**json.loads(sys.argv[1]))"
STAGE = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from zscir.store.artifacts import Artifact
from zscir.runtime.settings import Settings
from zscir.pipeline.stage import run_chunk, materialize, stage_named
from zscir.store.store import open_store

def mapper(store, pieces):
    with ThreadPoolExecutor(int(workers)) as pool:
        yield from pool.map(partial(run_chunk, store), pieces)

folder, workers, spec = sys.argv[1:]
stage = stage_named("download")
asked = stage.spec_type.parse(json.loads(spec), "bench")
store = open_store(Settings(f"{folder}/store", Path(folder) / "cache"))
made = materialize(store, stage, asked, {"pairs": Artifact.of_folder(f"{folder}/pairs")}, mapper)
print(made.artifact.path("images.parquet"))
"""


@dataclass
class Cost:
    """Seconds that a command took."""

    wall: list[float]
    cpu: list[float]

    def medians(self) -> tuple[float, float]:
        return statistics.median(self.wall), statistics.median(self.cpu)


@contextmanager
def pictures(*certificate: Path) -> Iterator[list[str]]:
    """A server of pictures; yields its ports (http, and https if it has a certificate) and their mean size in kB."""
    command = [sys.executable, "-m", "tests.bench.picture_server", str(PICTURES), *map(str, certificate)]
    with subprocess.Popen(command, cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield server.stdout.readline().split()
        server.communicate()


def self_signed(folder: Path) -> tuple[Path, Path, Path]:
    """A certificate for 127.0.0.1, its key, and a file of all that this machine trusts and this certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    start = datetime.now(UTC) - timedelta(days=1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, start, start + timedelta(days=9))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), False)
    ours = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    (folder / "cert.pem").write_bytes(ours)
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    trusted = map(ssl.DER_cert_to_PEM_cert, ssl.create_default_context().get_ca_certs(binary_form=True))
    (folder / "trusted.pem").write_text("".join(trusted) + ours.decode())
    return folder / "cert.pem", folder / "key.pem", folder / "trusted.pem"


def environment(scratch: Path, trusted: Path | None) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    env |= {"PYTHONPYCACHEPREFIX": str(scratch / "bytecode"), "PYTHONPATH": str(REPO), "NO_ALBUMENTATIONS_UPDATE": "1",
            "ZSCIR_DOWNLOAD_PROCESSES": str(PROCESSES), "ZSCIR_DOWNLOAD_THREADS": str(THREADS)}  # fmt: skip
    return env | ({"SSL_CERT_FILE": str(trusted)} if trusted else {})


def bare(folder: Path, port: str) -> list[str]:
    """The command that downloads the pairs of ``folder`` with img2dataset alone."""
    del port
    arguments = {
        "url_list": str(folder / "pairs" / "pairs.parquet"), "input_format": "parquet", "url_col": "url",
        "caption_col": "text", "output_folder": str(folder / "bare"), "output_format": "webdataset",
        "processes_count": PROCESSES, "thread_count": THREADS, "number_sample_per_shard": CHUNK_ROWS,
        "resize_only_if_bigger": True, "encode_quality": QUALITY, "extract_exif": False, **PIXELS,
    }  # fmt: skip
    return ["-c", BARE, json.dumps(arguments)]


def staged(folder: Path, port: str) -> list[str]:
    """The command that downloads the pairs of ``folder`` with the stage."""
    spec = {"chunk_rows": CHUNK_ROWS, "allow_hosts": [f"127.0.0.1:{port}"], "per_host": THREADS, "quality": QUALITY}
    return ["-c", STAGE, str(folder), str(PROCESSES), json.dumps(spec | PIXELS)]


def clocked(command: list[str], env: dict[str, str]) -> tuple[float, float, str]:
    """Wall and CPU seconds of a command with all its processes, and its last line."""
    begin = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen([sys.executable, *command], env=env, stdout=said, stderr=errors)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - begin
        errors.seek(0)
        assert child.returncode == 0, errors.read()[-3000:]
        said.seek(0)
        return wall, usage.ru_utime + usage.ru_stime, said.read().strip().split("\n")[-1]


def images_of_bare(folder: Path) -> set[str]:
    found = set()
    for path in folder.glob("bare/*.tar"):
        with tarfile.open(path) as tar:
            for member in tar:
                stream = tar.extractfile(member) if member.name.endswith(".jpg") else None
                found |= {sha256(stream.read()).hexdigest()} if stream else set()
    return found


def compare(scheme: str, port: str, rounds: int, scratch: Path, env: dict[str, str]) -> dict[str, float]:
    """Run both in turn over few and many URLs; print and return the ratios of ours to theirs."""
    costs = {(way, count): Cost([], []) for way in (bare, staged) for count in (FEW, URLS)}
    for number in range(-1, rounds):  # the first round compiles the bytecode, and does not count
        for count in (FEW, URLS) if number >= 0 else (FEW,):
            with tempfile.TemporaryDirectory(dir=scratch) as name:
                folder = Path(name)
                urls = [f"{scheme}://127.0.0.1:{port}/{picture}.jpg" for picture in range(count)]
                pairs_in(folder / "pairs", [(url, f"picture {url}") for url in urls])
                for way in (bare, staged):
                    wall, cpu, last = clocked(way(folder, port), env)
                    if number >= 0:
                        costs[way, count].wall.append(wall)
                        costs[way, count].cpu.append(cpu)
                stored = pq.read_table(last, columns=["status", "sha256"]).to_pydict()
                assert stored["status"] == ["ok"] * count
                assert set(stored["sha256"]) == images_of_bare(folder)
    return shown(scheme, costs)


def shown(scheme: str, costs: dict[Any, Cost]) -> dict[str, float]:
    lines, ratios = [], {}
    for place, what in enumerate(("wall", "CPU")):
        ours, theirs = (costs[way, URLS].medians()[place] for way in (staged, bare))
        ours_few, theirs_few = (costs[way, FEW].medians()[place] for way in (staged, bare))
        ours_each, theirs_each = ((ours - ours_few) / (URLS - FEW), (theirs - theirs_few) / (URLS - FEW))
        ratios |= {f"{what}": ours / theirs, f"{what} per image": ours_each / theirs_each}
        lines.append(
            f"{scheme:<5} {what:<4} stage {ours:5.1f} s, img2dataset {theirs:5.1f} s: {ours / theirs:.2f}x; "
            f"start-up {ours_few:.1f} and {theirs_few:.1f} s; "
            f"each image {1e3 * ours_each:.2f} and {1e3 * theirs_each:.2f} ms: {ours_each / theirs_each:.2f}x"
        )
    sys.stdout.write("\n" + "\n".join(lines) + "\n")
    return ratios


def test_http(tmp_path: Path, figure: Figure) -> None:
    with pictures() as (port, size):
        sys.stdout.write(f"\n{URLS} pictures of {size} kB on the mean, {PROCESSES} processes of {THREADS} threads")
        ratios = compare("http", port, 3, tmp_path, environment(tmp_path, None))
    figure("download_http_wall_vs_img2dataset", ratios["wall"], "<=", 1.10, "x", 3)
    figure("download_http_cpu_per_image_vs_img2dataset", ratios["CPU per image"], "<=", 1.10, "x", 3)


def test_https(tmp_path: Path, figure: Figure) -> None:
    """Up to Python 3.11 img2dataset makes a TLS context, and reads all the machine's certificates, for every image."""
    *certificate, trusted = self_signed(tmp_path)
    with pictures(*certificate) as (_, port, size):
        count = trusted.read_text().count("BEGIN")
        sys.stdout.write(f"\n{URLS} pictures of {size} kB, {count} trusted certificates, Python {sys.version[:6]}")
        ratios = compare("https", port, 2, tmp_path, environment(tmp_path, trusted))
    goal = 1 / 3 if sys.version_info < (3, 12) else 1.0
    figure("download_https_wall_vs_img2dataset", ratios["wall"], "<=", goal, "x", 2, f"{count} trusted certificates")
    figure("download_https_cpu_vs_img2dataset", ratios["CPU"], "<=", goal, "x", 2, f"{count} trusted certificates")


def test_a_small_job_on_a_warm_engine(tmp_path: Path, figure: Figure) -> None:
    """What every chunk costs beside its images: ten pictures, straight from their server."""
    times: list[float] = []
    with pictures() as (port, _):
        pq.write_table(pa.table({"url": [f"http://127.0.0.1:{port}/{n}.jpg" for n in range(10)]}), tmp_path / "urls")
        for number in range(11):
            job = Img2datasetJob(tmp_path / "urls", tmp_path / str(number), 10, 1, {"image_size": 256})
            begin = time.perf_counter()
            assert list(download_raw_shards(job, time.monotonic, 60.0)) == [0]
            times.append(time.perf_counter() - begin)
    close_img2dataset()
    note = f"10 URLs; the first job, which starts img2dataset, took {times[0]:.2f} s"
    figure("download_small_job", statistics.median(times[1:]), "<=", SMALL_JOB_S, "s", len(times) - 1, note)
