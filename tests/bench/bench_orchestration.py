"""What orchestration costs: a thousand chunks of nothing made through Prefect, and the same found finished again.

The chunks are those of ``download``; only what happens inside one is replaced: nothing is fetched, every URL is
written down as failed, in a shard without an image. Snakemake, where it is installed (on the PATH, or
``ZSCIR_BENCH_SNAKEMAKE`` names it), looks at as many files that are up to date, side by side. Both run from bytecode,
as they do where they were installed.
"""

import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.bench.conftest import Figure

REPO = Path(__file__).resolve().parents[2]
MADE = """
import sys
from dataclasses import replace
from pathlib import Path
import zscir.stages.fetch_chunk as module
from zscir.data.download.merge_chunks import RECORD_SCHEMA
from zscir.data.download.chunks import read_chunk
from zscir.runtime.schemas import write_table

def nothing(spec, urls, out):
    targets = read_chunk(urls.path("urls.parquet"))
    rows = [vars(one) | {"status": "failed", "error_class": "dns", "attempts": 0} for one in targets]
    write_table(out / "record.parquet", RECORD_SCHEMA, rows)
    (out / "images.tar").write_bytes(b"")  # lent to the download, as that of a real read_chunk
    return {"rows": len(rows), "ok": 0, "failed_by_class": {"dns": len(rows)}}

module.fetch_chunk = replace(module.fetch_chunk, function=nothing)
from zscir.cli.main import main
main()
"""
PIPELINE = """
name = "nothing"
[[steps]]
stage = "ingest"
spec = { source = "nothing" }
inputs = { urls = "file:urls.csv" }
[[steps]]
stage = "download"
spec = { chunk_rows = 4 }
inputs = { pairs = "ingest" }
"""
RULES = """
rule all:
    input: expand("made/{n}.txt", n=range(%d))
rule one:
    output: "made/{n}.txt"
    shell: "echo x > {output}"
"""
ROWS = 1000  # each ends a chunk: with so few rows wanted, the cut by content falls after every one


def timed(*command: str, folder: Path, environment: dict[str, str]) -> float:
    begin = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return time.perf_counter() - begin


def pipeline_of(folder: Path, rows: int) -> Path:
    folder.mkdir()
    lines = ["url,text", *(f"http://nothing.invalid/{number},text {number}" for number in range(rows))]
    (folder / "urls.csv").write_text("\n".join(lines))
    (folder / "nothing.toml").write_text(PIPELINE)
    return folder / "nothing.toml"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    home = tmp_path_factory.mktemp("home")
    ours = ("PREFECT_", "ZSCIR_", "PYTHONDONTWRITEBYTECODE")
    keep = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**keep, "PREFECT_HOME": str(home), "ZSCIR_CACHE": str(home / "cache"), "PYTHONPATH": str(REPO)}


def test_a_thousand_chunks_of_nothing(tmp_path: Path, environment: dict[str, str], figure: Figure) -> None:
    walls = {}
    for rows in (2, ROWS):  # the smaller one gives what a start costs
        path = pipeline_of(tmp_path / str(rows), rows)
        command = (sys.executable, "-c", MADE, "run", str(path), "--store", str(path.parent / "store"))
        walls[rows] = timed(*command, folder=REPO, environment=environment)
    chunks = len(list((tmp_path / str(ROWS) / "store" / "fetch_chunk").glob("*/manifest.json")))
    each_ms = (walls[ROWS] - walls[2]) / chunks * 1000
    note = f"{chunks} chunks: {walls[ROWS]:.1f} s, {walls[2]:.1f} s of it the start"
    figure("chunk_overhead", each_ms, "<=", 30, "ms/chunk", chunks, note)
    locked = subprocess.run(
        ["grep", "-rl", "database is locked", environment["PREFECT_HOME"]], capture_output=True, text=True, check=False
    ).stdout
    figure(
        "prefect_database_locked", len(locked.splitlines()), "<=", 0, "files", note="logs of Prefect with that error"
    )

    finished = (sys.executable, "-c", "from zscir.cli.main import main; main()", *command[3:])
    snake = shutil.which(os.environ.get("ZSCIR_BENCH_SNAKEMAKE", "snakemake"))
    if snake is not None:
        _made_up_to_date(tmp_path / "snake", chunks)
    ours, theirs = [], []
    for _ in range(7):
        ours.append(timed(*finished, folder=REPO, environment=environment))
        if snake is not None:
            theirs.append(timed(snake, "--cores", "1", "-q", folder=tmp_path / "snake", environment=environment))
    figure("finished_run", statistics.median(ours), "<=", 5, "s", len(ours), f"{chunks} chunks, whole process")
    if theirs:
        ratio = statistics.median(mine / its for mine, its in zip(ours, theirs, strict=True))
        note = f"Snakemake takes {statistics.median(theirs):.2f} s"
        figure("finished_run_vs_snakemake", ratio, "<=", 0.5, "x", len(theirs), note)
    else:
        sys.stdout.write("\nSnakemake is not installed here: nothing to compare a finished run with")


def _made_up_to_date(folder: Path, count: int) -> None:
    (folder / "made").mkdir(parents=True)
    (folder / "Snakefile").write_text(RULES % count)
    for number in range(count):
        (folder / "made" / f"{number}.txt").write_text("x\n")
