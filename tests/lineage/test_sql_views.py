import pytest

from tests.support.toy_pipelines import run_toy, write_toy
from tests.support.toys import store_at
from zscir.lineage.sql_views import RECORD_SCHEMAS, query_store, query_store_rows
from zscir.lineage.tables import LINEAGE_SCHEMAS
from zscir.runtime.errors import RequestError


def test_every_table_can_be_queried_in_an_empty_store(store):
    for name in [*LINEAGE_SCHEMAS, *RECORD_SCHEMAS, "ancestry"]:
        names, found = query_store(store, f"SELECT * FROM {name}")  # noqa: S608 - our own names
        assert names
        assert found == []


def test_a_query_that_names_no_table_sees_all_of_the_lineage(store, toy_run):
    assert {name for (name,) in query_store(store, "SHOW TABLES")[1]} == {*LINEAGE_SCHEMAS, "removed", "ancestry"}


def test_the_pairs_of_a_source_are_counted_through_their_artifact(store, toy_run):
    found = query_store_rows(store, "SELECT source, count(*) AS n FROM pairs GROUP BY source ORDER BY source")
    assert found == [
        {"source": "short", "n": toy_run.artifacts["short"].facts["rows"]},
        {"source": "toy", "n": toy_run.artifacts["ingest"].facts["rows"]},
    ]
    keys = query_store_rows(
        store, "SELECT DISTINCT artifact_key AS key, stage FROM pairs JOIN artifacts ON key = artifact_key"
    )
    assert {row["key"] for row in keys} == {toy_run.artifacts["short"].key, toy_run.artifacts["ingest"].key}


def test_ancestry_leads_from_an_artifact_to_everything_it_came_from(store, toy_run):
    made = {name: artifact.key for name, artifact in toy_run.artifacts.items()}
    found = query_store_rows(store, "SELECT ancestor_key FROM ancestry WHERE key = $1", [made["short"]])
    assert {row["ancestor_key"] for row in found} == {made["short"], made["tabletop"]}
    found = query_store_rows(store, "SELECT ancestor_key FROM ancestry WHERE key = $1", [made["tabletop"]])
    assert found == [{"ancestor_key": made["tabletop"]}]


def test_a_wrong_query_is_refused_with_duckdbs_message_and_the_tables(store):
    with pytest.raises(RequestError, match=r"(?s)sql: .*nothing.*\nthe tables are: run, stages"):
        query_store(store, "SELECT * FROM nothing")
    with pytest.raises(RequestError, match="sql: "):
        query_store(store, "SELEC")


def test_names_of_tables_may_be_written_in_capitals(store, toy_run):
    assert query_store(store, "SELECT count(*) FROM PAIRS")[1][0][0] > 0


def test_times_are_in_utc(store, toy_run):
    ((offset,),) = query_store(store, "SELECT extract('timezone' FROM started_at) FROM run")[1]
    assert offset == 0


def test_a_query_changes_nothing_in_the_store(store, toy_run):
    before = sorted(store.fs.find(store.root))
    query_store(store, "SELECT * FROM run, pairs")
    assert sorted(store.fs.find(store.root)) == before


def test_a_damaged_lineage_file_is_reported_and_is_no_traceback(store, toy_run):
    store.fs.pipe_file(store.address("lineage", toy_run.run_id, "run.parquet"), b"not parquet")
    with pytest.raises(RequestError, match=rf"{toy_run.run_id}/run\.parquet"):
        query_store(store, "SELECT * FROM run")


def test_a_table_of_the_same_name_and_another_shape_is_not_mixed_in(store, toy_run):
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = toy_run.artifacts["tabletop"]
    pq.write_table(pa.table({"left": [1]}), f"{store.root}/tabletop/{made.key}/pairs.parquet")
    assert query_store_rows(store, "SELECT count(*) AS n FROM pairs WHERE url IS NULL") == [{"n": 0}]


def test_a_store_whose_path_has_a_quote_can_be_queried(tmp_path):
    store = store_at(tmp_path / "it's [here]", tmp_path / "cache")
    run_toy(store, write_toy(tmp_path / "specs"), only="tabletop")
    assert query_store_rows(store, "SELECT count(*) AS n FROM run") == [{"n": 1}]


def test_lineage_and_records_on_s3_can_be_queried(s3, path, tmp_path):
    store = store_at(s3, tmp_path / "cache")
    run = run_toy(store, path)
    assert query_store_rows(store, "SELECT status FROM run") == [{"status": "succeeded"}]
    assert query_store_rows(store, "SELECT count(*) AS n FROM artifacts") == [{"n": 3}]
    found = query_store_rows(
        store, "SELECT count(*) AS n FROM pairs WHERE artifact_key = $1", [run.artifacts["short"].key]
    )
    assert found == [{"n": run.artifacts["short"].facts["rows"]}]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "specs"]
