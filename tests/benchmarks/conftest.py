import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="session")
def recipes(shared: Path) -> ModuleType:
    """The golden cases' own recipe code, which makes their inputs."""
    found = importlib.util.spec_from_file_location("golden_recipes", shared / "golden" / "recipes.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def golden(shared: Path) -> Callable[[str], Any]:
    return lambda name: json.loads((shared / "golden" / f"{name}.json").read_text())


@pytest.fixture
def write_json(tmp_path: Path) -> Callable[[str, Any], Path]:
    def write(name: str, value: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        return path

    return write
