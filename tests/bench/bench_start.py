"""How long a start takes on this machine: what a person waits for before anything happens."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
STARTS = {
    "an empty Python": "pass",
    "import zscir": "import zscir",
    "zscir --help": "import sys; sys.argv = ['zscir', '--help']; from zscir.cli.main import main; main()",
    "the benchmarks": "import zscir.benchmarks",
    "torch and torchvision, guarded": "import zscir, torchvision",
    "open_clip": "import zscir, open_clip",
    "prefect": "import zscir, prefect",
}


@pytest.mark.parametrize("name", STARTS)
def test_start(name: str) -> None:
    times_s = []
    for _ in range(3):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", STARTS[name]], cwd=REPO, check=True, capture_output=True)
        times_s.append(time.perf_counter() - begin)
    sys.stdout.write(f"\n{name:<32} first {times_s[0]:6.2f} s   best of 3 {min(times_s):6.2f} s")
