"""Gates in a walk: what is checked between two steps, what is recorded of it, and what a person is told."""

import logging

import pytest

from tests.support.toy_pipelines import STEPS, load_toy, run_toy, write_toy
from tests.support.toys import store_at
from zscir.lineage.sql_views import query_store_rows
from zscir.pipeline.run import list_runs
from zscir.runtime.errors import GateError, RequestError


@pytest.fixture
def store(tmp_path):
    return store_at(tmp_path / "store", tmp_path / "cache")


def gated(tmp_path, gates, more=""):
    """The toy pipeline whose last step has gates, with perhaps more steps behind it."""
    return write_toy(tmp_path / "specs", f"{STEPS}[steps.gates]\n{gates}\n{more}")


def verdicts(store, run):
    query = "SELECT step, metric, value, reference, threshold, verdict FROM gates WHERE run_id = $1 ORDER BY ALL"
    return query_store_rows(store, query, [run.run_id if hasattr(run, "run_id") else run])


def test_without_gates_the_record_tables_are_checked_and_nothing_else(store, tmp_path):
    run = run_toy(store, write_toy(tmp_path / "specs"))
    assert [(row["step"], row["metric"], row["value"], row["verdict"]) for row in verdicts(store, run)] == [
        ("ingest", "schema", 2.0, "pass"), ("short", "schema", 2.0, "pass"),
    ]  # fmt: skip


def test_a_gate_changes_no_key_and_no_spec(tmp_path):
    plain = load_toy(tmp_path / "plain")
    other = load_toy(tmp_path / "gated", steps=STEPS + "[steps.gates]\ntext_chars = { fail_shift = 0.5 }\n")
    assert other.digest() == plain.digest()
    assert [step.spec for step in other.steps] == [step.spec for step in plain.steps]


def test_a_gate_that_fails_stops_the_run_keeps_the_artifact_and_says_what_to_type(store, tmp_path):
    behind = '[[steps]]\nname = "behind"\nstage = "ingest"\nspec = { source = "b", text_column = "caption" }\n'
    path = gated(tmp_path, "text_chars = { fail_above = 5 }", behind + 'inputs = { urls = "tabletop" }\n')
    with pytest.raises(GateError) as stopped:
        run_toy(store, path)
    error_text = str(stopped.value)
    assert stopped.value.exit_code == 4
    run = list_runs(store)[-1]
    assert (run["status"], run["stopped_at"]) == ("failed", "ingest")
    [found] = [row for row in verdicts(store, run["run_id"]) if row["verdict"] == "fail"]
    assert (found["step"], found["metric"], found["threshold"]) == ("ingest", "text_chars", "fail_above = 5")
    assert f"text_chars is {found['value']:g}; the bound is fail_above = 5" in error_text
    assert "--set ingest.gates.text_chars.fail_above=" in error_text
    assert f"zscir rerun {run['run_id']}" in error_text
    reached = query_store_rows(store, "SELECT step, key, outcome FROM stages ORDER BY started_at")
    assert "behind" not in {row["step"] for row in reached}
    assert store.lookup("ingest", reached[-1]["key"]).artifact is not None
    again = run_toy(store, path, "ingest.gates.text_chars.fail_above=500")
    assert query_store_rows(
        store, "SELECT outcome FROM stages WHERE run_id = $1 AND step = 'ingest'", [again.run_id]
    ) == [{"outcome": "reused"}]


def test_a_number_is_held_against_the_last_run_that_succeeded(store, tmp_path):
    bounds = "text_chars = { fail_shift = 0.3, warn_shift = 0.02 }"
    path = gated(tmp_path, bounds)
    first = run_toy(store, path)
    [before] = [row for row in verdicts(store, first) if row["metric"] == "text_chars"]
    assert (before["reference"], before["verdict"]) == (None, "pass")
    with pytest.raises(GateError, match=rf"the last good run had {before['value']:g}; the bound is fail_shift = 0.3"):
        run_toy(store, path, "ingest.max_text_chars=20")
    with pytest.raises(GateError, match=f"the last good run had {before['value']:g}"):  # the failed run is no reference
        run_toy(store, path, "ingest.max_text_chars=21")
    same = run_toy(store, path)
    [now] = [row for row in verdicts(store, same) if row["metric"] == "text_chars"]
    assert (now["value"], now["reference"], now["verdict"]) == (before["value"], before["value"], "pass")


def test_a_gate_that_warns_is_a_row_and_a_line_and_the_run_continues(store, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("zscir"), "propagate", True)
    run = run_toy(store, gated(tmp_path, "text_chars = { warn_above = 5, fail_above = 500 }"))
    assert [row["verdict"] for row in verdicts(store, run) if row["metric"] == "text_chars"] == ["warn"]
    [warned] = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warned.startswith("ingest: gate warns: text_chars is ")
    assert warned.endswith("the bound is warn_above = 5")
    assert list_runs(store)[-1]["status"] == "succeeded"


def test_a_finished_pipeline_meets_a_bound_that_has_become_tighter(store, tmp_path):
    path = gated(tmp_path, "text_chars = { fail_above = 500 }")
    run_toy(store, path)
    with pytest.raises(GateError, match="text_chars"):
        run_toy(store, path, "ingest.gates.text_chars.fail_above=5")
    [stopped] = query_store_rows(store, "SELECT step, error FROM stages WHERE outcome = 'failed'")
    assert stopped["step"] == "ingest"
    assert stopped["error"].startswith("GateError: ")


def test_rows_that_cannot_be_counted_do_not_pass(store, tmp_path):
    path = gated(tmp_path, 'counts = ["pairs == urls.pairs"]')
    with pytest.raises(GateError, match=r"rows of pairs is 40; the bound is pairs == urls\.pairs"):
        run_toy(store, path)  # the world's table is urls.parquet


@pytest.mark.parametrize(
    ("gates", "error_text"),
    [
        ("text_char = { fail_above = 5 }", "unknown key 'steps.2.gates.text_char'; allowed: answered_share, counts,"),
        ("text_chars = { fail_over = 5 }", "allowed: fail_above, fail_below, fail_drop, fail_rise, fail_shift, warn_"),
        ("text_chars = { fail_drop = -1 }", "greater than or equal to 0"),
        ("text_chars = {}", "give at least one of warn_below"),
        ('counts = ["pairs = urls"]', "counts: 'pairs = urls': write it as 'images == pairs', with ==, <= or >="),
        ('counts = ["pairs == urls"]', "no table 'urls'; there are ['candidates'"),
        ('counts = ["pairs == images"]', "no input 'images'; the step reads ['urls']"),
    ],
)
def test_a_gate_that_makes_no_sense_is_refused_before_anything_is_made(store, tmp_path, gates, error_text):
    with pytest.raises(RequestError) as refused:
        run_toy(store, gated(tmp_path, gates))
    assert error_text in str(refused.value)
    assert list_runs(store) == []


def test_a_gate_can_be_set_where_the_file_has_none(store, tmp_path):
    with pytest.raises(GateError, match="duplicate_text_share"):
        run_toy(store, write_toy(tmp_path / "specs"), "short.gates.duplicate_text_share.fail_below=0.99")
    with pytest.raises(RequestError, match="unknown key 'words'; allowed: answered_share"):
        load_toy(tmp_path / "other", "short.gates.words.fail_below=1")
