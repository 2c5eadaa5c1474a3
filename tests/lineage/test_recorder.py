import json
import os
import threading
from datetime import UTC, datetime

import pytest

from tests.faults.processes import finish, start
from tests.support.toy_pipelines import ORDER, STEPS, direct, run_toy, write_toy
from tests.support.toys import store_at
from zscir.lineage.recorder import Recorder, RunInfo
from zscir.lineage.sql_views import query_store_rows
from zscir.lineage.tables import LINEAGE_SCHEMAS
from zscir.pipeline.execute import execute_run, rerun_request
from zscir.pipeline.run import execute_step, find_run, list_runs
from zscir.runtime.errors import GateError, Interrupted, StageError
from zscir.runtime.schemas import read_rows, read_table
from zscir.runtime.settings import Settings

BROKEN = STEPS.replace('source = "short", text_column = "caption"', 'source = "short", text_column = "nothing"')
COLUMNS = {
    "run": "run_id pipeline spec_digest status started_at finished_at parent_run_id flow_run_id trigger git_commit "
    "git_dirty zscir_version python_version platform packages user_config",
    "stages": "run_id step stage key outcome reason started_at finished_at wall_s cpu_s peak_rss_bytes attempts worker "
    "error",
    "artifacts": "key stage stage_version digest uri bytes files rows facts created_at created_by_run",
    "edges": "child_key role parent_key",
}


def table(store, run, name):
    return read_rows(
        store.fs._strip_protocol(store.address("lineage", run.run_id, f"{name}.parquet")), LINEAGE_SCHEMAS[name]
    )


def test_the_tables_have_the_columns_of_the_design_and_the_step(store, toy_run):
    for name, words in COLUMNS.items():
        assert read_table(
            store.address("lineage", toy_run.run_id, f"{name}.parquet"), LINEAGE_SCHEMAS[name]
        ).column_names == (words.split())


def test_a_run_is_recorded_from_its_request_to_its_end(store, toy_run, path):
    (run,) = table(store, toy_run, "run")
    assert (run["run_id"], run["pipeline"], run["status"], run["trigger"]) == (
        toy_run.run_id,
        "toy",
        "succeeded",
        "cli",
    )
    assert run["started_at"] <= run["finished_at"] <= datetime.now(UTC)
    assert run["started_at"].utcoffset().total_seconds() == 0
    assert run["parent_run_id"] is None
    assert "pyarrow" in json.loads(run["packages"])
    config = json.loads(run["user_config"])
    assert (config["pipeline"], config["set"], config["only"], config["from"]) == (str(path), [], None, None)


def test_each_step_is_recorded_with_its_cost(store, toy_run):
    steps = table(store, toy_run, "stages")
    assert [row["step"] for row in steps] == ORDER
    assert {row["outcome"] for row in steps} == {"made"}
    for row in steps:
        assert row["key"] == toy_run.artifacts[row["step"]].key
        assert row["wall_s"] > 0
        assert row["cpu_s"] >= 0
        assert row["peak_rss_bytes"] > 10_000_000
        assert (row["attempts"], row["error"]) == (1, None)
        assert str(os.getpid()) in row["worker"]


def test_each_artifact_is_recorded_with_its_size_and_facts(store, toy_run):
    found = {row["key"]: row for row in table(store, toy_run, "artifacts")}
    artifact = toy_run.artifacts["short"]
    row = found[artifact.key]
    files = [store.fs.size(store.address("ingest", artifact.key, name)) for name in artifact.files()]
    assert (row["stage"], row["stage_version"], row["digest"]) == ("ingest", 1, artifact.digest)
    assert (row["bytes"], row["files"], row["rows"]) == (sum(files), len(files), artifact.facts["rows"])
    assert json.loads(row["facts"]) == artifact.facts
    assert row["uri"] == f"{store.uri}/ingest/{artifact.key}"
    assert row["created_by_run"] == toy_run.run_id


def test_edges_lead_from_child_to_parent_by_role(store, toy_run):
    made = {name: artifact.key for name, artifact in toy_run.artifacts.items()}
    assert table(store, toy_run, "edges") == [
        {"child_key": made[child], "role": "urls", "parent_key": made["tabletop"]} for child in ("short", "ingest")
    ]


