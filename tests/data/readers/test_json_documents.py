"""One JSON file: a list of rows, parallel lists, or tables that name each other's rows."""

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zscir.data.readers.json_documents import RowProblem, TableJoin, field_of, read_json_document
from zscir.data.readers.url_lists import ListLayout, ListRow, read_list_rows
from zscir.runtime.errors import RequestError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
SHAPES = [{}, {"indent": 2}, {"separators": (",", ":")}, {"ensure_ascii": False}]


def read(folder: Path, content: str, layout: ListLayout, name: str = "a.json") -> list[ListRow]:
    data = content.encode("utf-8", "surrogateescape")
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return list(read_list_rows(folder / name, name, layout))


@given(rows=st.lists(JSON, max_size=6), shape=st.sampled_from(SHAPES))
def test_a_list_gives_the_values_that_the_whole_document_has(rows: list[Any], shape: dict[str, Any]) -> None:
    assert list(read_json_document(json.dumps(rows, **shape), "a", None, (), ["x"])) == rows


@given(others=st.dictionaries(st.text(max_size=3), JSON, max_size=4), rows=st.lists(JSON, max_size=5),
       shape=st.sampled_from(SHAPES))  # fmt: skip
def test_a_named_list_is_found_wherever_it_stands(others: dict[str, Any], rows: list[Any], shape: Any) -> None:
    document = {**others, "rows": rows, "z": [1, {"rows": [0]}]}
    assert list(read_json_document(json.dumps(document, **shape), "a", "rows", (), ["x"])) == rows


@given(rows=st.lists(st.tuples(JSON, JSON), max_size=6), shape=st.sampled_from(SHAPES))
def test_lists_side_by_side_give_the_values_of_one_place(rows: list[tuple[Any, Any]], shape: dict[str, Any]) -> None:
    document = {"u": [u for u, _ in rows], "users": 3, "t": [t for _, t in rows]}
    found = list(read_json_document(json.dumps(document, **shape), "a", None, (), ["t", "u"]))
    assert found == [{"t": t, "u": u} for u, t in rows]


def test_a_join_is_the_row_that_another_list_has_for_a_key() -> None:
    document = {
        "notes": [{"image_id": 9, "c": "one"}, {"image_id": 8, "c": "two"}, {"image_id": [9], "c": "x"}, {"c": "y"}, 7],
        "images": [{"id": 8, "url": "u8", "l": "b"}, {"id": 9, "url": "u9", "l": "a"}],
        "licences": [{"id": "a", "name": "CC0"}],
    }
    joins = (TableJoin("images", "image_id", "id"), TableJoin("licences", "images.l", "id"))
    one, two, odd, none, number = read_json_document(json.dumps(document), "a", "notes", joins, [])
    assert (one["c"], one["images"]["url"], one["licences"]["name"]) == ("one", "u9", "CC0")
    assert two == RowProblem("no row of 'licences' has id = 'b'")
    assert odd == RowProblem("no row of 'images' has id = [9]")
    assert none == RowProblem("no row of 'images' has id = None")
    assert number == 7


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([{"id": 1}, {"id": 1}], "has id = 1 twice"),
        ([{"key": 1}], "has no 'id'"),
        ({"1": {}}, "without a list 'images'"),
    ],
)
def test_a_join_that_could_mean_two_rows_or_none_is_refused(images: Any, words: str) -> None:
    text = json.dumps({"notes": [{"image_id": 1}], "images": images})
    with pytest.raises(RequestError, match=words):
        list(read_json_document(text, "a", "notes", (TableJoin("images", "image_id", "id"),), []))


@pytest.mark.parametrize(
    ("row", "column", "expected"),
    [
        ({"a": {"b": 1}}, "a.b", 1), ({"a.b": 2, "a": {"b": 1}}, "a.b", 2), ({"a": [{"v": 1}, {"v": 2}]}, "a.1.v", 2),
        ({"a": [1]}, "a.1", None), ({"a": 1}, "a.b", None), ([5, 6], "1", 6), ({}, "a", None), ({"a": None}, "a", None),
        ({"a": [1]}, "a.-1", None), ({"a": [1]}, "a.\u0661", None),
    ],
)  # fmt: skip
def test_a_path_leads_into_objects_and_lists(row: Any, column: str, expected: Any) -> None:
    assert field_of(row, column) == expected


def test_a_document_is_a_list_like_any_other(tmp_path: Path) -> None:
    rows = [{"image": "1.jpg", "talk": [{"v": "q"}, {"v": "a"}]}, "text", 3, {"image": "2.jpg"}, [1]]
    layout = ListLayout("image", "talk.1.v")
    for name in ("a.json", "a.JSON.gz"):
        assert read(tmp_path, json.dumps(rows), layout, name) == [
            ListRow(1, "1.jpg", "a"), ListRow(2, problem="a JSON str, not an object"),
            ListRow(3, problem="a JSON int, not an object"), ListRow(4, "2.jpg", None),
            ListRow(5, problem="a JSON list, not an object"),
        ]  # fmt: skip


def test_a_byte_order_mark_and_bad_encoding_spoil_no_other_row(tmp_path: Path) -> None:
    text = '\ufeff[{"url": "u1", "text": "t\udcff"}, {"url": "u2", "text": "t"}]'
    first, second = read(tmp_path, text, ListLayout("url", "text"))
    assert (first.url, second) == ("u1", ListRow(2, "u2", "t"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "it ends early|not a JSON object"), ("[", "it ends early|Expecting"), ('[{"url": 1}', "it ends early"),
        ('[{"url": 1} {"url": 2}]', "Expecting ','"), ("[1,]", "Expecting value"), ("[1] 2", "Extra data"),
        ('{"url": [1], "text": [1', "it ends early"), ('{"url" 1}', "Expecting ':'"),
        ('{"url": 1,}', "not a whole JSON"), ("{1: 2}", "not a whole JSON"), ('{"a": 1', "it ends early"),
        ("[" * 200_000, "not a whole JSON"), ('"a text"', "not a JSON object"), ("nonsense", "not a JSON object"),
        ('{"url": "u", "text": "t"}\n{"url": "u", "text": "t"}\n', "name it .jsonl"),
        ('{"url": ["a"], "text": ["t", "u"]}', "not equally long"),
        ('{"annotations": [{"url": "u"}]}', r"without a list 'url'; it has \['annotations'\].*rows = NAME"),
        ('[{"link": "u", "text": "t"}]', r"no column 'url'; it has \['link', 'text'\]"),
    ],
)  # fmt: skip
def test_a_document_that_is_not_what_it_should_be_is_named_with_the_reason(
    tmp_path: Path, content: str, words: str
) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        read(tmp_path, content, ListLayout("url", "text"))
    assert str(caught.value).startswith("a.json: ")


def test_rows_are_not_all_in_memory_at_once() -> None:
    row = {"url": "http://a.test/" + "x" * 50, "more": list(range(20)), "deep": {"a": ["b"] * 10}}
    text = json.dumps({"skipped": [row] * 5_000, "rows": [row] * 5_000})
    tracemalloc.start()
    count = sum(1 for _ in read_json_document(text, "a", "rows", (), []))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 5_000
    assert peak < 500_000  # all of them at once take ten times as much
