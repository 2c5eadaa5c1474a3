from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.toy_pipelines import ORDER, load_toy, run_toy
from tests.support.toys import store_at
from zscir.lineage.previous_runs import PreviousRuns
from zscir.lineage.sql_views import query_store_rows
from zscir.lineage.tables import LINEAGE_SCHEMAS
from zscir.pipeline.plan import PreviousStep, previous_steps
from zscir.runtime.errors import RequestError
from zscir.runtime.schemas import write_table

BEGIN = datetime(2026, 1, 31, 23, 59, 50, tzinfo=UTC)
STAGES = {"tabletop": "tabletop", "short": "ingest", "ingest": "ingest"}

# One step of a run: what it came by, if anything, and whether it made it.
step_done = st.none() | st.tuples(st.sampled_from("abc"), st.booleans())
run_done = st.tuples(
    st.integers(0, 3),  # seconds since the run before
    st.sampled_from(["toy", "toy", "other"]),
    st.sampled_from(["succeeded", "failed", "running"]),
    st.fixed_dictionaries(dict.fromkeys(ORDER, step_done)),
)


def write_down(store, runs):
    """What recorders would have left of these runs, oldest first; the ids of one second are in no order."""
    at = BEGIN
    for number, (later_s, pipeline, status, steps) in enumerate(runs):
        at += timedelta(seconds=later_s, milliseconds=1)
        run_id = f"{at:%Y%m%d-%H%M%S}-{(number * 7919) % 4096:06x}"
        run = {
            "run_id": run_id, "pipeline": pipeline, "status": status, "started_at": at, "spec_digest": "",
            "trigger": "cli", "zscir_version": "", "python_version": "", "platform": "", "packages": "{}",
            "user_config": "{}",
        }  # fmt: skip
        stages = [
            {
                "run_id": run_id, "step": step, "stage": STAGES[step], "key": done[0] if done else None,
                "outcome": ("made" if done[1] else "reused") if done else "failed", "attempts": 1, "worker": "",
                "started_at": at, "wall_s": float(number),
            }
            for step, done in steps.items()
        ]  # fmt: skip
        for name, table in {"run": [run], "stages": stages, "artifacts": [], "edges": []}.items():
            path = Path(store.address("lineage", run_id, f"{name}.parquet"))
            path.parent.mkdir(parents=True, exist_ok=True)
            write_table(path, LINEAGE_SCHEMAS[name], table)


@given(runs=st.lists(run_done, max_size=6))
def test_the_newest_word_on_each_step_is_that_of_sql_over_all_runs(tmp_path_factory, runs):
    folder = tmp_path_factory.mktemp("past")
    store = store_at(folder / "store", folder / "cache")
    write_down(store, runs)
    query = """
        SELECT step, stage, arg_max(key, run.started_at) AS key,
               arg_max(key, run.started_at) FILTER (status = 'succeeded') AS good_key
        FROM stages JOIN run USING (run_id) WHERE pipeline = 'toy' AND key IS NOT NULL GROUP BY step, stage
    """
    expected = {
        row["step"]: PreviousStep(row["stage"], row["key"], None, row["good_key"])
        for row in query_store_rows(store, query)
    }
    assert previous_steps(PreviousRuns(store), load_toy(folder / "specs")) == expected


@pytest.fixture(params=["local", "s3"])
def anywhere(request, tmp_path):
    uri = request.getfixturevalue("s3") if request.param == "s3" else tmp_path / "store"
    return store_at(uri, tmp_path / "cache")


def spoil(store, run_id):
    for name in LINEAGE_SCHEMAS:
        store.fs.pipe_file(store.address("lineage", run_id, f"{name}.parquet"), b"not parquet")


def test_a_finished_pipeline_opens_no_table_of_the_runs_before_its_last(store, path):
    run_toy(store, path)
    store.fs.makedirs(store.address("lineage", "20200131-000000-abcdef"))
    spoil(store, "20200131-000000-abcdef")
    for _ in range(2):  # after the run that made everything, and after one that reused it
        assert {row["outcome"] for row in run_toy(store, path).recorder.steps()} == {"reused"}


def test_a_table_that_cannot_be_read_is_reported_by_its_name(store, path):
    run = run_toy(store, path)
    spoil(store, run.run_id)
    with pytest.raises(RequestError, match=rf"lineage/{run.run_id}/run\.parquet"):
        run_toy(store, path)


def test_the_cost_of_a_step_comes_from_the_run_that_made_its_artifact(anywhere, path):
    made = run_toy(anywhere, path)
    run_toy(anywhere, path)
    cost = {row["step"]: row["wall_s"] for row in made.recorder.steps()}
    found = previous_steps(PreviousRuns(anywhere), made.pipeline)
    assert {name: one.wall_s for name, one in found.items()} == cost


def test_an_artifact_keeps_the_run_that_made_these_bytes(anywhere, path):
    made = run_toy(anywhere, path)
    artifact = made.artifacts["short"]
    again = run_toy(anywhere, path)
    row = PreviousRuns(anywhere).artifact(artifact.key, artifact.digest)
    assert row["created_by_run"] == made.run_id != again.run_id
    assert [one for one in query_store_rows(anywhere, "SELECT * FROM artifacts") if one["key"] == artifact.key] == [row]
    assert PreviousRuns(anywhere).artifact(artifact.key, "0" * 64) is None
    assert PreviousRuns(anywhere).artifact("0" * 64, artifact.digest) is None
