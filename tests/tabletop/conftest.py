import os
from pathlib import Path

import pytest

from tests.tabletop.worlds import BUILDERS, SPEC
from zscir.stages.tabletop_benchmarks import tabletop_benchmarks
from zscir.tabletop.exhibits import TabletopBenchmark

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the real annotations; the tests that need it are skipped where it is not."""
    folder = Path(os.environ.get("ZSCIR_SHARED", REPO.parent / "shared"))
    if not (folder / "annotations").is_dir():
        pytest.skip(f"no real annotations at {folder}; set ZSCIR_SHARED")
    return folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("benchmarks")
    tabletop_benchmarks(SPEC, out=out)
    return out


@pytest.fixture(scope="session")
def built() -> dict[str, TabletopBenchmark]:
    return {name: build(SPEC) for name, build in BUILDERS.items()}
