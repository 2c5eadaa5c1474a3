import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from zscir.data.readers.url_lists import MAX_LINE_BYTES, ListLayout, ListRow, read_list_rows
from zscir.runtime.errors import RequestError

LAYOUT = ListLayout("url", "text")
ROWS = [("http://a.test/1.jpg", "one"), ("http://a.test/2.jpg", "two, too"), ("http://a.test/3.jpg", 'a "red" cup')]


def read(path: Path, layout: ListLayout = LAYOUT) -> list[ListRow]:
    return list(read_list_rows(path, path.name, layout))


def write(path: Path, content: str | bytes) -> Path:
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def pairs(rows: list[ListRow]) -> list[tuple[str, str]]:
    return [tuple(v.decode() if isinstance(v, bytes) else v for v in (row.url, row.text)) for row in rows]


CSV = 'text,url\none,http://a.test/1.jpg\n"two, too",http://a.test/2.jpg\n"a ""red"" cup",http://a.test/3.jpg\n'
TSV = 'url\ttext\nhttp://a.test/1.jpg\tone\nhttp://a.test/2.jpg\ttwo, too\nhttp://a.test/3.jpg\ta "red" cup\n'
JSONL = "".join(json.dumps({"id": 1, "text": text, "url": url}) + "\n" for url, text in ROWS)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", CSV), ("a.CSV.gz", CSV), ("a.tsv", TSV), ("a.tsv.gz", TSV), ("a.jsonl", JSONL), ("a.ndjson.gz", JSONL),
     ("bom.csv", "\ufeff" + CSV.replace("text,url", "text,url")), ("crlf.csv", CSV.replace("\n", "\r\n"))],
)  # fmt: skip
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str, content: str) -> None:
    rows = read(write(tmp_path / name, content))
    assert pairs(rows) == ROWS
    assert [row.number for row in rows] == [1, 2, 3]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.binary()])
def test_parquet_columns_of_any_text_type_are_read(tmp_path: Path, kind: pa.DataType) -> None:
    urls, texts = (pa.array(column).cast(kind) for column in zip(*ROWS, strict=True))
    pq.write_table(pa.table({"score": [1, 2, 3], "text": texts, "url": urls}), tmp_path / "a.parquet")
    assert pairs(read(tmp_path / "a.parquet")) == ROWS


def test_badly_encoded_parquet_text_spoils_its_own_row_only(tmp_path: Path) -> None:
    texts = pa.array([b"one", b"\xff\xfe", None], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"url": ["u1", "u2", "u3"], "text": texts}), tmp_path / "a.parquet")
    assert [row.text for row in read(tmp_path / "a.parquet")] == [b"one", b"\xff\xfe", None]


def test_a_file_without_a_header_is_read_by_the_names_given(tmp_path: Path) -> None:
    path = write(tmp_path / "cc.tsv", "a dog\thttp://a.test/1.jpg\na cat\thttp://a.test/2.jpg\n")
    rows = read(path, ListLayout("url", "caption", columns=("caption", "url")))
    assert pairs(rows) == [("http://a.test/1.jpg", "a dog"), ("http://a.test/2.jpg", "a cat")]


def test_quotes_in_a_tsv_are_plain_characters_unless_the_layout_says_quoted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", 'url\ttext\nu1\t"open\nu2\t"a ""b"""\n')
    assert [row.text for row in read(path)] == ['"open', '"a ""b"""']
    assert [
        row.text for row in read(write(path, 'url\ttext\nu2\t"a ""b"""\n'), ListLayout("url", "text", quoted=True))
    ] == ['a "b"']


def test_bad_rows_are_rows_with_a_problem(tmp_path: Path) -> None:
    rows = read(write(tmp_path / "a.csv", "url,text\nu1,one\nu2\nu3,three,more\n\nu4,four\n"))
    assert [(row.number, row.url, row.problem) for row in rows] == [
        (1, "u1", None), (2, None, "1 fields instead of 2"), (3, None, "3 fields instead of 2"), (4, "u4", None),
    ]  # fmt: skip
    lines = (
        b'{"url": "u1", "text": "t"}\n{"url": \n[1]\n"\xff"\n\n' + b"[" * 100_000 + b'\n{"url": "u2", "text": null}\n'
    )
    rows = read(write(tmp_path / "a.jsonl", lines))
    assert [(row.number, row.url) for row in rows] == [(1, "u1"), (2, None), (3, None), (4, None), (6, None), (7, "u2")]
    problems = [row.problem for row in rows]
    assert problems[2:4] == ["a JSON list, not an object", "not UTF-8"]
    assert problems[1]
    assert problems[4]


def test_an_endless_line_cannot_fill_the_memory(tmp_path: Path) -> None:
    line = json.dumps({"url": "u1", "text": "x" * 3 * MAX_LINE_BYTES})
    rows = read(write(tmp_path / "a.jsonl.gz", line + '\n{"url": "u2", "text": "t"}\n'))
    assert [(row.url, row.problem is None) for row in rows] == [(None, False), ("u2", True)]
    rows = read(write(tmp_path / "a.csv", f"url,text\nu1,{'x' * 200_000}\nu2,t\n"))
    assert [(row.url, row.problem is None) for row in rows] == [(None, False), ("u2", True)]


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", "link,text\nu,t\n"), ("a.tsv", "link\ttext\nu\tt\n"), ("a.jsonl", '{"link": "u", "text": "t"}\n')],
)
def test_a_missing_column_is_named_with_those_that_are_there(tmp_path: Path, name: str, content: str) -> None:
    with pytest.raises(RequestError, match=r"no column 'url'; it has \['link', 'text'\]"):
        read(write(tmp_path / name, content))


def test_a_missing_parquet_column_is_named_too(tmp_path: Path) -> None:
    pq.write_table(pa.table({"URL": ["u"], "TEXT": ["t"]}), tmp_path / "a.parquet")
    with pytest.raises(RequestError, match=r"a\.parquet: no column 'url'; it has \['URL', 'TEXT'\]"):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize("name", ["a.parquet", "a.csv.gz", "a.jsonl.gz"])
def test_an_unreadable_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x1f\x8b\x08\x00 not what its name says")
    with pytest.raises(RequestError, match=name):
        read(tmp_path / name)


def test_a_truncated_gzip_is_not_a_short_list(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv.gz", CSV)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(RequestError, match=r"a\.csv\.gz: cannot be read"):
        read(path)


@pytest.mark.parametrize("name", ["a.txt", "a.xlsx", "a.parquet.gz", "README", "a.json.zip"])
def test_files_of_other_kinds_are_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError, match=f"{name}: not a URL list"):
        read(write(tmp_path / name, "x"))
