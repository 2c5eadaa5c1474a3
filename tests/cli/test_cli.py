"""The command line: exit codes, a few lines on standard error, JSON that parses, help with an example."""

import json
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.support.stored_histories import age_of
from tests.support.toy_pipelines import STEPS, clean_environment, command, run_toy, write_toy
from tests.support.toys import store_at
from zscir.cli import main as command_line
from zscir.lineage.recorder import Recorder, RunInfo

COMMANDS = sorted(command.name for command in command_line.app.registered_commands)


@pytest.fixture
def store(tmp_path):
    return store_at(tmp_path / "store", tmp_path / "cache")


@pytest.fixture
def path(tmp_path):
    return write_toy(tmp_path / "specs")


def files_below(folder):
    return sorted(os.path.join(at, name) for at, _, names in os.walk(folder) for name in names)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_shows_an_example_of_it(cli, name):
    code, out, _ = cli(name, "--help")
    assert code == 0
    assert f"Example: zscir {name}" in out
    assert len(out.splitlines()) < 60


def test_the_help_lists_every_command(cli):
    code, out, _ = cli("--help")
    assert code == 0
    for name in COMMANDS:
        assert f"\n  {name}" in out


def test_a_finished_pipeline_is_run_and_rerun_at_once(cli, store, path):
    run_toy(store, path)
    code, out, err = cli("run", path)
    assert code == 0
    assert "reused" in out
    assert "all 3 steps are made already" in err
    code, out, _ = cli("rerun", "latest", "--json")
    assert code == 0
    assert [row["outcome"] for row in json.loads(out)] == ["reused"] * 3


def test_json_parses_on_every_command_that_prints_a_table(cli, store, path):
    run = run_toy(store, path)
    key = run.artifacts["short"].key
    requested = {
        ("plan", path): "step",
        ("runs",): "run_id",
        ("run", path): "outcome",
        ("show", "latest"): "steps",
        ("show", key): "files",
        ("sql", "SELECT * FROM run"): "packages",
        ("sql", "SELECT NULL AS a, 1.5 AS b, now() AS c, [1, 2] AS d"): "d",
        ("doctor",): "status",
    }
    for words, field in requested.items():
        _, out, _ = cli(*words, "--json")
        rows = json.loads(out)
        assert field in rows[0], words


def test_json_of_nothing_is_an_empty_list(cli, store):
    assert json.loads(cli("runs", "--json")[1]) == []
    assert json.loads(cli("sql", "SELECT * FROM run", "--json")[1]) == []
    assert cli("runs")[0] == 0


def test_a_plan_is_a_table_of_steps_actions_and_reasons(cli, store, path):
    run_toy(store, path)
    code, out, _ = cli("plan", path, "--set", "short.max_text_chars=30")
    assert code == 0
    assert "spec changed: max_text_chars 40 -> 30" in out


def test_a_plan_ends_with_totals_and_the_token_that_run_takes(cli, store, path):
    run_toy(store, path)
    code, out, _ = cli("plan", path, "--set", "short.max_text_chars=30")
    assert code == 0
    assert "1 of 3 to make" in out
    token = json.loads(cli("plan", path, "--json")[1])[0]["token"]
    assert f"run {path} --plan {token}" in " ".join(cli("plan", path)[1].split())
    assert cli("run", path, "--plan", token)[0] == 0
    code, _, err = cli("run", path, "--plan", token, "--set", "short.max_text_chars=30")
    assert code == 2
    assert "short: action reuse -> make; spec changed: max_text_chars 40 -> 30" in err


def test_a_plan_knows_dollars_when_the_environment_names_a_price(cli, store, path, monkeypatch):
    run_toy(store, path)
    words = ("plan", path, "--set", "short.max_text_chars=30")
    assert "usd" not in cli(*words)[1]
    monkeypatch.setenv("ZSCIR_USD_PER_HOUR", "3600")
    assert "usd" in cli(*words)[1]
    [short] = [row for row in json.loads(cli(*words, "--json")[1]) if row["step"] == "short"]
    assert short["usd"] == pytest.approx(short["p50_s"], rel=0.01)
    monkeypatch.setenv("ZSCIR_USD_PER_HOUR", "much")
    assert cli(*words)[0] == 2


