import json
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zscir.runtime.errors import RequestError
from zscir.runtime.schemas import PAIRS_SCHEMA, REJECTS_SCHEMA, read_rows
from zscir.stages.ingest import IngestSpec, ingest
from zscir.store.artifacts import Artifact

SPEC = IngestSpec(source="mine")


def run(folder: Path, spec: IngestSpec = SPEC) -> tuple[list[dict], list[dict], dict]:
    out = folder.parent / f"{folder.name}-out"
    out.mkdir(exist_ok=True)
    facts = ingest(spec, urls=Artifact.of_folder(folder), out=out)
    return read_rows(out / "pairs.parquet", PAIRS_SCHEMA), read_rows(out / "rejects.parquet", REJECTS_SCHEMA), facts


def listed(folder: Path, rows: list[dict[str, object]], name: str = "a.jsonl") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_pairs_are_known_by_url_and_text(tmp_path: Path) -> None:
    url = "http://a.test/1.jpg"
    rows = [{"url": url, "text": "a dog"}, {"url": url, "text": "a cat"}, {"url": f" {url} ", "text": "a dog\n"}]
    pairs, rejects, facts = run(listed(tmp_path / "in", rows))
    assert [(pair["text"], pair["source_row"], pair["source"]) for pair in pairs] == [
        ("a dog", 0, "mine"), ("a cat", 1, "mine"),
    ]  # fmt: skip
    assert pairs[0]["pair_id"] == sha256(f"{url}\na dog".encode()).hexdigest()[:32]
    assert [(row["id"], row["reason"], row["detail"]) for row in rejects] == [("a.jsonl#3", "duplicate", url)]
    assert facts == {"rows": 2, "rejects": 1, "files": 1, "rejects_by_reason": {"duplicate": 1}}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": "t"}, "no_url"), ({"url": None, "text": "t"}, "no_url"), ({"url": "  ", "text": "t"}, "no_url"),
        ({"url": "a.jpg", "text": "t"}, "not_http"), ({"url": "file:///etc/passwd", "text": "t"}, "not_http"),
        ({"url": "ftp://a.test/1", "text": "t"}, "not_http"), ({"url": "http:///1.jpg", "text": "t"}, "bad_url"),
        ({"url": "http://[::1/1.jpg", "text": "t"}, "bad_url"), ({"url": "http://a.test:x/", "text": "t"}, "bad_url"),
        ({"url": "http://a.test/\r\nHost: b", "text": "t"}, "bad_url"),
        ({"url": "http://a.test/" + "x" * 9000, "text": "t"}, "bad_url"),
        ({"url": 7, "text": "t"}, "malformed"), ({"url": "http://a.test/1", "text": ["t"]}, "malformed"),
        ({"url": "http://a.test/1", "text": ""}, "no_text"), ({"url": "http://a.test/1"}, "no_text"),
        ({"url": "http://a.test/1", "text": "xy"}, "short_text"),
        ({"url": "http://a.test/1", "text": "x" * 21}, "long_text"),
        ({"url": "http://a.test/1", "text": "\ud800 lone surrogate"}, "bad_encoding"),
    ],
)  # fmt: skip
def test_a_bad_row_is_a_reject_with_its_reason(tmp_path: Path, row: dict[str, object], reason: str) -> None:
    good = {"url": "http://a.test/good", "text": "a good one"}
    spec = IngestSpec(source="mine", min_text_chars=3, max_text_chars=20)
    pairs, rejects, facts = run(listed(tmp_path / "in", [row, good]), spec)
    assert [pair["url"] for pair in pairs] == ["http://a.test/good"]
    assert [(row["stage"], row["id"], row["reason"]) for row in rejects] == [("ingest", "a.jsonl#1", reason)]
    assert facts["rejects_by_reason"] == {reason: 1}


def test_files_are_read_in_the_order_of_their_names_whatever_their_format(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    listed(folder, [{"url": "http://a.test/3", "text": "three"}], "c.jsonl")
    (folder / "a.csv").write_bytes(b"url,text\nhttp://a.test/1,one\nhttp://a.test/x,caf\xe9\n")
    pq.write_table(pa.table({"url": ["http://a.test/2"], "text": ["two"]}), folder / "b.parquet")
    pairs, rejects, _ = run(folder)
    assert [(pair["text"], pair["source_row"]) for pair in pairs] == [("one", 0), ("two", 2), ("three", 3)]
    assert [(row["id"], row["reason"]) for row in rejects] == [("a.csv#2", "bad_encoding")]


def test_the_licence_is_of_the_row_or_else_of_the_list(tmp_path: Path) -> None:
    rows = [{"url": f"http://a.test/{n}", "text": "t", "rights": rights} for n, rights in enumerate(["CC0", None])]
    spec = IngestSpec(source="mine", licence="all rights", licence_column="rights")
    pairs, _, _ = run(listed(tmp_path / "in", rows), spec)
    assert [pair["licence"] for pair in pairs] == ["CC0", "all rights"]


def test_a_limit_stops_the_reading(tmp_path: Path) -> None:
    rows = [{"url": f"http://a.test/{number}", "text": "t"} for number in range(10)]
    pairs, _, _ = run(listed(tmp_path / "in", rows), IngestSpec(source="mine", limit=3))
    assert [pair["source_row"] for pair in pairs] == [0, 1, 2]


def test_a_list_without_a_usable_pair_is_an_error_that_counts_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"no usable pair in \['a.jsonl'\]; left out: \{'not_http': 1\}"):
        run(listed(tmp_path / "in", [{"url": "a.jpg", "text": "t"}]))


