"""The house: imports go down only, siblings are blind, files stay small, names say something, a start is quick."""

import ast
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
LONGEST_FILE = 350
IMPORT_LIMIT_S = 0.2
HELP_LIMIT_S = 1.0

# Floor -> groups; a module belongs to the group with the longest matching name. A new module needs a place here.
FLOORS = {
    0: ("zscir", "zscir.torchvision_guard"),
    1: ("zscir.errors", "zscir.specs", "zscir.records", "zscir.settings", "zscir.progress", "zscir.breakages",
        "zscir.warden", "zscir.partitions", "zscir.listing", "zscir.limits", "zscir.pools", "zscir.bounds",
        "zscir.sizes"),
    2: ("zscir.artifacts", "zscir.store", "zscir.store_problems", "zscir.patience", "zscir.conditional",
        "zscir.leases", "zscir.locks", "zscir.holding", "zscir.uploads", "zscir.digests",
        "zscir.clocks", "zscir.claims", "zscir.inventory"),
    3: ("zscir.stage", "zscir.retries", "zscir.alarms", "zscir.pieces", "zscir.lineage", "zscir.doctor",
        "zscir.retention", "zscir.reclaiming", "zscir.leftovers", "zscir.clearing", "zscir.verifying"),
    4: ("zscir.methods", "zscir.benchmarks", "zscir.llm",
        "zscir.shards", "zscir.images", "zscir.tabletop", "zscir.fetch", "zscir.selection", "zscir.phash",
        "zscir.measures"),
    5: ("zscir.gates", "zscir.training", "zscir.fingerprints",
        "zscir.evaluation"),  # in evaluation methods and benchmarks meet
    6: ("zscir.stages", "zscir.pipelines", "zscir.plans", "zscir.runs", "zscir.walks",
        "zscir.backfills", "zscir.inspection", "zscir.estimates", "zscir.budgets", "zscir.piecework",
        "zscir.plan_tokens", "zscir.dispatch"),
    7: ("flows", "zscir.report"),
    8: ("zscir.cli", "zscir.commands", "zscir.console"),
}  # fmt: skip
GROUPS = {group: floor for floor, groups in FLOORS.items() for group in groups}
BLIND_FROM = 4  # below, what is on one floor may know its neighbours
NEIGHBOURS = {
    ("zscir.fetch", "zscir.tabletop"),  # the tabletop world serves itself while it is fetched
    ("zscir.fetch", "zscir.images"),  # what is fetched is looked at before it is kept,
    ("zscir.fetch", "zscir.shards"),  # and kept in shards
    ("zscir.shards", "zscir.images"),
    ("zscir.methods", "zscir.images"),  # one decoder, with one limit, for strangers' bytes
    ("zscir.plans", "zscir.pipelines"),  # four rooms of one flat: a pipeline is planned, run, walked
    ("zscir.runs", "zscir.pipelines"),
    ("zscir.runs", "zscir.plans"),
    ("zscir.runs", "zscir.inspection"),  # what a step made is looked at before the next one reads it
    ("zscir.inspection", "zscir.pipelines"),
    ("zscir.inspection", "zscir.plans"),
    ("zscir.estimates", "zscir.plans"),  # what a planned step will take,
    ("zscir.budgets", "zscir.estimates"),  # whether the run may still take it,
    ("zscir.plan_tokens", "zscir.pipelines"),  # and whether it is the plan that was looked at
    ("zscir.plan_tokens", "zscir.plans"),
    ("zscir.piecework", "zscir.budgets"),
    ("zscir.runs", "zscir.piecework"),
    ("zscir.dispatch", "zscir.piecework"),  # a step that another machine makes: asked for by the run, cut by the worker
    ("zscir.runs", "zscir.dispatch"),
    ("zscir.runs", "zscir.budgets"),
    ("zscir.runs", "zscir.estimates"),
    ("zscir.walks", "zscir.plan_tokens"),
    ("zscir.walks", "zscir.pipelines"),
    ("zscir.walks", "zscir.plans"),
    ("zscir.walks", "zscir.runs"),
    ("zscir.backfills", "zscir.pipelines"),
    ("zscir.backfills", "zscir.plans"),
    ("zscir.backfills", "zscir.walks"),
    ("flows", "zscir.report"),  # the score table and the report's place are shown on Prefect's page
    ("zscir.cli", "zscir.console"),
    ("zscir.cli", "zscir.commands"),  # what several commands share, and commands with a module of their own
    ("zscir.commands", "zscir.console"),
}