def test_a_budget_on_the_command_line_is_known_to_the_rerun(cli, store, path):
    run_toy(store, path)
    assert cli("run", path, "--max-hours", "2", "--json")[0] == 0
    assert cli("rerun", "latest", "--max-hours", "3", "--json")[0] == 0
    requested = json.loads(cli("sql", "SELECT user_config FROM run ORDER BY started_at DESC LIMIT 1", "--json")[1])
    assert json.loads(requested[0]["user_config"])["set"] == ["limits.max_hours=2.0", "limits.max_hours=3.0"]


def test_markup_in_data_is_shown_and_not_obeyed(cli, store):
    _, out, _ = cli("sql", "SELECT '[bold red]x[/] [link=http://a]y' AS a")
    assert "[bold red]x[/] [link=http://a]y" in out


def test_the_leaderboard_is_markdown_latex_or_a_page(cli, store, tmp_path):
    code, out, _ = cli("leaderboard")
    assert code == 0
    assert "| Pic2Word † | CLIP ViT-L/14 | 24.7 | 43.7 |" in out
    assert r"\begin{tabular}" in cli("leaderboard", "--latex")[1]
    code, out, _ = cli("leaderboard", "--html", tmp_path / "board.html")
    assert (code, out.strip()) == (0, str(tmp_path / "board.html"))
    page = (tmp_path / "board.html").read_text()
    assert "Pic2Word" in page
    assert "<script" not in page


def test_show_describes_a_run_and_an_artifact(cli, store, path):
    run = run_toy(store, path)
    code, out, _ = cli("show", "latest")
    assert code == 0
    assert f"run {run.run_id}" in out
    assert "status: succeeded" in out
    code, out, _ = cli("show", run.artifacts["short"].key[:8])
    assert code == 0
    assert "pairs.parquet" in out


def test_verify_reports_damage_with_code_4_and_the_lines_to_type_and_quarantines_it_on_request(cli, store, path):
    run = run_toy(store, path)
    assert cli("verify")[:2] == (0, "3 artifacts, 5 files, 11,666 bytes read; 0 artifacts damaged\n")
    pairs = run.artifacts["short"].path("pairs.parquet")
    data = pairs.read_bytes()
    pairs.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    code, out, err = cli("verify", "--json")
    assert (code, [row["state"] for row in json.loads(out)]) == (4, ["damaged"])
    lines = err.splitlines()[-4:]
    assert lines[1].strip() == f"zscir verify {run.artifacts['short'].key[:12]} --quarantine"
    assert lines[3].strip() == f"zscir rerun {run.run_id}"
    assert cli(*lines[1].split()[1:])[0] == 4
    assert store.lookup("ingest", run.artifacts["short"].key).problem == "no artifact"
    code, out, _ = cli("verify")
    assert (code, "no manifest" in out) == (0, True)
    assert cli("verify", "nonsense")[0] == 2


def test_gc_lists_what_it_would_remove_and_removes_it_only_with_delete(cli, store, path):
    for chars in (30, 31):
        made = run_toy(store, path, f"short.max_text_chars={chars}").artifacts
    old = [key for _, key in store.list_keys() if key not in {one.key for one in made.values()}]
    age_of(Path(store.root), 40)
    code, out, _ = cli("gc", "--keep-runs", "1")
    assert (code, len(store.list_keys())) == (0, 4)
    assert out.splitlines()[-1].strip() == "zscir gc --keep-runs 1 --older-than 14d --delete"
    rows = json.loads(cli(*out.splitlines()[-1].split()[1:], "--json")[1])
    assert (rows[-1]["reclaimable"], rows[-1]["removed"]["removed"]) == (1, 1)
    assert {key for _, key in store.list_keys()} == {one.key for one in made.values()}
    assert "state: removed 2" in cli("show", old[0][:12])[1]
    assert cli("gc")[1].splitlines()[-1] == "nothing to remove"


