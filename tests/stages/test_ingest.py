import json
import tomllib
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zscir.artifacts import Artifact
from zscir.errors import RequestError
from zscir.records import PAIRS, REJECTS, read_rows
from zscir.stages.ingest import IngestSpec, ingest

SPEC = IngestSpec(source="mine")


def run(folder: Path, spec: IngestSpec = SPEC) -> tuple[list[dict], list[dict], dict]:
    out = folder.parent / f"{folder.name}-out"
    out.mkdir(exist_ok=True)
    facts = ingest(spec, urls=Artifact.of_folder(folder), out=out)
    return read_rows(out / "pairs.parquet", PAIRS), read_rows(out / "rejects.parquet", REJECTS), facts


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
    assert [(one["id"], one["reason"], one["detail"]) for one in rejects] == [("a.jsonl#3", "duplicate", url)]
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
    assert [(one["stage"], one["id"], one["reason"]) for one in rejects] == [("ingest", "a.jsonl#1", reason)]
    assert facts["rejects_by_reason"] == {reason: 1}


def test_files_are_read_in_the_order_of_their_names_whatever_their_format(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    listed(folder, [{"url": "http://a.test/3", "text": "three"}], "c.jsonl")
    (folder / "a.csv").write_bytes(b"url,text\nhttp://a.test/1,one\nhttp://a.test/x,caf\xe9\n")
    pq.write_table(pa.table({"url": ["http://a.test/2"], "text": ["two"]}), folder / "b.parquet")
    pairs, rejects, _ = run(folder)
    assert [(pair["text"], pair["source_row"]) for pair in pairs] == [("one", 0), ("two", 2), ("three", 3)]
    assert [(one["id"], one["reason"]) for one in rejects] == [("a.csv#2", "bad_encoding")]


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


SOURCES = Path(__file__).parents[2] / "data_specs" / "sources"
CONTENT = {
    "cc3m": ("Train_GCC-training.tsv", 'a very typical "bus" station\thttp://a.test/1.jpg\n'),
    "cc12m": ("cc12m.tsv", 'http://a.test/1.jpg\ta very typical "bus" station\n'),
    "own": ("my-images.csv", 'url,text\nhttp://a.test/1.jpg,"a very typical ""bus"" station"\n'),
}


@pytest.mark.parametrize("name", ["cc3m", "cc12m", "laion", "own"])
def test_a_source_reads_a_file_in_its_own_format(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    if name == "laion":
        columns = {
            "URL": ["http://a.test/1.jpg"], "TEXT": ['a very typical "bus" station'], "WIDTH": [640.0],
            "HEIGHT": [480.0],
            "similarity": [0.31], "LICENSE": ["?"], "NSFW": ["UNLIKELY"], "hash": [123], "punsafe": [0.01],
        }  # fmt: skip
        pq.write_table(pa.table(columns), folder / "part-00000-abc-c000.snappy.parquet", compression="snappy")
    else:
        file, content = CONTENT[name]
        (folder / file).write_text(content)
    source = tomllib.loads((SOURCES / f"{name}.toml").read_text())
    pairs, rejects, _ = run(folder, IngestSpec.parse(source["ingest"], name))
    assert [(pair["url"], pair["text"]) for pair in pairs] == [("http://a.test/1.jpg", 'a very typical "bus" station')]
    assert rejects == []
