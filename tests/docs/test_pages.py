"""The documentation is true: links resolve, commands parse, files exist, TOML and Python blocks load and run."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.docs.not_run import NOT_RUN
from tests.docs.pages import PAGES, ROOT, Block, Command, anchors, blocks, commands, inline_code, links, read
from tests.walk.doc_files import score_files
from zscir import __version__
from zscir.cli.main import app
from zscir.pipeline.pipeline_file import Pipeline, load_pipeline
from zscir.pipeline.stage import stage_named

FOLDERS = ("data_specs/", "docs/", "flows/", "infra/", "tests/", "zscir/")
BY_READER = {"zscir/llm/restate.py", "zscir/methods/offset.py", "zscir/benchmarks/shelf.py", "infra/.env"}
PIPELINES = ROOT / "data_specs" / "pipelines"
STAGE_OF = {"method": "train", "model": "ask_llm"}  # a table that only the spec of one stage has
OFFLINE = [command for command in commands() if command.text in NOT_RUN]


def test_the_readme_is_at_most_8_kib() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 8192


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_to_a_file_and_a_heading(page: str) -> None:
    for target in links(page):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        assert file.exists(), f"{page}: {target}: no such file"
        if anchor:
            assert anchor in anchors(str(file.relative_to(ROOT))), f"{page}: {target}: no such heading"


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_is_there(page: str) -> None:
    for code in inline_code(page):
        path = code.rstrip("/")
        if code.startswith(FOLDERS) and re.fullmatch(r"[\w./*-]+", path) and path not in BY_READER:
            a_test = ROOT / "tests" / f"{path}.py"  # as docs/faults.md names them
            assert any(ROOT.glob(path)) or a_test.is_file(), f"{page}: there is no {code}"


@pytest.mark.parametrize("page", PAGES)
def test_every_command_and_option_in_running_text_exists(page: str) -> None:
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # the app is a group
    planned = {"trace", "diff", "takedown", "workers"}  # which the README says are missing
    for code in inline_code(page):
        words = code.split()
        if words[:1] == ["zscir"] and len(words) > 1 and re.fullmatch(r"[a-z]+", words[1]):
            assert words[1] in known or words[1] in planned, f"{page}: {code}"
            options = {flag for option in known[words[1]].params for flag in (*option.opts, *option.secondary_opts)}
            assert {word for word in words if word.startswith("--")} <= options | {"--help"}, f"{page}: {code}"


def test_every_command_in_the_table_of_those_that_are_not_run_is_on_a_page() -> None:
    assert set(NOT_RUN) - {command.text for command in commands()} == set()


def test_every_command_that_is_not_in_the_table_is_one_of_zscir() -> None:
    run = [command for command in commands() if command.text not in NOT_RUN]
    assert [command.text for command in run if command.words[0] != "zscir"] == []


@pytest.mark.parametrize("command", OFFLINE, ids=lambda command: command.text[:60])
def test_a_command_that_is_not_run_has_the_right_syntax(command: Command) -> None:
    words = list(command.words)
    for word in words:
        if word.startswith(("infra/", "data_specs/", "flows/")) and word not in BY_READER:
            assert (ROOT / word).exists(), f"{command.text}: there is no {word}"
    if words[0] == "docker" and "zscir" in words:
        words = words[words.index("zscir") :]
    check = {"zscir": _parses, "make": _is_a_target, ".venv/bin/python": _is_a_module, "prefect": _prefect_knows}
    check.get(words[0], _is_of_another_tool)(words)


def _parses(words: list[str]) -> None:
    found = typer.main.get_command(app).commands[words[1]]  # type: ignore[attr-defined]  # the app is a group
    found.make_context(words[1], words[2:])


def _is_a_target(words: list[str]) -> None:
    assert re.search(rf"^{words[1]}:", read("Makefile"), re.MULTILINE), f"make {words[1]} is no target"


def _is_a_module(words: list[str]) -> None:
    assert importlib.util.find_spec(words[words.index("-m") + 1]) is not None


def _prefect_knows(words: list[str]) -> None:
    text = _prefect_help(*words[1:3])
    assert [word for word in words if word.startswith("--") and word not in text] == []


@cache
def _prefect_help(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", *command, "--help"], capture_output=True, text=True, check=True
    )
    return done.stdout


def _is_of_another_tool(words: list[str]) -> None:
    assert words[0] in ("cp", "docker", "export", "kubectl", "pip", "uv")


@pytest.mark.parametrize(
    "block",
    [block for block in blocks("toml") if not block.example],
    ids=lambda block: f"{block.page}: {block.text[:20]!r}",
)
def test_every_toml_block_loads(block: Block, tmp_path: Path) -> None:
    values = tomllib.loads(block.text)
    stage = next((stage for table, stage in STAGE_OF.items() if table in values), None)
    if stage is not None:
        stage_named(stage).spec_type.parse(values, block.page)
    elif "ingest" in values:
        source = tmp_path / "source.toml"
        source.write_text(block.text, encoding="utf-8")
        load_pipeline(PIPELINES / "own.toml", [f"source={source}"])
    else:
        assert set(values) <= {"name", "source", "steps", "defaults", "limits", "dispatch"}, (
            f"{block.page}: no loader knows this"
        )
        loaded = _completed(block.text, values, tmp_path)
        assert {step.get("name", step["stage"]) for step in values.get("steps", ())} <= {
            step.name for step in loaded.steps
        }


def _completed(text: str, values: dict[str, Any], folder: Path) -> Pipeline:
    """A part of a pipeline file with the steps of shipped files that it reads, beside the shipped specs."""
    steps = {step.get("name", step["stage"]): step for step in values.get("steps", ())}
    defaults = dict(values.get("defaults", {}))
    shipped_steps, shipped_defaults = _shipped_tables()
    wanted = [] if steps else ["train_pli", "embed"]  # limits and pools want steps to hold for
    while True:
        needed = [*wanted, *(name for step in steps.values() for name in _references(step, defaults))]
        missing = next((name for name in needed if name in shipped_steps and name not in steps), None)
        if missing is None:
            break
        (steps[missing],) = tomllib.loads(shipped_steps[missing])["steps"]
        text += f"\n{shipped_steps[missing]}"
        stage = steps[missing]["stage"]
        if stage in shipped_defaults and stage not in defaults:
            defaults[stage] = tomllib.loads(shipped_defaults[stage])["defaults"][stage]
            text += f"\n{shipped_defaults[stage]}"
    head = "" if "name" in values else 'name = "part"\nsource = "../sources/own.toml"\n'
    for shipped in PIPELINES.parent.iterdir():
        if shipped != PIPELINES:
            (folder / shipped.name).symlink_to(shipped)
    path = folder / "pipelines" / "part.toml"
    path.parent.mkdir()
    path.write_text(head + text, encoding="utf-8")
    return load_pipeline(path)


def _shipped_tables() -> tuple[dict[str, str], dict[str, str]]:
    """The text of the steps (by name) and tables of defaults (by stage) of own.toml, then of tabletop.toml."""
    steps: dict[str, str] = {}
    defaults: dict[str, str] = {}
    for name in ("own", "tabletop"):
        text = re.sub(r"^#.*$", "", (PIPELINES / f"{name}.toml").read_text(encoding="utf-8"), flags=re.MULTILINE)
        for table in re.split(r"^(?=\[\[steps\]\]|\[defaults\.)", text, flags=re.MULTILINE)[1:]:
            found = tomllib.loads(table)
            for stage in found.get("defaults", ()):
                defaults.setdefault(stage, table)
            for step in found.get("steps", ()):
                steps.setdefault(step.get("name", step["stage"]), table)
    return steps, defaults


def _references(step: dict[str, Any], defaults: dict[str, Any]) -> list[str]:
    """The names that the inputs of a step give, with those that it has by default."""
    inputs = {**defaults.get(step["stage"], {}).get("inputs", {}), **step.get("inputs", {})}
    return [name for value in inputs.values() for name in (value if isinstance(value, list) else [value])]


@pytest.mark.parametrize(
    "block",
    [block for block in blocks("python") if not block.example],
    ids=lambda block: f"{block.page}: {block.text[:20]!r}",
)
def test_every_python_block_runs(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    score_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(compile(block.text, block.page, "exec"), {})  # noqa: S102 - the documentation's own text


def test_no_block_is_in_a_language_that_nothing_checks() -> None:
    languages = {line[3:] for page in PAGES for line in read(page).splitlines() if re.fullmatch(r"```\w+", line)}
    assert languages <= {"bash", "toml", "python", "mermaid", "text"}


def test_the_citation_has_what_its_format_wants_and_the_version_of_the_package() -> None:
    lines = read("CITATION.cff").splitlines()
    fields = dict(line.split(": ", 1) for line in lines if re.match(r"[a-z-]+: ", line))
    assert {"cff-version", "message", "title", "type", "version", "license"} <= set(fields)
    assert fields["cff-version"] == "1.2.0"
    assert fields["version"] == f'"{__version__}"'
    assert fields["license"] == "Apache-2.0"
    assert lines[lines.index("authors:") + 1] == '  - name: "zscir developers"'
