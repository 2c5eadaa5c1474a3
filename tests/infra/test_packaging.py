"""What is declared, pinned, shipped and set up: the project's files agree with each other and with the code."""

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

REPO = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())
CORE = [Requirement(line) for line in PROJECT["project"]["dependencies"]]
EXTRAS = {
    name: [Requirement(line) for line in lines]
    for name, lines in PROJECT["project"]["optional-dependencies"].items()
}  # fmt: skip
EVERYTHING = CORE + [one for lines in EXTRAS.values() for one in lines if one.name != "zscir"]  # not its own extras
LINES = [line for line in (REPO / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
PINS = dict(line.split("#")[0].strip().split("==") for line in LINES)
# Held at a version that is not simply the newest, each for a reason that stands beside it.
ODD = {
    "boto3",
    "dataclasses",
    "fastapi",
    "prefect",
    "python-dateutil",
    "sqlalchemy",
    "torch",
    "torchvision",
    "webdataset",
}
# Halves of another package's interface: what one imports to use the other.
COMES_WITH = {"markupsafe": "jinja2", "yarl": "aiohttp", "botocore": "boto3"}


def test_every_pin_is_exact_canonical_sorted_and_there_once() -> None:
    assert all(re.fullmatch(r"[a-z0-9-]+==[^\s+]+( +# .+)?", line) for line in LINES)
    names = [line.split("==")[0] for line in LINES]
    assert names == sorted(set(names))
    assert all(canonicalize_name(name) == name for name in names)


@pytest.mark.parametrize("requirement", EVERYTHING, ids=str)
def test_a_requirement_is_pinned_within_its_own_range(requirement: Requirement) -> None:
    assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)])


def test_an_odd_pin_has_its_reason_beside_it() -> None:
    assert [line for line in LINES if line.split("==")[0] in ODD and "#" not in line] == []


def test_the_build_tool_is_pinned_alike_in_both_places() -> None:
    assert PROJECT["build-system"]["requires"] == [f"hatchling=={PINS['hatchling']}"]


def test_what_is_installed_is_what_is_pinned() -> None:
    if not (Path(sys.prefix) / ".zscir-ready").is_file():
        pytest.skip("this environment was not made by infra/venv.sh")
    installed = {name: version(name).split("+")[0] for lines in packages_distributions().values() for name in lines}
    wrong = [
        f"{name} {found}"
        for name, found in sorted(installed.items())
        if Version(PINS.get(canonicalize_name(name), found)) != Version(found)
    ]
    # pip is the one that came with the Python; only the set-up without uv brings its own.
    assert [one for one in wrong if not one.startswith("pip ")] == []


def imported(folder: str) -> set[str]:
    """Top-level names of what the modules in a folder import."""
    found = set()
    for path in (REPO / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
    return found - sys.stdlib_module_names - {"zscir", "flows", "tests"}


def undeclared(folders: list[str], declared: list[Requirement]) -> list[str]:
    names = {canonicalize_name(one.name) for one in declared}
    owners = packages_distributions()
    wrong = []
    for module in sorted(set().union(*(imported(folder) for folder in folders))):
        owner = {canonicalize_name(COMES_WITH.get(module, name)) for name in owners.get(module, [module])}
        if not owner & names:
            wrong.append(f"{module} ({', '.join(sorted(owner))})")
    return wrong


def test_the_package_imports_only_what_it_declares() -> None:
    assert undeclared(["zscir", "flows"], CORE + EXTRAS["serve"]) == []


def test_the_tests_import_only_what_is_declared() -> None:
    assert undeclared(["tests"], EVERYTHING) == []


def test_the_wheel_holds_the_package_the_flows_and_the_specs_and_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    if not (REPO / "README.md").is_file():
        pytest.skip("no README.md yet")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=REPO, check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
        opened.extractall(tmp_path / "site")
    ours = [name for name in names if ".dist-info/" not in name]
    assert {name.split("/")[0] for name in ours} == {"zscir", "flows"}
    specs = {
        f"zscir/{path.relative_to(REPO).as_posix()}" for path in (REPO / "data_specs").rglob("*") if path.is_file()
    }
    assert {name for name in ours if name.startswith("zscir/data_specs/")} == specs
    sources = {path.relative_to(REPO).as_posix() for top in ("zscir", "flows") for path in (REPO / top).rglob("*.py")}
    assert sources <= set(ours)
    found = subprocess.run(
        [sys.executable, "-c", "from zscir.runtime.settings import data_specs; print(data_specs())"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert found.stdout.strip() == str(tmp_path / "site/zscir/data_specs")


@pytest.mark.parametrize(
    "target", ["help", "demo", "test", "check", "format", "bench", "faults", "fresh-test", "venv", "browser", "clean"]
)
def test_make_knows_the_target(target: str) -> None:
    subprocess.run(["make", "-n", target], cwd=REPO, check=True, capture_output=True)


def test_scripts_are_executable_and_end_on_the_tests() -> None:
    scripts = [REPO / ".ci/run", *(REPO / "infra").glob("*.sh")]
    assert [path.name for path in scripts if not os.access(path, os.X_OK)] == []
    assert (REPO / ".ci/run").read_text().splitlines()[-1] == "make test"


def test_the_licence_is_the_one_that_is_declared() -> None:
    assert "Apache License" in (REPO / "LICENSE").read_text()
    assert PROJECT["project"]["license"] == "Apache-2.0"
