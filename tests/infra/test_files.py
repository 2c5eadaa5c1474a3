"""Dockerfile and compose files: pinned, without secrets, not root, and true to the rest of the project."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

REPO = Path(__file__).resolve().parents[2]
INFRA = REPO / "infra"
DOCKERFILE = (INFRA / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((INFRA / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = ("server", "deploy", "worker")
VERSION = re.search(r'__version__ = "(.+)"', (REPO / "zscir/__init__.py").read_text()).group(1)  # type: ignore[union-attr]


def tool(name: str) -> str:
    """A program of this environment or the PATH; without it the test is skipped."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (hadolint and shellcheck come with the dev extra)")
    return found


def test_the_dockerfile_passes_hadolint() -> None:
    done = subprocess.run([tool("hadolint"), str(INFRA / "Dockerfile")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_shell_scripts_pass_shellcheck() -> None:
    scripts = [*map(str, sorted(INFRA.glob("*.sh"))), str(REPO / ".ci/run")]
    done = subprocess.run([tool("shellcheck"), *scripts], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_everything_the_image_copies_is_there_and_let_through() -> None:
    copied = {
        name
        for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
        for name in line.split()
    }  # fmt: skip
    ignored = (INFRA / "Dockerfile.dockerignore").read_text().splitlines()
    assert {name for name in copied if f"!{name}" not in ignored} == set()
    assert {name for name in copied if not (REPO / name).exists()} - {"README.md"} == set()


def test_the_image_takes_a_python_that_the_project_allows() -> None:
    wanted = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["requires-python"]
    (base,) = re.findall(r"^ARG BASE=python:3\.(\d+)-", DOCKERFILE, re.MULTILINE)
    assert (wanted, base) == (">=3.11,<3.15", "11")


def test_every_install_in_the_image_is_held_by_the_constraints() -> None:
    joined = DOCKERFILE.replace("\\\n", " ")
    installs = [part for line in joined.splitlines() for part in line.split("&&") if "pip install" in part]
    assert len(installs) == 3
    assert all("-c constraints.txt" in part for part in installs)


def test_the_image_does_not_run_as_root() -> None:
    users = re.findall(r"^USER (.+)$", DOCKERFILE, re.MULTILINE)
    assert users == ["10001"]
    assert DOCKERFILE.index("USER 10001") > DOCKERFILE.rindex("FROM ")


def test_the_image_has_the_version_of_the_package() -> None:
    assert {SERVICES[name]["image"] for name in OURS} == {f"zscir:{VERSION}"}
    assert f"-t zscir:{VERSION} " in DOCKERFILE


def test_every_other_image_has_a_version() -> None:
    images = {service["image"] for service in SERVICES.values()}
    assert all(re.search(r":[\w.-]*\d", image) and not image.endswith(":latest") for image in images)


def test_no_secret_stands_in_a_file_and_none_may_be_left_out() -> None:
    secret = re.compile(r"PASSWORD|AUTH|SECRET|KEY")
    for name, service in SERVICES.items():
        for key, value in service["environment"].items():
            if secret.search(key):
                assert re.fullmatch(r"\$\{[A-Z_]+(:\?.+|:-)\}", value), f"{name}: {key}"
    for line in (INFRA / "env.example").read_text().splitlines():
        assert line.startswith("#") or line.endswith("=")
    assert ".env" in (INFRA / ".gitignore").read_text().splitlines()


def test_the_example_names_every_setting_that_compose_reads() -> None:
    needed = set(re.findall(r"\$\{([A-Z_]+)", (INFRA / "compose.yaml").read_text()))
    given = {
        line.split("=")[0] for line in (INFRA / "env.example").read_text().splitlines() if not line.startswith("#")
    }
    assert needed == given


def test_only_the_server_is_published_and_only_to_this_machine() -> None:
    assert {name: service["ports"] for name, service in SERVICES.items() if "ports" in service} == {
        "server": ["127.0.0.1:4200:4200"]
    }


def test_our_containers_have_no_capabilities_and_a_first_process_that_passes_signals() -> None:
    for name in OURS:
        assert SERVICES[name]["cap_drop"] == ["ALL"]
        assert SERVICES[name]["security_opt"] == ["no-new-privileges:true"]
        assert SERVICES[name]["init"] is True


def test_the_worker_waits_for_the_deployments_and_they_are_registered_once() -> None:
    """`up --wait` takes an end for a failure unless a service that stays waits for it."""
    assert SERVICES["worker"]["depends_on"]["deploy"] == {"condition": "service_completed_successfully"}
    assert SERVICES["deploy"]["restart"].startswith("on-failure")
    pool = SERVICES["deploy"]["command"][SERVICES["deploy"]["command"].index("--pool") + 1]
    assert SERVICES["worker"]["command"][SERVICES["worker"]["command"].index("--pool") + 1] == pool


def test_volumes_are_declared_and_writable_for_the_user_of_the_image() -> None:
    used = [volume.split(":") for service in SERVICES.values() for volume in service.get("volumes", [])]
    assert {name for name, _ in used} == set(COMPOSE["volumes"])
    ours = {folder for name, folder in used if name != "database"}
    assert ours == {"/store", "/cache"}
    assert "install -d -o zscir -g zscir /store /cache" in DOCKERFILE


def test_the_gpu_file_changes_a_service_that_exists() -> None:
    gpu = yaml.safe_load((INFRA / "compose.gpu.yaml").read_text())
    assert set(gpu["services"]) <= set(SERVICES)
    assert SERVICES["worker"]["environment"]["ZSCIR_RANKS"] == "${ZSCIR_RANKS:-}"  # of several GPUs one would be used


def test_docker_itself_accepts_the_compose_files(tmp_path: Path) -> None:
    docker = tool("docker")
    if subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no docker compose on this machine")
    settings = tmp_path / "env"
    settings.write_text("POSTGRES_PASSWORD=a\nPREFECT_AUTH=a:b\n")
    files = ["-f", str(INFRA / "compose.yaml"), "-f", str(INFRA / "compose.gpu.yaml")]
    subprocess.run([docker, "compose", *files, "--env-file", str(settings), "config", "-q"], check=True)


def test_every_file_here_is_documented() -> None:
    readme = (INFRA / "README.md").read_text()
    names = [path.name for path in INFRA.iterdir() if not path.name.startswith(".")]
    hidden = {"README.md", "Dockerfile.dockerignore"}
    assert [name for name in sorted(names) if name not in hidden and f"`{name}`" not in readme] == []
