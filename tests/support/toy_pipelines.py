"""A small pipeline of two light stages of the package, for tests of everything that runs one."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from zscir.pipeline.execute import RunRequest, execute_run
from zscir.pipeline.pipeline_file import Pipeline, load_pipeline
from zscir.pipeline.run import Run, execute_step
from zscir.pipeline.stage import stage_key
from zscir.store.artifacts import Artifact
from zscir.store.store import Store

SOURCE = """
name = "toy"
[tabletop]
scenes = 40
[ingest]
source = "toy"
text_column = "caption"
"""
STEPS = """
name = "toy"
source = "source.toml"
[[steps]]
name = "short"
stage = "ingest"
spec = { source = "short", text_column = "caption", max_text_chars = 40 }
inputs = { urls = "tabletop" }
[[steps]]
stage = "tabletop"
[[steps]]
stage = "ingest"
inputs = { urls = "tabletop" }
"""
ORDER = ["tabletop", "short", "ingest"]
ROOT = Path(__file__).resolve().parents[2]


def write_toy(folder: Path, steps: str = STEPS, source: str = SOURCE) -> Path:
    """The pipeline file, in ``folder`` beside its source."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "source.toml").write_text(source)
    (folder / "toy.toml").write_text(steps)
    return folder / "toy.toml"


def load_toy(folder: Path, *changes: str, steps: str = STEPS) -> Pipeline:
    """The toy pipeline, loaded."""
    return load_pipeline(write_toy(folder, steps), list(changes))


def direct(run: Run, chosen: list[str]) -> None:
    """An engine that runs the steps one after the other, without Prefect."""
    for name in chosen:
        execute_step(run.run_id, name)


def run_toy(store: Store, path: Path, *changes: str, engine: Callable[[Run, list[str]], None] = direct,
             **request: str | None) -> Run:  # fmt: skip
    """Run the pipeline in ``path`` in this process."""
    return execute_run(store, RunRequest(path, list(changes), **request), engine)


def held(store: Store, path: Path, name: str, *changes: str) -> AbstractContextManager[Path]:
    """While it lasts, whoever comes to this step, which reads no other, waits there as if it were a long one."""
    step = next(step for step in load_pipeline(path, list(changes)).steps if step.name == name)
    return store.work_folder(step.stage.name, stage_key(step.stage, step.spec, {}))


def digests(made: dict[str, Artifact]) -> dict[str, str]:
    """Step name -> content digest."""
    return {name: artifact.digest for name, artifact in made.items()}


def command(*words: str) -> list[str]:
    """The command line of ``zscir WORDS``."""
    return [sys.executable, "-c", "from zscir.cli.main import main; main()", *words]


def zscir(folder: Path, *words: str, timeout_s: float = 240, **environment: str) -> subprocess.CompletedProcess[str]:
    """``zscir WORDS`` in ``folder``, to its end."""
    return subprocess.run(
        command(*words),
        check=False,
        cwd=folder,
        env=clean_environment(environment),
        text=True,
        capture_output=True,
        timeout=timeout_s,
    )


def clean_environment(more: dict[str, str]) -> dict[str, str]:
    """This process's environment with this checkout first on the path."""
    return os.environ | {"PYTHONPATH": str(ROOT), "NO_COLOR": "1"} | more


def json_of(done: subprocess.CompletedProcess[str]) -> list[dict[str, object]]:
    """What a command printed with --json; the command must have ended well."""
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, object]] = json.loads(done.stdout)
    return rows
