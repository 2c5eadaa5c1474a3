from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zscir.report import artifact_reader
from zscir.runtime.errors import RequestError
from zscir.store.artifacts import Artifact


def table(folder: Path, words: list[str], group: int = 1 << 20) -> Artifact:
    folder.mkdir(exist_ok=True)
    rows = pa.table({"word": pa.array(words, pa.string()), "at": pa.array(range(len(words)), pa.int64())})
    pq.write_table(rows, folder / "t.parquet", row_group_size=group)
    return Artifact.of_folder(folder)


@given(st.lists(st.integers(0, 99)), st.integers(0, 20))
def test_evenly_spaced_items_are_in_order_and_as_many_as_requested(items: list[int], count: int) -> None:
    taken = artifact_reader.evenly(items, count)
    assert len(taken) == min(count, len(items))
    if len(items) <= count:
        assert taken == items
    elif taken:
        assert taken[0] == items[0]
        gaps = {
            b - a
            for a, b in zip(
                artifact_reader.evenly(range(len(items)), count),
                artifact_reader.evenly(range(len(items)), count)[1:],
                strict=False,
            )
        }
        assert len(gaps) <= 2  # each gap is the floor or the ceiling of the same share


def test_spread_rows_reach_over_the_whole_table(tmp_path: Path) -> None:
    rows = artifact_reader.spread_rows(table(tmp_path, ["w"] * 1000, group=100), "t.parquet", 8)
    at = [row["at"] for row in rows]
    assert len(at) == 8
    assert at == sorted(at)
    assert {place // 100 for place in at} == {0, 2, 5, 7}  # four of ten row groups


def test_spread_rows_keep_only_what_passes_the_filter(tmp_path: Path) -> None:
    artifact = table(tmp_path, ["yes" if number % 7 == 0 else "no" for number in range(500)])
    rows = artifact_reader.spread_rows(artifact, "t.parquet", 5, pc.field("word") == "yes")
    assert [row["at"] % 7 for row in rows] == [0] * 5


def test_spread_rows_of_small_and_empty_tables(tmp_path: Path) -> None:
    assert len(artifact_reader.spread_rows(table(tmp_path / "a", ["x"] * 3), "t.parquet", 8)) == 3
    assert artifact_reader.spread_rows(table(tmp_path / "b", []), "t.parquet", 8) == []


def test_a_large_table_is_read_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact_reader, "READ_BATCH_ROWS", 64)
    artifact = table(tmp_path, [f"w{number % 5}" for number in range(1000)], group=300)
    assert max(batch.num_rows for batch in artifact_reader.read_batches(artifact, "t.parquet")) == 64
    assert [row["at"] for row in artifact_reader.rows_with(artifact, "t.parquet", "word", {"w3"})] == list(
        range(3, 1000, 5)
    )
    assert artifact_reader.count_values(artifact, "t.parquet", "word") == [(f"w{number}", 200) for number in range(5)]
    assert len(artifact_reader.spread_rows(artifact, "t.parquet", 10)) == 10
    assert [row["at"] for row in artifact_reader.read_first_rows(artifact, "t.parquet", 70)] == list(range(70))


def test_rows_with_stop_at_most(tmp_path: Path) -> None:
    artifact = table(tmp_path, ["w"] * 50)
    assert len(artifact_reader.rows_with(artifact, "t.parquet", "word", {"w"}, max_rows=7)) == 7
    assert artifact_reader.rows_with(artifact, "t.parquet", "word", set()) == []


@given(st.lists(st.sampled_from("abc")))
def test_counts_are_those_of_a_counter(words: list[str]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        found = artifact_reader.count_values(table(Path(folder), words), "t.parquet", "word")
    assert dict(found) == Counter(words)
    assert [count for _, count in found] == sorted((count for _, count in found), reverse=True)


def test_endless_reasons_are_summed_up(tmp_path: Path) -> None:
    found = artifact_reader.count_values(table(tmp_path, [f"r{number}" for number in range(3000)]), "t.parquet", "word")
    assert len(found) == artifact_reader.MAX_REASONS + 1
    assert found[0] == ("(other)", 3000 - artifact_reader.MAX_REASONS)


def test_a_broken_table_is_an_error_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(RequestError, match=r"t\.parquet: not a readable Parquet file"):
        artifact_reader.read_first_rows(Artifact.of_folder(tmp_path), "t.parquet", 1)


def test_columns_are_looked_up_before_rows_are_read(tmp_path: Path) -> None:
    artifact = table(tmp_path, ["x"])
    assert artifact_reader.has_columns(artifact, "t.parquet", ("word",))
    assert not artifact_reader.has_columns(artifact, "t.parquet", ("word", "value"))
    assert not artifact_reader.has_columns(artifact, "u.parquet", ("word",))


def test_a_span_is_exactly_those_bytes(tmp_path: Path) -> None:
    (tmp_path / "f.bin").write_bytes(b"0123456789")
    artifact = Artifact.of_folder(tmp_path)
    assert artifact_reader.read_span(artifact, "f.bin", 3, 4) == b"3456"
    assert artifact_reader.read_span(artifact, "f.bin", 8, 9) == b"89"