def test_a_second_run_records_reuse_and_keeps_the_first_maker(store, toy_run, path):
    again = run_toy(store, path)
    assert {row["outcome"] for row in table(store, again, "stages")} == {"reused"}
    assert {row["created_by_run"] for row in table(store, again, "artifacts")} == {toy_run.run_id}
    assert query_store_rows(store, "SELECT count(*) AS n FROM artifacts") == [{"n": 3}]
    assert query_store_rows(store, "SELECT count(*) AS n FROM edges") == [{"n": 2}]
    assert query_store_rows(store, "SELECT count(*) AS n FROM stages") == [{"n": 6}]


def test_the_tables_can_be_read_at_any_moment_of_a_run(store, path):
    counts, over, wrong = [], threading.Event(), []

    def read():
        while not over.is_set():
            try:
                counts.append(len(query_store_rows(store, "SELECT * FROM stages")))
                query_store_rows(store, "SELECT * FROM run JOIN stages USING (run_id) LEFT JOIN artifacts USING (key)")
            except Exception as error:  # noqa: BLE001 - whatever a reader meets is what this test is about
                wrong.append(error)
                return

    def slowly(run, chosen):
        for name in chosen:
            execute_step(run.run_id, name)
            count = len(counts)
            while len(counts) < count + 2 and thread.is_alive():
                pass

    thread = threading.Thread(target=read)
    thread.start()
    try:
        run_toy(store, path, engine=slowly)
    finally:
        over.set()
        thread.join()
    assert wrong == []
    assert {1, 2, 3} <= set(counts)


def begin_and_die(uri, cache, path, at_step):
    """A process that is killed by SIGKILL before or in the middle of its run's steps."""

    def engine(run, chosen):
        for name in chosen:
            if name == at_step:
                with run.recorder.step(name, "ingest"):
                    os.kill(os.getpid(), 9)
            execute_step(run.run_id, name)

    def at_once(run, chosen):
        os.kill(os.getpid(), 9)

    run_toy(store_at(uri, cache), path, engine=engine if at_step else at_once)


@pytest.mark.parametrize("at_step", ["", "short"])
def test_a_run_that_was_killed_is_listed_as_died_and_where(store, path, tmp_path, at_step):
    process = start(begin_and_die, store.uri, tmp_path / "cache", path, at_step)
    process.join(120)
    assert process.exitcode == -9
    (row,) = list_runs(store)
    assert (row["status"], row["stopped_at"], row["finished_at"]) == ("died", at_step or None, None)
    assert row["made"] == (1 if at_step else 0)


def test_a_run_under_way_is_listed_as_running(store, path):
    statuses = []
    run_toy(
        store, path, engine=lambda run, chosen: (statuses.append(list_runs(store)[0]["status"]), direct(run, chosen))
    )
    assert statuses == ["running"]
    assert list_runs(store)[0]["status"] == "succeeded"


def test_a_rerun_records_its_parent_and_its_request(store, tmp_path):
    path = write_toy(tmp_path / "specs", BROKEN)
    with pytest.raises(StageError):
        run_toy(store, path, "tabletop.scenes=30")
    first = find_run(store, "latest")
    assert (first["status"], first["stopped_at"], first["made"]) == ("failed", "short", 1)
    write_toy(tmp_path / "specs")
    request = rerun_request(store, "latest", None, None, [])
    assert (request.changes, request.parent_run_id, request.trigger) == (
        ["tabletop.scenes=30"],
        first["run_id"],
        "rerun",
    )
    again = execute_run(store, request, direct)
    assert [row["outcome"] for row in table(store, again, "stages")] == ["reused", "made", "made"]
    assert find_run(store, "latest")["parent_run_id"] == first["run_id"]