def test_equal_lists_give_equal_bytes(tmp_path: Path) -> None:
    rows = [{"url": f"http://a.test/{number}", "text": "t"} for number in range(500)]
    for name in ("one", "two"):
        run(listed(tmp_path / name, rows))
    for table in ("pairs.parquet", "rejects.parquet"):
        assert (tmp_path / "one-out" / table).read_bytes() == (tmp_path / "two-out" / table).read_bytes()


ANY_ROW = st.fixed_dictionaries({
    "url": st.one_of(st.none(), st.integers(), st.text(max_size=30), st.just("http://a.test/"), st.just("http://b.test")),
    "text": st.one_of(st.none(), st.text(max_size=10)),
})  # fmt: skip


@given(rows=st.lists(ANY_ROW, min_size=1, max_size=30))
def test_every_row_is_a_pair_or_a_reject(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]]
) -> None:
    rows.append({"url": "http://c.test/", "text": "always there"})
    pairs, rejects, facts = run(listed(tmp_path_factory.mktemp("rows") / "in", rows))
    assert len(pairs) + len(rejects) == len(rows) == facts["rows"] + facts["rejects"]
    assert len({pair["pair_id"] for pair in pairs}) == len(pairs)


def test_a_list_of_another_length_than_expected_is_reported_and_read_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = listed(tmp_path / "in", [{"url": f"http://a.test/{n}", "text": "t"} for n in range(3)] + [{"url": "x"}])
    with caplog.at_level("INFO", "zscir"):
        _, _, facts = run(folder, IngestSpec(source="mine", expected_rows=4))
        assert (facts["expected_rows"], "rows_off" in facts, caplog.text) == (4, False, "")
        _, _, facts = run(folder, IngestSpec(source="mine", expected_rows=1_000))
    assert (facts["rows"], facts["expected_rows"], facts["rows_off"]) == (3, 1_000, -996)
    assert "mine: the list has 4 rows, its source says 1,000: an incomplete file" in caplog.text
    _, _, facts = run(folder, IngestSpec(source="mine", expected_rows=1_000, limit=2))
    assert "expected_rows" not in facts  # only a part was read


def test_a_prefix_makes_a_path_an_address(tmp_path: Path) -> None:
    spec = IngestSpec(source="mine", url_prefix="http://images.a.test/train2014/")
    pairs, _, _ = run(listed(tmp_path / "in", [{"url": "COCO_1.jpg", "text": "t"}]), spec)
    assert [pair["url"] for pair in pairs] == ["http://images.a.test/train2014/COCO_1.jpg"]


def test_only_a_prefix_of_the_spec_makes_a_local_file_of_a_url(tmp_path: Path) -> None:
    urls = ["file:a.jpg", "file:///etc/passwd", "a.jpg", "http://a.test/1"]
    folder = listed(tmp_path / "in", [{"url": url, "text": "t"} for url in urls])
    _, rejects, _ = run(folder)
    assert [row["reason"] for row in rejects] == ["not_http"] * 3
    pairs, rejects, _ = run(folder, IngestSpec(source="mine", url_prefix="file:sub/"))
    assert [pair["url"] for pair in pairs] == [
        "file:sub/file:a.jpg", "file:sub/file:/etc/passwd", "file:sub/a.jpg", "file:sub/http:/a.test/1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"url_prefix": "ftp://a.test/"}, "begins with none of"), ({"url_prefix": "images/"}, "begins with none of"),
        ({"join": [{"table": "images", "on": "image_id", "key": "id"}]}, "join needs rows"),
        ({"text_suffix": ".txt"}, "text_suffix needs url_prefix"),
        ({"text_suffix": ".txt", "url_prefix": "file:", "licence_column": "x"}, "goes with neither"),
    ],
)  # fmt: skip
def test_fields_that_do_not_go_together_are_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        IngestSpec.parse({"source": "mine", **fields}, "spec.toml")
