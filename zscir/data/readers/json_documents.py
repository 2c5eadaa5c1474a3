"""Read rows from one JSON document: a list of rows, parallel lists, or tables that name each other's rows.

The text is held in memory, its rows are not: they are decoded one after another, and only joined tables are kept.
"""

import json
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from zscir.runtime.errors import RequestError

MAX_DOCUMENT_BYTES = 1 << 30  # held in memory as a whole
COLUMNS_SHOWN = 30  # in an error that lists what a file has
JSON_LINES_HINT = "a file with one object a line is JSON-lines: name it .jsonl"
_DECODER = json.JSONDecoder()
_BLANKS = re.compile(r"[ \t\n\r]*")


class RowProblem(str):
    """What is wrong with a row; it stands in the row's place."""

    __slots__ = ()


@dataclass(frozen=True)
class TableJoin:
    """Each row gets a field ``table``: the row of that table whose ``key`` is what the row has in ``on``."""

    table: str
    on: str
    key: str


def field_of(row: Any, column: str) -> Any:
    """What stands in a column: under that name, or where a path such as ``conversations.1.value`` leads; else None."""
    if isinstance(row, dict) and column in row:
        return row[column]
    found = row
    for part in column.split("."):
        if isinstance(found, list) and part.isdecimal() and int(part) < len(found):
            found = found[int(part)]
        elif isinstance(found, dict) and part in found:
            found = found[part]
        else:
            return None
    return found


def read_json_document(
    text: str, name: str, table: str | None, joins: tuple[TableJoin, ...], columns: list[str]
) -> Iterator[Any]:
    """The rows of a document: of the list that it is, of its list ``table``, or of its lists named ``columns``.

    A row whose join finds nothing is a RowProblem. RequestError when the document is not of that shape.
    """
    with _json_errors(name):
        start = _blank(text, 0)
        if text[start : start + 1] == "[" and table is None and not joins:
            end = yield from _items(text, start)
            _whole(text, end)
            return
        if text[start : start + 1] != "{":
            raise RequestError(f"{name}: not a JSON object with lists in it; `rows` and `join` are for those")
        starts = _members(text, start)
        if table is None:
            yield from _side_by_side(text, dict(zip(columns, _lists(text, name, starts, columns), strict=True)), name)
            return
        known = [(join, _table(text, name, starts, join)) for join in joins]
        for row in _items(text, _lists(text, name, starts, [table])[0]):
            yield _joined(row, known)


@contextmanager
def _json_errors(name: str) -> Iterator[None]:
    try:
        yield
    except IndexError:  # of the text: every look at the next character may be beyond its end
        raise RequestError(f"{name}: not a whole JSON document: it ends early") from None
    except (ValueError, RecursionError) as error:
        hint = f"; {JSON_LINES_HINT}" if "Extra data" in str(error) else ""
        raise RequestError(f"{name}: not a whole JSON document: {error}{hint}"[:300]) from None


def _blank(text: str, position: int) -> int:
    found = _BLANKS.match(text, position)
    return found.end() if found else position


def _whole(text: str, end: int) -> None:
    rest = _blank(text, end)
    if rest != len(text):
        raise json.JSONDecodeError("Extra data", text, rest)


def _items(text: str, start: int) -> Generator[Any, None, int]:
    """The values of the list that opens at ``start``, one after another; returns where it ends."""
    position = _blank(text, start + 1)
    if text[position] == "]":
        return position + 1
    while True:
        value, position = _DECODER.raw_decode(text, position)
        yield value
        position = _blank(text, position)
        if text[position] == "]":
            return position + 1
        _expect(text, position, ",")
        position = _blank(text, position + 1)


def _members(text: str, start: int) -> dict[str, int]:
    """Where the value of each name of the object that opens at ``start`` begins."""
    starts: dict[str, int] = {}
    position = _blank(text, start + 1)
    while text[position] != "}" or starts:
        _expect(text, position, '"')
        key, position = _DECODER.raw_decode(text, position)
        position = _blank(text, position)
        _expect(text, position, ":")
        starts[str(key)] = position = _blank(text, position + 1)
        position = _blank(text, _skip(text, position))
        if text[position] == "}":
            break
        _expect(text, position, ",")
        position = _blank(text, position + 1)
    _whole(text, position + 1)
    return starts


def _skip(text: str, position: int) -> int:
    """Where the value at ``position`` ends; a list is gone through item by item, so that it never is in memory."""
    if text[position] != "[":
        return int(_DECODER.raw_decode(text, position)[1])
    items = _items(text, position)
    while True:
        try:
            next(items)
        except StopIteration as stop:
            return int(stop.value)


def _expect(text: str, position: int, sign: str) -> None:
    if text[position] != sign:
        raise json.JSONDecodeError(f"Expecting {sign!r}", text, position)


def _lists(text: str, name: str, starts: dict[str, int], columns: list[str]) -> list[int]:
    for column in columns:
        if column not in starts or text[starts[column]] != "[":
            raise RequestError(
                f"{name}: a JSON object without a list {column!r}; it has {list(starts)[:COLUMNS_SHOWN]}; "
                "where one of these is the list of rows, say rows = NAME in [ingest]"
            )
    return [starts[column] for column in columns]


def _side_by_side(text: str, starts: dict[str, int], name: str) -> Iterator[dict[str, Any]]:
    try:
        for values in zip(*(_items(text, start) for start in starts.values()), strict=True):
            yield dict(zip(starts, values, strict=True))
    except ValueError as error:
        if "zip()" not in str(error):
            raise
        raise RequestError(f"{name}: its lists are not equally long, so that they do not make rows") from None


def _table(text: str, name: str, starts: dict[str, int], join: TableJoin) -> dict[Any, Any]:
    known: dict[Any, Any] = {}
    for row in _items(text, _lists(text, name, starts, [join.table])[0]):
        value = field_of(row, join.key)
        if not isinstance(value, str | int):
            raise RequestError(f"{name}: a row of {join.table!r} has no {join.key!r}: {str(row)[:100]}")
        if value in known:
            raise RequestError(f"{name}: {join.table!r} has {join.key} = {value!r} twice; which one is meant?")
        known[value] = row
    return known


def _joined(row: Any, known: list[tuple[TableJoin, dict[Any, Any]]]) -> Any:
    if not isinstance(row, dict):
        return row
    joined = dict(row)
    for join, table in known:
        value = field_of(joined, join.on)
        found = table.get(value) if isinstance(value, str | int) else None
        if found is None:
            return RowProblem(f"no row of {join.table!r} has {join.key} = {value!r}"[:200])
        joined[join.table] = found
    return joined