def test_a_failure_names_step_stage_run_and_the_line_to_type(store, tmp_path, monkeypatch):
    path = write_toy(tmp_path / "specs", BROKEN)
    with pytest.raises(StageError) as caught:
        run_toy(store, path)
    message = str(caught.value)
    row = find_run(store, "latest")
    assert "step 'short' (stage ingest): " in message
    assert "nothing" in message
    assert f"run {row['run_id']} stopped at 'short'" in message
    assert message.endswith(f"\n  zscir rerun {row['run_id']} --store {store.uri}")
    assert len(message.splitlines()) <= 6
    monkeypatch.setenv("ZSCIR_STORE", store.uri)
    assert Settings.from_env().store == store.uri
    with pytest.raises(StageError, match=r"\n  zscir rerun [0-9a-f-]+$"):
        run_toy(store, path)


def test_a_failed_step_is_recorded_with_its_error(store, tmp_path):
    with pytest.raises(StageError):
        run_toy(store, write_toy(tmp_path / "specs", BROKEN))
    failed = query_store_rows(store, "SELECT * FROM stages WHERE outcome = 'failed'")
    assert [row["step"] for row in failed] == ["short"]
    assert "nothing" in failed[0]["error"]
    assert failed[0]["finished_at"] is not None


@pytest.mark.parametrize(
    ("error", "kind", "status", "code"),
    [
        (ValueError("a mistake in a stage"), StageError, "failed", 3),
        (MemoryError(), StageError, "failed", 3),
        (GateError("too few pairs"), GateError, "failed", 4),
        (KeyboardInterrupt(), Interrupted, "interrupted", 130),
        (SystemExit(1), Interrupted, "interrupted", 130),
    ],
)
def test_whatever_ends_a_run_is_recorded_and_reported(store, path, error, kind, status, code):
    def engine(run, chosen):
        execute_step(run.run_id, chosen[0])
        raise error

    with pytest.raises(kind) as caught:
        run_toy(store, path, engine=engine)
    row = find_run(store, "latest")
    assert (row["status"], caught.value.exit_code) == (status, code)
    assert f"zscir rerun {row['run_id']}" in str(caught.value)
    assert type(error).__name__ in str(caught.value) or kind in (GateError, Interrupted)


def test_a_store_that_goes_away_in_the_middle_is_reported_with_the_line_to_type(store, path, tmp_path):
    def engine(run, chosen):
        execute_step(run.run_id, chosen[0])
        os.rename(store.root, tmp_path / "moved")
        (tmp_path / "store").write_text("in the way")
        execute_step(run.run_id, chosen[1])

    with pytest.raises(StageError, match="zscir rerun "):
        run_toy(store, path, engine=engine)


def test_secrets_are_left_out_of_the_record(store):
    from zscir.lineage.environment import redact

    request = {
        "store": "s3://bucket/x",
        "endpoint": "https://user:hunter2@host/v1",
        "aws_secret_access_key": "abc",
        "nested": [{"api_key": "abc", "Token": "abc", "steps": 3, "password": None}],
    }
    assert redact(request) == {
        "store": "s3://bucket/x",
        "endpoint": "https://***:***@host/v1",
        "aws_secret_access_key": "***",
        "nested": [{"api_key": "***", "Token": "***", "steps": 3, "password": None}],
    }


def test_no_credential_of_the_environment_is_anywhere_in_the_lineage(store, path, monkeypatch):
    for name in ("AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, "hunter2-hunter2")
    run = run_toy(store, path)
    for name in [*COLUMNS, "gates"]:
        assert "hunter2" not in str(table(store, run, name))


def test_two_runs_at_once_in_one_store_both_have_whole_records(store, path, tmp_path):
    processes = [start(one_run, store.uri, tmp_path / "cache", path) for _ in range(3)]
    for process in processes:
        finish(process)
    found = list_runs(store)
    assert [row["status"] for row in found] == ["succeeded"] * 3
    made = query_store_rows(store, "SELECT step, count(*) FILTER (outcome = 'made') AS made FROM stages GROUP BY step")
    assert {row["made"] for row in made} == {1}


def one_run(uri, cache, path):
    run_toy(store_at(uri, cache), path)


def test_a_recorder_records_the_flow_run_of_prefect(store):
    recorder = Recorder(store, RunInfo("r1", "p", "d", "cli", "{}"))
    recorder.set_flow_run("flow-1")
    recorder.finish("succeeded")
    assert query_store_rows(store, "SELECT flow_run_id, status FROM run") == [
        {"flow_run_id": "flow-1", "status": "succeeded"}
    ]
