"""How long a start takes on this machine: what a person waits for before anything happens."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.bench.conftest import Figure

REPO = Path(__file__).resolve().parents[2]
ROUNDS = 5
# Name -> code and the most seconds it should take. An empty Python is measured to read the others by.
STARTS = {
    "start_python": ("pass", 0.1),
    "start_import_zscir": ("import zscir", 0.2),
    "start_zscir_help": ("import sys; sys.argv = ['zscir', '--help']; from zscir.cli.main import main; main()", 1.0),
    "start_benchmarks": ("import zscir.benchmarks", 1.0),
    "start_torch_torchvision": ("import zscir, torchvision", 10.0),
    "start_open_clip": ("import zscir, open_clip", 15.0),
    "start_prefect": ("import zscir, prefect", 5.0),
}


@pytest.mark.parametrize("name", STARTS)
def test_start(name: str, figure: Figure) -> None:
    code, most_s = STARTS[name]
    times_s = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], cwd=REPO, check=True, capture_output=True)
        times_s.append(time.perf_counter() - begin)
    figure(name, min(times_s), "<=", most_s, "s", ROUNDS, f"best of {ROUNDS}; the first took {times_s[0]:.2f} s")
