"""The house: imports go to a lower floor only, rooms of one floor are blind, no rings, files stay small."""

import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.house.imports import FLOOR_OF, IMPORTS, MODULES, OWN_IMPORTS, REPO, imports_of, rings, room_of

LONGEST_FILE = 350
MOST_ENTRIES = 20

# Third-party package -> the only modules that may import it.
KEEPERS = {
    "prefect": ("flows", "flows.*"),
    "open_clip": ("zscir.methods.towers*", "zscir.methods.tokenizer"),  # the tokenizer is half of a tower
    "transformers": ("zscir.llm.*", "zscir.methods.towers*"),
    "img2dataset": ("zscir.data.download.img2dataset_process", "zscir.stages.download"),  # run as a process of its own
    "torch": (
        "zscir.methods.*",
        "zscir.training.*",
        "zscir.evaluation.*",
        "zscir.stages.embed",
        "zscir.llm.transformers_backend",
    ),
    "torchvision": ("zscir.methods.*", "zscir.training.*"),
    "huggingface_hub": ("zscir.methods.towers*", "zscir.llm.*"),
    "timm": ("zscir.methods.towers*",),
    "py3langid": ("zscir.stages.filter_text",),
    "openai": ("zscir.llm.*",),
    "boto3": (),
    "botocore": (),
    "fastapi": (),
    "sqlalchemy": (),
    "pickle": (),
}
BANNED_NAMES = {"utils", "util", "common", "helpers", "helper", "misc", "base", "core"}


def test_imports_are_found_wherever_they_stand(tmp_path: Path) -> None:
    late = "def late():\n    from . import errors\n    from ..llm.answer import Answer\n"
    (tmp_path / "made.py").write_text(f"import torch.nn\nfrom zscir.store import store\n{late}")
    found = sorted(imports_of("zscir.runtime.made", tmp_path / "made.py"))
    assert found == ["torch.nn", "zscir.llm.answer", "zscir.runtime.errors", "zscir.store.store"]


def test_every_module_has_a_room_on_a_floor() -> None:
    assert [module for module in MODULES if module != "zscir" and room_of(module) not in FLOOR_OF] == []


def test_imports_go_to_a_lower_floor_only() -> None:
    wrong = [
        f"{module} (floor {FLOOR_OF[room_of(module)]}) imports {name} (floor {FLOOR_OF[room_of(name)]})"
        for module, names in OWN_IMPORTS.items()
        for name in names
        if module != "zscir" and room_of(name) != room_of(module)
        and FLOOR_OF[room_of(name)] >= FLOOR_OF[room_of(module)]
    ]  # fmt: skip
    assert wrong == []


def test_rings_are_found() -> None:
    edges = {"a": ["b"], "b": ["c", "d"], "c": ["a"], "d": ["e"], "e": [], "f": ["f"]}
    assert rings(edges) == [["a", "b", "c"], ["f"]]


def test_no_files_import_each_other_in_a_ring() -> None:
    assert rings(OWN_IMPORTS) == []


def test_the_package_has_few_entries() -> None:
    entries = [path.name for path in (REPO / "zscir").iterdir() if path.name not in {"__pycache__", "py.typed"}]
    assert len(entries) <= MOST_ENTRIES, sorted(entries)


def test_a_stage_never_imports_another_stage() -> None:
    wrong = [
        f"{module} imports {name}"
        for module in MODULES
        for name in OWN_IMPORTS[module]
        if module.startswith("zscir.stages.") and name.startswith("zscir.stages") and name != module
    ]
    assert wrong == []


@pytest.mark.parametrize("package", KEEPERS)
def test_a_heavy_or_foreign_package_is_imported_by_its_keepers_only(package: str) -> None:
    wrong = [
        module
        for module, names in IMPORTS.items()
        if package in {name.split(".")[0] for name in names}
        and not any(fnmatch(module, keeper) for keeper in KEEPERS[package])
    ]
    assert wrong == []


def test_nobody_imports_the_module_that_runs_img2dataset() -> None:
    assert [module for module, names in OWN_IMPORTS.items() if "zscir.data.download.img2dataset_process" in names] == []


def test_data_specs_hold_no_code() -> None:
    assert [str(path) for path in (REPO / "data_specs").rglob("*.py")] == []


def test_a_file_fits_in_a_head() -> None:
    lines = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in MODULES.items()}
    assert {module: count for module, count in lines.items() if count > LONGEST_FILE} == {}


def test_a_module_name_says_what_is_in_it() -> None:
    assert [module for module in MODULES if BANNED_NAMES & set(module.split("."))] == []


def ask_child(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("module", ["zscir.cli.main", "zscir.maintenance.known_conflicts", "zscir.maintenance.doctor"])
def test_importing_the_face_brings_no_heavy_package(module: str) -> None:
    heavy = (
        "{'torch', 'torchvision', 'prefect', 'pandas', 'pyarrow', 'open_clip', 'transformers', 'duckdb', 'matplotlib'}"
    )
    assert ask_child(f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))") == "[]"


@pytest.mark.parametrize("module", ["zscir.benchmarks", "zscir.report.page", "zscir.report.masked_examples"])
def test_what_needs_no_torch_does_not_import_it(module: str) -> None:
    assert ask_child(f"import sys, {module}; print('torch' in sys.modules)") == "False"
