from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.data.download.test_chunks import pairs_in
from zscir.data.download.merge_chunks import (
    RECORD_SCHEMA,
    ChunkRecords,
    download_facts,
    merge_records,
    read_retriable_urls,
    write_download_rejects,
    write_host_counts,
)
from zscir.runtime.schemas import HOSTS_SCHEMA, IMAGES_SCHEMA, REJECTS_SCHEMA, read_rows, write_table


def key(url: str) -> str:
    return sha256(url.encode()).hexdigest()


def records_in(folder: Path, *chunks: list[dict[str, Any]]) -> ChunkRecords:
    paths = []
    for number, rows in enumerate(chunks):
        path = folder / f"chunk-{number}" / "record.parquet"
        path.parent.mkdir()
        write_table(
            path, RECORD_SCHEMA, [{"image_key": key(row["url"]), "text": "t", "attempts": 1} | row for row in rows]
        )
        paths.append(path)
    return ChunkRecords(tuple(paths))


OK = {"status": "ok", "offset": 512}


def failed(error_class: str) -> dict[str, Any]:
    return {"status": "failed", "error_class": error_class}


@pytest.mark.parametrize("odd", ["plain", "a[0]*?", "it's"])
def test_every_pair_gets_the_row_of_its_url_in_the_order_of_the_pairs(tmp_path: Path, odd: str) -> None:
    folder = tmp_path / odd
    folder.mkdir()
    pairs = pairs_in(folder, [("u2", "a"), ("u1", "b"), ("u2", "c")])
    records = records_in(folder, [{"url": "u1"} | failed("dns") | {"attempts": 3}], [{"url": "u2"} | OK])
    merge_records(pairs, records, folder / "images.parquet")
    write_download_rejects(folder / "images.parquet", folder / "rejects.parquet")
    rows = read_rows(folder / "images.parquet", IMAGES_SCHEMA)
    assert [(r["pair_id"], r["url"], r["text"], r["status"], r["offset"], r["shard"], r["attempts"]) for r in rows] == [
        ("p0", "u2", "a", "ok", 512, "00001.tar", 1),
        ("p1", "u1", "b", "failed", None, None, 3),
        ("p2", "u2", "c", "ok", 512, "00001.tar", 1),
    ]
    assert read_rows(folder / "rejects.parquet", REJECTS_SCHEMA) == [
        {"stage": "download", "id": "p1", "reason": "dns", "detail": ""}
    ]
    assert download_facts(folder / "images.parquet") == {
        "rows": 3, "ok": 2, "rejects": 1, "success_rate": 0.666667, "images": 1, "failed_by_class": {"dns": 1},
    }  # fmt: skip


def test_the_last_round_has_the_last_word_and_attempts_add_up(tmp_path: Path) -> None:
    pairs = pairs_in(tmp_path, [("u1", "a"), ("u2", "b"), ("u3", "c")])
    records = records_in(
        tmp_path,
        [{"url": "u1"} | OK, {"url": "u2"} | failed("timeout"), {"url": "u3"} | failed("http_500")],
        [{"url": "u2", "attempts": 2} | OK, {"url": "u3"} | failed("timeout")],
    )
    merge_records(pairs, records, tmp_path / "images.parquet")
    rows = read_rows(tmp_path / "images.parquet", IMAGES_SCHEMA)
    assert [(row["status"], row["error_class"], row["shard"], row["attempts"]) for row in rows] == [
        ("ok", None, "00000.tar", 1), ("ok", None, "00001.tar", 3), ("failed", "timeout", None, 2),
    ]  # fmt: skip


def test_what_may_pass_is_listed_again_and_what_came_meanwhile_is_not(tmp_path: Path) -> None:
    records = records_in(
        tmp_path,
        [{"url": "u1"} | failed("http_404"), {"url": "u2"} | failed("timeout"), {"url": "u3"} | failed("timeout")],
        [{"url": "u3"} | OK],
    )
    tables = list(read_retriable_urls(records, frozenset({"timeout", "connect"}), tmp_path))
    assert [row for table in tables for row in table.to_pylist()] == [
        {"image_key": key("u2"), "url": "u2", "text": "t"}
    ]
    assert list(read_retriable_urls(ChunkRecords(()), frozenset({"timeout"}), tmp_path)) == []


def test_hosts_are_counted_whatever_the_spelling_of_the_url(tmp_path: Path) -> None:
    urls = ["http://A.test/1", "https://a.test:8443/2?x=/y", "http://user@b.test", "http://[::1]:80/c", "no url"]
    pairs = pairs_in(tmp_path, [(url, "t") for url in [*urls, urls[0]]])
    rows = [{"url": url} | (OK if number == 0 else failed("dns")) for number, url in enumerate(urls)]
    merge_records(pairs, records_in(tmp_path, rows), tmp_path / "images.parquet")
    write_host_counts(tmp_path / "images.parquet", tmp_path / "hosts.parquet")
    found = [tuple(row.values()) for row in read_rows(tmp_path / "hosts.parquet", HOSTS_SCHEMA)]
    assert found == [
        ("", "dns", 1), ("[::1]", "dns", 1), ("a.test", None, 1), ("a.test", "dns", 1), ("b.test", "dns", 1),
    ]  # fmt: skip
