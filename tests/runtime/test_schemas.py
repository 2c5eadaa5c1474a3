import datetime
from hashlib import sha256

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zscir.runtime import schemas
from zscir.runtime.errors import RequestError
from zscir.runtime.schemas import (
    PAIRS_SCHEMA,
    SCORES_SCHEMA,
    checked_table,
    read_rows,
    read_table,
    schema_of,
    write_table,
)

SMALL = schema_of(name="str", size="i64", share="f64?")


def pair(number=0, **changes):
    row = {
        "pair_id": f"{number:032x}",
        "url": f"http://example.test/{number}.jpg",
        "text": "a cat",
        "source": "toy",
        "licence": None,
        "source_row": number,
    }
    return row | changes


def test_the_columns_are_those_of_the_design():
    columns = {
        "PAIRS_SCHEMA": "pair_id url text source licence source_row",
        "IMAGES_SCHEMA": "image_key pair_id url text status error_class error http_status attempts sha256 width height "
        "original_width original_height shard offset size",
        "TRIPLETS_SCHEMA": "triplet_id source reference_key target_key text mask_seed mask_ratio response_id "
        "reference_caption target_caption",
        "RESPONSES_SCHEMA": "response_id prompt_digest model model_revision request response error tokens_in "
        "tokens_out attempts",
        "RANKINGS_SCHEMA": "benchmark split query_id rank image_id score",
        "SCORES_SCHEMA": "benchmark split protocol method backbone metric value n",
        "REJECTS_SCHEMA": "stage id reason detail",
        "CURVE_SCHEMA": "step name value",
    }
    for name, words in columns.items():
        assert getattr(schemas, name).names == words.split(), name


def test_rows_come_back_as_they_went_in(tmp_path):
    rows = [pair(1, licence="CC0"), pair(2)]
    assert write_table(tmp_path / "pairs.parquet", PAIRS_SCHEMA, rows) == 2
    assert read_rows(tmp_path / "pairs.parquet", PAIRS_SCHEMA) == rows


def test_equal_rows_give_equal_bytes_whatever_the_order_of_their_keys(tmp_path):
    rows = [pair(number) for number in range(1000)]
    write_table(tmp_path / "a.parquet", PAIRS_SCHEMA, rows)
    write_table(tmp_path / "b.parquet", PAIRS_SCHEMA, [dict(reversed(row.items())) for row in rows])
    write_table(
        tmp_path / "c.parquet",
        PAIRS_SCHEMA,
        checked_table(rows, PAIRS_SCHEMA).select(list(reversed(PAIRS_SCHEMA.names))),
    )
    digests = {sha256((tmp_path / f"{name}.parquet").read_bytes()).hexdigest() for name in "abc"}
    assert len(digests) == 1


def test_a_table_in_batches_gives_the_bytes_of_the_table_in_one(tmp_path):
    rows = [pair(number) for number in range(100)]
    batches = pa.concat_tables([checked_table(rows[:30], PAIRS_SCHEMA), checked_table(rows[30:], PAIRS_SCHEMA)])
    write_table(tmp_path / "a.parquet", PAIRS_SCHEMA, rows)
    write_table(tmp_path / "b.parquet", PAIRS_SCHEMA, batches)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


@given(st.lists(st.fixed_dictionaries({"name": st.text(), "size": st.integers(-(2**63), 2**63 - 1)})))
def test_any_text_and_number_comes_back(rows):
    assert checked_table(rows, SMALL).to_pylist() == [row | {"share": None} for row in rows]


def test_no_rows_are_a_table_too(tmp_path):
    write_table(tmp_path / "none.parquet", SCORES_SCHEMA, [])
    assert read_table(tmp_path / "none.parquet", SCORES_SCHEMA).num_rows == 0


def test_a_null_where_none_is_allowed_is_refused_by_column(tmp_path):
    with pytest.raises(RequestError, match="column 'url' holds 1 nulls"):
        write_table(tmp_path / "pairs.parquet", PAIRS_SCHEMA, [pair(1, url=None)])
    assert not (tmp_path / "pairs.parquet").exists()


def test_a_missing_value_counts_as_null():
    row = pair(1)
    del row["text"]
    with pytest.raises(RequestError, match="column 'text'"):
        checked_table([row], PAIRS_SCHEMA)


def test_an_unknown_column_is_refused_by_name():
    with pytest.raises(RequestError, match=r"\['colour'\]"):
        checked_table([pair(1, colour="red")], PAIRS_SCHEMA)


@pytest.mark.parametrize("wrong", ["one", 1.5, 2**63])
def test_a_value_of_the_wrong_type_is_refused(wrong):
    with pytest.raises(RequestError):
        checked_table([pair(1, source_row=wrong)], PAIRS_SCHEMA)


def test_a_table_of_another_type_is_refused_when_read(tmp_path):
    pq.write_table(pa.table({"name": ["a"], "size": pa.array([1], pa.int32()), "share": [0.5]}), tmp_path / "t.parquet")
    with pytest.raises(RequestError, match=r"t\.parquet: column 'size' is int32, expected int64"):
        read_table(tmp_path / "t.parquet", SMALL)


def test_a_table_without_a_column_is_refused_when_read(tmp_path):
    pq.write_table(pa.table({"name": ["a"], "share": [0.5]}), tmp_path / "t.parquet")
    with pytest.raises(RequestError, match=r"columns missing \['size'\]"):
        read_table(tmp_path / "t.parquet", SMALL)


def test_a_table_that_is_not_there_or_broken_is_refused(tmp_path):
    with pytest.raises(RequestError, match="no such table"):
        read_table(tmp_path / "no.parquet", SMALL)
    write_table(tmp_path / "t.parquet", SMALL, [{"name": "a", "size": 1}])
    whole = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "t.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RequestError, match="not a readable Parquet file"):
        read_table(tmp_path / "t.parquet", SMALL)


def test_a_folder_named_like_a_partition_adds_no_column(tmp_path):
    (tmp_path / "year=2024").mkdir()
    write_table(tmp_path / "year=2024" / "t.parquet", SMALL, [{"name": "a", "size": 1}])
    assert read_table(tmp_path / "year=2024" / "t.parquet", SMALL).num_rows == 1


def test_times_are_utc(tmp_path):
    schema = schema_of(at="time")
    moment = datetime.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=datetime.UTC)
    write_table(tmp_path / "t.parquet", schema, [{"at": moment}])
    assert read_rows(tmp_path / "t.parquet", schema) == [{"at": moment}]
    assert str(schema.field("at").type) == "timestamp[us, tz=UTC]"
