import os
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the real annotations; the tests that need it are skipped where it is not."""
    folder = Path(os.environ.get("ZSCIR_SHARED", REPO.parent / "shared"))
    if not (folder / "annotations").is_dir():
        pytest.skip(f"no real annotations at {folder}; set ZSCIR_SHARED")
    return folder
