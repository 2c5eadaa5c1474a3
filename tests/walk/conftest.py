"""One small walk of the demo, made once, that every test of this folder looks at."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = {
    "tabletop.scenes": 500,
    "tabletop_benchmarks.fashioniq_queries": 20,
    "tabletop_benchmarks.fashioniq_gallery": 60,
    "tabletop_benchmarks.cirr_sets": 12,
    "tabletop_benchmarks.circo_queries": 20,
    "tabletop_benchmarks.circo_test_queries": 5,
    "tabletop_benchmarks.circo_gallery": 240,
    "tabletop_benchmarks.genecis_queries": 20,
    "validation.fashioniq_queries": 5,
    "validation.fashioniq_gallery": 30,
    "validation.cirr_sets": 8,
    "validation.circo_queries": 5,
    "validation.circo_gallery": 120,
    "validation.genecis_queries": 10,
    "train_pli.steps": 6,
    "train_tscir_map.steps": 6,
    "train_tscir_compose.steps": 6,
}  # fmt: skip
SETS = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]


@dataclass(frozen=True)
class Shell:
    """A folder with a store, and the ``zscir`` command in it as a user has it."""

    folder: Path

    def zscir(
        self, *words: str, timeout_s: float = 600, environment: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-c", "from zscir.cli.main import main; main()", *words]
        return self.run(command, timeout_s, environment or {})

    def run(
        self, command: Sequence[str], timeout_s: float, more: Mapping[str, str]
    ) -> "subprocess.CompletedProcess[str]":
        environment = {
            **os.environ,
            **more,
            "ZSCIR_STORE": str(self.folder / "zscir-store"),
            "PREFECT_HOME": str(self.folder / ".prefect"),
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "200",
        }
        environment.pop("PREFECT_API_URL", None)
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )


@pytest.fixture(scope="session")
def walked(tmp_path_factory: pytest.TempPathFactory) -> "tuple[Shell, subprocess.CompletedProcess[str]]":
    """The demo at a small size, walked once through Prefect."""
    shell = Shell(tmp_path_factory.mktemp("walk"))
    return shell, shell.zscir("demo", *SETS)
