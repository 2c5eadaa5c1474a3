from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from zscir.fetch.chunks import RECORD, assemble, chunk, plan, reject, summary
from zscir.fetch.joins import query
from zscir.records import IMAGES, PAIRS, REJECTS, read_rows, schema_of, write_table


def key(url: str) -> str:
    return sha256(url.encode()).hexdigest()


def pairs_in(folder: Path, rows: list[tuple[str, str]]) -> Path:
    table = [
        {"pair_id": f"p{number}", "url": url, "text": text, "source": "s", "source_row": number}
        for number, (url, text) in enumerate(rows)
    ]
    write_table(folder / "pairs.parquet", PAIRS, table)
    return folder / "pairs.parquet"


def record(folder: Path, number: int, rows: list[dict[str, Any]]) -> None:
    (folder / "records").mkdir(exist_ok=True)
    write_table(folder / "records" / f"{number:05d}.parquet", RECORD, rows)


def test_chunks_are_distinct_urls_in_the_order_of_their_first_pairs(tmp_path: Path) -> None:
    rows = [("u1", "a"), ("u2", "b"), ("u1", "c"), ("\N{SNOWMAN}", "d"), ("u2", "e"), ("u4", "f"), ("u5", "g")]
    total = plan(pairs_in(tmp_path, rows), tmp_path / "plan.parquet", 2)
    chunks = [chunk(tmp_path / "plan.parquet", number) for number in range(total)]
    assert [[(t.url, t.text) for t in one.targets] for one in chunks] == [
        [("u1", "a"), ("u2", "b")], [("\N{SNOWMAN}", "d"), ("u4", "f")], [("u5", "g")],
    ]  # fmt: skip
    assert all(target.image_key == key(target.url) for one in chunks for target in one.targets)
    assert [one.name for one in chunks] == ["00000", "00001", "00002"]


def test_a_plan_is_made_once(tmp_path: Path) -> None:
    plan(pairs_in(tmp_path, [("u1", "a"), ("u2", "b")]), tmp_path / "plan.parquet", 2)
    made = (tmp_path / "plan.parquet").stat().st_mtime_ns
    assert plan(tmp_path / "pairs.parquet", tmp_path / "plan.parquet", 2) == 1
    assert (tmp_path / "plan.parquet").stat().st_mtime_ns == made


@pytest.mark.parametrize("odd", ["plain", "a[0]*?", "it's"])
def test_every_pair_gets_the_row_of_its_url_in_the_order_of_the_pairs(tmp_path: Path, odd: str) -> None:
    folder = tmp_path / odd
    folder.mkdir()
    pairs = pairs_in(folder, [("u2", "a"), ("u1", "b"), ("u2", "c")])
    record(folder, 0, [{"image_key": key("u2"), "status": "ok", "attempts": 1, "shard": "00000.tar", "offset": 512}])
    record(folder, 1, [{"image_key": key("u1"), "status": "failed", "attempts": 3, "error_class": "dns"}])
    assemble(pairs, folder / "records", folder / "images.parquet")
    reject(folder / "images.parquet", folder / "rejects.parquet")
    rows = read_rows(folder / "images.parquet", IMAGES)
    assert [(row["pair_id"], row["url"], row["text"], row["status"], row["offset"]) for row in rows] == [
        ("p0", "u2", "a", "ok", 512), ("p1", "u1", "b", "failed", None), ("p2", "u2", "c", "ok", 512),
    ]  # fmt: skip
    assert read_rows(folder / "rejects.parquet", REJECTS) == [
        {"stage": "download", "id": "p1", "reason": "dns", "detail": ""}
    ]
    assert summary(folder / "images.parquet") == {
        "rows": 3, "ok": 2, "rejects": 1, "success_rate": 0.666667, "images": 1, "failed_by_class": {"dns": 1},
    }  # fmt: skip


@pytest.mark.parametrize(("count", "rows"), [(0, 3), (1, 3), (3, 3), (7, 3), (5000, 2047), (5000, 5000)])
def test_a_query_gives_tables_of_exactly_so_many_rows(tmp_path: Path, count: int, rows: int) -> None:
    sql = "SELECT range AS n FROM range(CAST($count AS BIGINT)) ORDER BY range"
    tables = list(query(sql, tmp_path, rows, schema_of(n="i64"), count=str(count)))
    assert [table.num_rows for table in tables[:-1]] == [rows] * (len(tables) - 1)
    assert [n for table in tables for n in table["n"].to_pylist()] == list(range(count))
    assert all(table.num_rows for table in tables)
