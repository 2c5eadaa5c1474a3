from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zscir.data.download.chunks import URLS_SCHEMA, content_defined_chunks, distinct_urls, read_chunk, write_chunks
from zscir.runtime.schemas import PAIRS_SCHEMA, checked_table, write_table


def key(url: str) -> str:
    return sha256(url.encode()).hexdigest()


def urls_table(numbers: list[int]) -> pa.Table:
    rows = [{"image_key": key(f"u{number}"), "url": f"u{number}", "text": str(number)} for number in numbers]
    return checked_table(rows, URLS_SCHEMA)


def groups(numbers: list[int], chunk_rows: int, batch: int = 10_000) -> list[list[str]]:
    tables = [urls_table(numbers[first : first + batch]) for first in range(0, len(numbers), batch)]
    return [table.column("url").to_pylist() for table in content_defined_chunks(tables, chunk_rows)]


def pairs_in(folder: Path, rows: list[tuple[str, str]]) -> Path:
    table = [
        {"pair_id": f"p{number}", "url": url, "text": text, "source": "s", "source_row": number}
        for number, (url, text) in enumerate(rows)
    ]
    write_table(folder / "pairs.parquet", PAIRS_SCHEMA, table)
    return folder / "pairs.parquet"


def test_chunks_hold_distinct_urls_with_their_first_texts_sorted_by_key(tmp_path: Path) -> None:
    rows = [("u1", "a"), ("u2", "b"), ("u1", "c"), ("\N{SNOWMAN}", "d"), ("u2", "e"), ("u4", "f"), ("u5", "g")]
    count, urls = write_chunks(distinct_urls(pairs_in(tmp_path, rows), tmp_path), tmp_path, 100)
    chunks = [read_chunk(tmp_path / f"{number:05d}.parquet") for number in range(count)]
    assert urls == 5
    assert sorted((t.url, t.text) for chunk in chunks for t in chunk) == sorted(
        [("u1", "a"), ("u2", "b"), ("\N{SNOWMAN}", "d"), ("u4", "f"), ("u5", "g")]
    )
    for chunk in chunks:
        assert [target.image_key for target in chunk] == sorted(key(target.url) for target in chunk)


@given(st.integers(0, 300), st.integers(2, 40), st.integers(1, 50))
def test_cutting_loses_nothing_and_keeps_its_bounds_whatever_the_batches(
    rows: int, chunk_rows: int, batch: int
) -> None:
    found = groups(list(range(rows)), chunk_rows, batch)
    assert [url for group in found for url in group] == [f"u{number}" for number in range(rows)]
    assert all(max(1, chunk_rows // 4) <= len(group) <= chunk_rows for group in found[:-1])
    assert found == groups(list(range(rows)), chunk_rows)


@given(st.integers(1, 400), st.integers(1, 50))
def test_appended_rows_move_the_last_chunk_alone(rows: int, more: int) -> None:
    before, after = groups(list(range(rows)), 20), groups(list(range(rows + more)), 20)
    assert after[: len(before) - 1] == before[:-1]


@pytest.mark.parametrize("place", [0, 500, 1500, 2999])
def test_a_row_put_in_or_taken_out_moves_few_chunks(place: int) -> None:
    numbers = list(range(3000))
    before = {tuple(group) for group in groups(numbers, 50)}
    put_in = groups([*numbers[:place], 99_999, *numbers[place:]], 50)
    taken_out = groups([*numbers[:place], *numbers[place + 1 :]], 50)
    for after in (put_in, taken_out):
        assert len({tuple(group) for group in after} - before) <= 4


def test_a_block_of_rows_that_moves_keeps_most_of_its_chunks() -> None:
    numbers = list(range(3000))
    before = {tuple(group) for group in groups(numbers, 50)}
    after = groups([*numbers[2000:], *numbers[:2000]], 50)
    assert len({tuple(group) for group in after} - before) <= 6


def test_rows_that_change_places_inside_a_chunk_leave_its_bytes_alone(tmp_path: Path) -> None:
    numbers = list(range(200))
    ends = [len(group) for group in groups(numbers, 50)]
    swapped = [numbers[1], numbers[0], *numbers[2:]]
    assert ends[0] > 3
    for name, order in (("a", numbers), ("b", swapped)):
        (tmp_path / name).mkdir()
        write_chunks([urls_table(order)], tmp_path / name, 50)
    files = [sorted(path.read_bytes() for path in (tmp_path / name).iterdir()) for name in "ab"]
    assert files[0] == files[1]