# Third-party package -> the only modules that may import it.
KEEPERS = {
    "prefect": ("flows", "flows.*", "zscir.cli"),
    "open_clip": ("zscir.methods.towers*", "zscir.methods.tokenizer"),  # the tokenizer is half of a tower
    "transformers": ("zscir.llm.*", "zscir.methods.towers*"),
    "img2dataset": ("zscir.fetch.engine", "zscir.stages.download"),  # run as a process of its own
    "torch": ("zscir.methods.*", "zscir.training.*", "zscir.evaluation.*", "zscir.stages.*", "zscir.llm.*"),
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


def sources() -> list[Path]:
    return sorted(path for top in ("zscir", "flows") for path in (REPO / top).rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(REPO).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in sources()}


def imports_of(module: str, path: Path) -> Iterator[str]:
    """Full names that a module imports, at its top or inside a function; ``from a import b`` is a.b if that is one."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{origin}.{alias.name}"
                yield inner if inner in MODULES else origin


IMPORTS = {module: sorted(set(imports_of(module, path))) for module, path in MODULES.items()}
OWN_IMPORTS = {
    module: [name for name in names if name.split(".")[0] in {"zscir", "flows"}] for module, names in IMPORTS.items()
}


def group_of(module: str) -> str:
    parts = module.split(".")
    names = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return next((name for name in names if name in GROUPS and (name != "zscir" or module == "zscir")), "")


def test_imports_are_found_wherever_they_stand(tmp_path: Path) -> None:
    late = "def late():\n    from . import stage\n    from .llm.answer import Answer\n"
    (tmp_path / "made.py").write_text(f"import torch.nn\nfrom zscir import errors\n{late}")
    found = sorted(imports_of("zscir.made", tmp_path / "made.py"))
    assert found == ["torch.nn", "zscir.errors", "zscir.llm.answer", "zscir.stage"]


def test_every_module_has_a_floor() -> None:
    assert [module for module in MODULES if not group_of(module)] == []


def test_imports_go_down_only() -> None:
    wrong = []
    for module in MODULES:
        own = group_of(module)
        for name in OWN_IMPORTS[module]:
            other = group_of(name)
            level = GROUPS[own] == GROUPS[other] and (GROUPS[own] < BLIND_FROM or (own, other) in NEIGHBOURS)
            if other != own and not level and GROUPS[other] >= GROUPS[own]:
                wrong.append(f"{module} (floor {GROUPS[own]}) imports {name} (floor {GROUPS[other]})")
    assert wrong == []


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
    assert [module for module, names in OWN_IMPORTS.items() if "zscir.fetch.engine" in names] == []


def test_data_specs_hold_no_code() -> None:
    assert [str(path) for path in (REPO / "data_specs").rglob("*.py")] == []


def test_a_file_fits_in_a_head() -> None:
    lines = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in MODULES.items()}
    assert {module: count for module, count in lines.items() if count > LONGEST_FILE} == {}


def test_a_module_name_says_what_is_in_it() -> None:
    assert [module for module in MODULES if BANNED_NAMES & set(module.split("."))] == []


def tree_of_readme(text: str) -> list[str]:
    """Paths in the fenced block that holds ``zscir/``: one name a line, folders end in /, depth is the column.

    What follows a name is free text. A folder with nothing below it stands for all that it holds.
    """
    blocks = [
        block
        for block in re.findall(r"```[a-z]*\n(.*?)```", text, re.DOTALL)
        if re.search(r"^\W*zscir/", block, re.MULTILINE)
    ]
    assert blocks, "README.md has no fenced file tree with zscir/ in it"
    above: list[tuple[int, str]] = []
    found = []
    for line in blocks[0].splitlines():
        match = re.search(r"[\w.][\w./-]*", line)
        if match is None or (line[: match.start()].strip(" │├└─|`-") != ""):
            continue
        above = [(column, name) for column, name in above if column < match.start()]
        path = "".join(name for _, name in above) + match.group()
        if match.group().endswith("/"):
            above.append((match.start(), match.group()))
        found.append(path)
    return found


def test_a_tree_is_read_by_its_columns() -> None:
    package = "zscir/\n├── cli.py    words\n└── llm/\n    └── answer.py\n"
    text = f"```\nMakefile      start here\n{package}flows/  of Prefect\n  steps.py\n```\n"
    assert tree_of_readme(text) == [
        "Makefile", "zscir/", "zscir/cli.py", "zscir/llm/", "zscir/llm/answer.py", "flows/", "flows/steps.py",
    ]  # fmt: skip


def test_the_file_tree_in_the_readme_is_true() -> None:
    readme = REPO / "README.md"
    if not readme.is_file():
        pytest.skip("no README.md yet")
    listed = tree_of_readme(readme.read_text(encoding="utf-8"))
    assert [path for path in listed if not (REPO / path).exists()] == []
    closed = {
        path for path in listed if path.endswith("/") and not any(one.startswith(path) for one in listed if one != path)
    }
    files = [path.relative_to(REPO).as_posix() for path in sources() if path.name != "__init__.py"]
    assert [path for path in files if path not in listed and not path.startswith(tuple(closed))] == []


def ask_child(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_zscir_is_quick() -> None:
    code = "import time; t = time.perf_counter(); import zscir; print(time.perf_counter() - t)"
    assert min(float(ask_child(code)) for _ in range(5)) < IMPORT_LIMIT_S


def test_help_comes_at_once() -> None:
    times_s = []
    for _ in range(5):
        start = time.perf_counter()
        ask_child("import sys; sys.argv = ['zscir', '--help']; from zscir.cli import main; main()")
        times_s.append(time.perf_counter() - start)
    assert min(times_s) < HELP_LIMIT_S


@pytest.mark.parametrize("module", ["zscir.cli", "zscir.breakages", "zscir.doctor"])
def test_importing_the_face_brings_no_heavy_package(module: str) -> None:
    heavy = (
        "{'torch', 'torchvision', 'prefect', 'pandas', 'pyarrow', 'open_clip', 'transformers', 'duckdb', 'matplotlib'}"
    )
    assert ask_child(f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))") == "[]"


def test_the_benchmarks_need_no_torch() -> None:
    assert ask_child("import sys, zscir.benchmarks; print('torch' in sys.modules)") == "False"