def test_who_may_only_read_a_store_verifies_it_and_learns_what_takes_more(cli, store, path, tmp_path):
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("root may write everywhere, and no setpriv is there to take that right away")
    run_toy(store, path)
    folders = [folder for folder in [Path(store.root), *Path(store.root).rglob("*")] if folder.is_dir()]
    rights = "-dac_override,-dac_read_search,-fowner"
    drop = ["setpriv", "--bounding-set", rights, "--inh-caps", rights] if os.geteuid() == 0 else []

    def read_only(*words):
        environment = clean_environment({})
        done = subprocess.run([*drop, *command(*words)], capture_output=True, text=True, env=environment, check=False)
        return done.returncode, done.stdout, done.stderr

    for folder in folders:
        folder.chmod(0o555)
    try:
        code, out, _ = read_only("verify")
        assert (code, out.splitlines()[-1]) == (0, "3 artifacts, 5 files, 11,666 bytes read; 0 artifacts damaged")
        for words in (("verify", "--quarantine"), ("gc", "--delete")):
            code, _, errors = read_only(*words)
            assert (code, "no permission to write there" in errors) == (2, True)
        code, _, errors = read_only("gc")
        assert (code, "run this as a user who may write there" in errors) == (3, True)
    finally:
        for folder in folders:
            folder.chmod(0o755)


