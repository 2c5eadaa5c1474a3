"""Describe the machine, the checkout and the packages of this process, and redact secrets."""

import json
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import zscir
from zscir.runtime.specs import URL_PASSWORD, canonical_json

MIN_SECRET_CHARS = 8  # characters; shorter ones would blot out common words
_METADATA_FIELD = re.compile(r"^(Name|Version): (.+?)\s*$", re.MULTILINE)
_SECRET_NAME = re.compile(r"(key|token|secret|password|passwd|credential|auth)", re.IGNORECASE)


def run_environment() -> dict[str, Any]:
    """git_commit, git_dirty, zscir_version, python_version, platform and packages (JSON) of this process."""
    commit, dirty = _git()
    return {
        "git_commit": commit,
        "git_dirty": dirty,
        "zscir_version": zscir.__version__,
        "python_version": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": canonical_json(_packages()),
    }


def _packages() -> dict[str, str]:
    """Name -> version of every installed package.

    Read from the head of its metadata, since parsing the metadata of all packages takes a second.
    """
    found = {}
    for package in distributions():
        text = package.read_text("METADATA") or package.read_text("PKG-INFO") or ""
        head = dict(_METADATA_FIELD.findall(text.partition("\n\n")[0]))
        if {"Name", "Version"} <= head.keys():
            found[head["Name"]] = head["Version"]
    return found


def redact(value: Any) -> Any:
    """``value`` with ``***`` for each secret.

    Secrets are the fields that are named like one, passwords in URLs, and what this process got in environment
    variables that are named like one.
    """
    if isinstance(value, dict):
        return {key: "***" if _SECRET_NAME.search(str(key)) and item else redact(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    if not isinstance(value, str):
        return value
    for name, secret in os.environ.items():
        if _SECRET_NAME.search(name) and len(secret) >= MIN_SECRET_CHARS:
            value = value.replace(secret, "***")
    return URL_PASSWORD.sub("//***:***@", value)


def worker_name() -> str:
    """``host:pid:start`` of this process; the start time distinguishes it from a later process of the same number."""
    import psutil

    return f"{platform.node()}:{os.getpid()}:{int(psutil.Process().create_time())}"


def is_worker_alive(worker: str) -> bool:
    """Whether the process that ``worker_name`` named still runs; True when it is on another machine."""
    import psutil

    host, pid, start = worker.rsplit(":", 2)
    # Nothing can be seen of it from here; ``heartbeats`` judges such a run by its silence.
    if host != platform.node():
        return True
    try:
        # psutil adds the start, in ticks since the boot, to the boot's time, which may come out a second different.
        return abs(int(psutil.Process(int(pid)).create_time()) - int(start)) <= 1
    except psutil.Error:
        return False


def status_by_process(run: dict[str, Any]) -> str:
    """The status of a row of the ``run`` table; ``died`` when it says running and its process is gone."""
    process = json.loads(run["user_config"]).get("process")
    gone = run["status"] == "running" and process and not is_worker_alive(process)
    return "died" if gone else str(run["status"])


def _git() -> tuple[str | None, bool | None]:
    folder = Path(zscir.__file__).parent

    def run_git(*arguments: str) -> str | None:
        try:
            # git may take long in a checkout on a network disk, and no run waits longer to learn its commit.
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if run_git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None, None  # installed, perhaps inside the folder of another repository
    commit = run_git("rev-parse", "HEAD")
    return commit, None if commit is None else bool(run_git("status", "--porcelain"))
