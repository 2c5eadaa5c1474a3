"""Figures of speed: a BENCH line for each, and all of them in bench.json. A missed target fails nothing; it is seen."""

import json
import sys
from pathlib import Path
from typing import Any, Protocol

import pytest

BENCH_JSON = Path("bench.json")  # in the folder in which `make bench` runs
FIGURES = pytest.StashKey[list[dict[str, Any]]]()


class Figure(Protocol):
    """Report one measured number; ``op`` is ``>=`` or ``<=``, ``n`` how often it was measured."""

    def __call__(
        self, name: str, value: float, op: str, target: float, unit: str, n: int = 1, note: str = ""
    ) -> None: ...


@pytest.fixture
def figure(pytestconfig: pytest.Config) -> Figure:
    figures = pytestconfig.stash.setdefault(FIGURES, [])

    def report(name: str, value: float, op: str, target: float, unit: str, n: int = 1, note: str = "") -> None:
        value = float(f"{value:.4g}")
        sys.stdout.write(
            f"\nBENCH {name} {value:g} {op} {target:g} {unit}\n"
        )  # pytest puts its dot behind what a test wrote
        figures.append({"name": name, "value": value, "op": op, "target": target, "unit": unit, "n": n, "note": note})

    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    if figures := session.config.stash.get(FIGURES, []):
        BENCH_JSON.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
