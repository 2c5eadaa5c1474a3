"""The whole walk as a newcomer sees it: the demo, then every command of the README, in its order.

One file, so that one process makes the demo that all of this looks at.
"""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.walk.conftest import ROOT, SETS, Shell
from tests.walk.readme import MAKE, blocks, commands, photo_files, photo_server, score_files, small, token_of

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


def test_a_second_walk_reuses_every_artifact(walked: Walked) -> None:
    shell, _ = walked
    again = shell.zscir("run", "data_specs/pipelines/tabletop.toml", *SETS, "--json")
    assert again.returncode == 0, again.stderr
    assert {row["outcome"] for row in json.loads(again.stdout)} == {"reused"}


def test_every_stage_of_the_issue_was_walked(walked: Walked) -> None:
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


def test_what_needs_a_server_stands_apart_and_has_tests_of_its_own() -> None:
    text = " ".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("*/test_*.py"))
    for line in [line for block in blocks("sh") for line in block.splitlines()]:
        words = [word for word in shlex.split(line, comments=True) if "=" not in word and word != "export"]
        if words[:1] == ["zscir"]:
            assert f'"{words[1]}"' in text, f"nothing tests zscir {words[1]}"
        elif words:
            assert words[0] in ("docker", "prefect")


@pytest.mark.timeout(1200)  # some thirty commands, several of them whole runs
def test_every_command_of_the_readme_works(walked: Walked, tmp_path: Path) -> None:
    shell, _ = walked
    score_files(shell.folder)
    ran = 0
    with photo_server(tmp_path / "web") as server:
        photo_files(shell.folder, server)
        for words in commands():
            if words[0] in MAKE:
                continue
            assert words[0] == "zscir", f"the README has a command that nothing tests: {words}"
            if "TOKEN" in words:
                words[words.index("TOKEN")] = token_of(shell, words[2])
            done = shell.zscir(*small(words)[1:])
            assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
            ran += 1
    assert ran >= 15


def test_the_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for words in commands():
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), f"make {words[1]} is no target"