WRONG = {
    "a pipeline that is not there": (("run", "no.toml"), "no.toml: cannot read"),
    "a folder as a pipeline": (("run", "specs"), "cannot read"),
    "an unknown step in --set": (("run", "specs/toy.toml", "--set", "nothing.x=1"), "no step 'nothing'"),
    "an unknown field in --set": (("run", "specs/toy.toml", "--set", "short.nothing=1"), "unknown key 'nothing'"),
    "a wrong type in --set": (("plan", "specs/toy.toml", "--set", "short.limit=x"), "'limit' = 'x'"),
    "a --set without a value": (("plan", "specs/toy.toml", "--set", "short"), "STEP.field=value"),
    "an unknown step in --only": (("run", "specs/toy.toml", "--only", "nothing"), "no step or stage 'nothing'"),
    "--only before its inputs": (("run", "specs/toy.toml", "--only", "short"), "not made yet: tabletop"),
    "a budget of nothing": (("run", "specs/toy.toml", "--max-hours", "0"), "limits.max_hours"),
    "dollars without a price": (("run", "specs/toy.toml", "--max-usd", "1"), "ZSCIR_USD_PER_HOUR"),
    "another plan": (("run", "specs/toy.toml", "--plan", "0" * 16), "is not in the store"),
    "an unknown run": (("rerun", "20200101"), "no run with id '20200101'"),
    "no run yet": (("rerun", "latest"), "none yet"),
    "an unknown run to show": (("show", "20200101-000000-aaaaaa"), "20200101-000000-aaaaaa"),
    "a wrong question": (("sql", "SELECT * FROM nothing"), "the tables are"),
    "a store that is no address": (("runs", "--store", "ftp://x/y"), "use a folder or s3://bucket/prefix"),
    "a store that is a file": (("run", "specs/toy.toml", "--store", "specs/toy.toml"), "is a file, not a folder"),
    "a store below a file": (("runs", "--store", "specs/toy.toml/store"), "is a file, not a folder"),
    "an age that is none": (("gc", "--older-than", "soon"), "such as 36h, 14d or 8w"),
    "an age that no run survives": (("gc", "--older-than", "5m", "--delete"), "at least 1h is needed"),
    "fewer runs than none": (("gc", "--keep-runs", "-1"), "a whole number from 0 up"),
    "a gc of nothing": (("gc",), "nothing lies there; check --store"),
    "a verify of nothing": (("verify",), "nothing lies there; check --store"),
    "an unknown command": (("walk",), "No such command"),
    "an unknown option": (("run", "specs/toy.toml", "--force"), "No such option"),
    "a missing argument": (("run",), "Missing argument"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_request_is_reported_in_a_few_lines_with_code_2_and_nothing_is_written(cli, path, tmp_path, case):
    words, expected = WRONG[case]
    before = files_below(tmp_path)
    code, out, err = cli(*words)
    assert (code, out) == (2, "")
    assert expected in err
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 6
    assert files_below(tmp_path) == before


def test_a_wrong_pipeline_is_reported_with_file_and_field_and_nothing_is_written(cli, tmp_path):
    write_toy(tmp_path / "specs", STEPS.replace("max_text_chars", "max_chars"))
    before = files_below(tmp_path)
    code, _, err = cli("run", "specs/toy.toml")
    assert code == 2
    assert err.startswith("zscir: specs/toy.toml: step 'short': unknown key 'max_chars'; allowed: ")
    assert files_below(tmp_path) == before


def test_a_missing_input_file_is_reported_before_anything_is_written(cli, tmp_path):
    write_toy(tmp_path / "specs", STEPS.replace('urls = "tabletop"', 'urls = "file:list.csv"', 1))
    before = files_below(tmp_path)
    code, _, err = cli("run", "specs/toy.toml")
    assert code == 2
    assert f"{tmp_path}/specs/list.csv: no such file" in err
    assert files_below(tmp_path) == before


@pytest.mark.parametrize(
    "words",
    [("run", "specs/toy.toml"), ("plan", "specs/toy.toml"), ("runs",), ("show", "latest"), ("verify",), ("gc",)],
)
def test_a_store_on_s3_that_cannot_be_reached_is_reported_with_code_2(cli, path, tmp_path, s3, monkeypatch, words):
    import s3fs

    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    s3fs.S3FileSystem.clear_instance_cache()
    before = files_below(tmp_path)
    code, _, err = cli(*words, "--store", s3)
    assert code == 2
    assert err.startswith(f"zscir: store {s3}: ")
    assert "check --store / ZSCIR_STORE, the endpoint and the credentials" in err
    assert len(err.splitlines()) <= 3
    assert files_below(tmp_path) == before


def test_a_bucket_that_is_not_there_is_reported_with_code_2(cli, path, s3):
    code, _, err = cli("run", path, "--store", "s3://no-such-bucket-at-all/x")
    assert code == 2
    assert "no-such-bucket-at-all" in err


def test_a_traceback_is_shown_with_debug_only(cli, path):
    assert "Traceback" not in cli("plan", "no.toml")[2]
    code, _, err = cli("--debug", "plan", "no.toml")
    assert code == 2
    assert "Traceback" in err
    assert err.rstrip().endswith("check the path")
    assert "Traceback" in cli("plan", "no.toml", "--debug")[2]


def test_a_bug_of_our_own_is_reported_as_one_without_a_traceback(cli, store):
    Recorder(store, RunInfo("r1", "p", "d", "cli", "this is not JSON"))
    code, _, err = cli("runs")
    assert code == 1
    assert "this is a mistake in zscir; --debug shows where" in err
    assert "Traceback" not in err


def test_a_file_that_may_not_be_written_is_reported(cli, store, path):
    run_toy(store, path)
    code, _, err = cli("report", "latest", "--out", "/proc/nowhere/report.html")
    assert code == 2
    assert "Traceback" not in err
    assert "/proc/nowhere" in err


def test_the_option_debug_may_stand_anywhere_and_reaches_no_command(cli, store):
    assert cli("--debug", "runs")[0] == 0
    assert cli("runs", "--debug")[0] == 0
