"""The whole walk as a newcomer sees it: the demo, then every command of the README and of docs/, page by page.

One file, so that one process makes the demo that all of this looks at.
"""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.docs.not_run import NOT_RUN
from tests.docs.pages import commands
from tests.walk.conftest import ROOT, SETS, Shell
from tests.walk.doc_files import photo_files, photo_server, score_files, small, token_of

Walked = tuple[Shell, "subprocess.CompletedProcess[str]"]
pytestmark = pytest.mark.slow


def test_the_demo_ends_well_and_prints_methods_by_benchmarks(walked: Walked) -> None:
    shell, demo = walked
    assert demo.returncode == 0, demo.stderr
    for word in (
        "pli",
        "tscir_map",
        "tscir_compose",
        "image only",
        "text only",
        "FashionIQ",
        "CIRR",
        "CIRCO",
        "GeneCIS",
    ):
        assert word.lower() in demo.stdout.lower(), f"{word} is not in the printed table:\n{demo.stdout}"
    report = Path(re.search(r"report: (\S+)", demo.stdout).group(1))  # type: ignore[union-attr]
    assert (shell.folder / report).stat().st_size > 50_000


def test_a_second_run_reuses_every_artifact(walked: Walked) -> None:
    shell, _ = walked
    again = shell.zscir("run", "data_specs/pipelines/tabletop.toml", *SETS, "--json")
    assert again.returncode == 0, again.stderr
    assert {row["outcome"] for row in json.loads(again.stdout)} == {"reused"}


def test_every_stage_of_the_demo_was_run(walked: Walked) -> None:
    shell, _ = walked
    found = json.loads(shell.zscir("sql", "SELECT DISTINCT stage FROM stages", "--json").stdout)
    walk = {
        "tabletop", "ingest", "download", "mask_triplets", "embed", "mine_pairs", "ask_llm", "parse_llm", "pack",
        "train", "evaluate", "tabulate", "tabletop_benchmarks", "embed_benchmarks",
    }  # fmt: skip
    assert {row["stage"] for row in found} == walk


def test_broken_urls_are_rows_with_a_reason(walked: Walked) -> None:
    shell, _ = walked
    query = "SELECT status, error_class, count(*) AS n FROM images GROUP BY ALL"
    found = json.loads(shell.zscir("sql", query, "--json").stdout)
    failed = [row for row in found if row["status"] != "ok"]
    assert failed
    assert all(row["error_class"] for row in failed)


def test_a_changed_field_is_named_in_the_plan(walked: Walked) -> None:
    shell, _ = walked
    plan = shell.zscir("plan", "data_specs/pipelines/tabletop.toml", *SETS, "--set", "parse_llm.max_words=12", "--json")
    by_step = {row["step"]: row for row in json.loads(plan.stdout)}
    assert by_step["parse_llm"]["action"] == "make"
    assert "max_words 20 -> 12" in by_step["parse_llm"]["reason"]
    assert by_step["download"]["action"] == "reuse"
    assert "parse_llm" in by_step["pack_triplets"]["reason"]


def test_the_scores_carry_their_protocol(walked: Walked) -> None:
    shell, _ = walked
    found = json.loads(shell.zscir("sql", "SELECT DISTINCT benchmark, protocol, n FROM scores", "--json").stdout)
    assert found
    assert all(row["protocol"] for row in found)
    assert all(row["n"] > 0 for row in found)


def test_the_shipped_pipelines_load(walked: Walked) -> None:
    shell, _ = walked
    for path in sorted((ROOT / "data_specs" / "pipelines").glob("*.toml")):
        if not path.stem.startswith("own"):  # their lists, pictures and tars are the user's
            plan = shell.zscir("plan", str(path))
            assert plan.returncode == 0, f"{path.name}: {plan.stderr}"


def test_the_commands_that_need_a_server_have_tests_of_their_own() -> None:
    text = " ".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    for command in commands():
        if command.text in NOT_RUN and command.words[0] == "zscir":
            assert f'"{command.words[1]}"' in text, f"nothing tests zscir {command.words[1]}"


@pytest.mark.timeout(1200)  # some forty commands, several of them whole runs
def test_every_command_of_the_documentation_works(walked: Walked, tmp_path: Path) -> None:
    shell, _ = walked
    score_files(shell.folder)
    ran = 0
    with photo_server(tmp_path / "web") as server:
        photo_files(shell.folder, server)
        for command in commands():
            if command.text in NOT_RUN:  # tests/docs checks their syntax
                continue
            words = list(command.words)
            if "TOKEN" in words:
                words[words.index("TOKEN")] = token_of(shell, words[2])
            done = shell.zscir(*small(words)[1:], environment=dict(pair.split("=", 1) for pair in command.environment))
            assert done.returncode == 0, f"{command.page}: {command.text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
            ran += 1
    assert ran >= 30
