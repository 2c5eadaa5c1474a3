"""Read URL lists (Parquet, CSV, TSV, JSON-lines, JSON, also .gz) as numbered rows."""

import csv
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from zscir.data.readers.json_documents import (
    COLUMNS_SHOWN,
    MAX_DOCUMENT_BYTES,
    RowProblem,
    TableJoin,
    field_of,
    read_json_document,
)
from zscir.runtime.errors import RequestError

LIST_BATCH_ROWS = 50_000
MAX_LINE_BYTES = 1_000_000  # a file without line ends would otherwise fill the memory
LIST_SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson", ".json")
LIST_READ_ERRORS = (OSError, EOFError, zlib.error, pa.ArrowInvalid)


class ListRow(NamedTuple):
    """One row: its number in the file (the first is 1) and its three columns, or what is wrong with it."""

    number: int
    url: Any = None
    text: Any = None
    licence: Any = None
    problem: str | None = None


@dataclass(frozen=True)
class ListLayout:
    """Which columns count, what they are called where a file has no header, and whether fields may be quoted.

    In JSON a column may be a path (``images.coco_url``); ``rows`` and ``joins`` say where a document has its rows.
    """

    url_column: str
    text_column: str
    licence_column: str | None = None
    columns: tuple[str, ...] | None = None
    quoted: bool | None = None
    rows: str | None = None
    joins: tuple[TableJoin, ...] = ()

    def wanted(self) -> list[str]:
        """The names of the columns to read."""
        return [name for name in (self.url_column, self.text_column, self.licence_column) if name is not None]


def read_list_rows(path: Path, name: str, layout: ListLayout) -> Iterator[ListRow]:
    """The rows of one file, whose format is the suffix of ``name``.

    A bad row is a ListRow with a problem. RequestError when the file as a whole cannot be read, or has no such column.
    """
    plain = name.lower().removesuffix(".gz")
    suffix = next((known for known in LIST_SUFFIXES if plain.endswith(known)), None)
    if suffix is None or (suffix == ".parquet" and plain != name.lower()):
        raise RequestError(f"{name}: not a URL list; known are {', '.join(LIST_SUFFIXES)}, and .gz of all but Parquet")
    try:
        if suffix == ".parquet":
            yield from _parquet(path, name, layout)
        elif suffix in (".csv", ".tsv"):
            yield from _delimited(path, name, layout, "," if suffix == ".csv" else "\t")
        elif suffix == ".json":
            yield from _document(path, name, layout)
        else:
            yield from _json_lines(path, name, layout)
    except LIST_READ_ERRORS as error:
        raise RequestError(f"{name}: cannot be read as {suffix} ({' '.join(str(error).split())[:200]})") from None


def _parquet(path: Path, name: str, layout: ListLayout) -> Iterator[ListRow]:
    with pq.ParquetFile(path) as file:
        _check_columns(name, layout, file.schema_arrow.names)
        number = 0
        for batch in file.iter_batches(LIST_BATCH_ROWS, columns=layout.wanted()):
            columns = [_values(batch.column(column)) for column in layout.wanted()]
            for values in zip(*columns, strict=True):
                number += 1
                yield ListRow(number, *values)


def _values(column: pa.Array) -> list[Any]:
    """Python values; text as bytes, because one badly encoded value would take its whole batch down."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())
    values: list[Any] = column.to_pylist()
    return values


def _delimited(path: Path, name: str, layout: ListLayout, delimiter: str) -> Iterator[ListRow]:
    quoted = layout.quoted if layout.quoted is not None else delimiter == ","
    with open_decompressed(path) as binary:
        # Bytes that are not UTF-8 survive as surrogates, so that they cost their own row only.
        lines = (line.decode("utf-8", "surrogateescape") for line in binary)
        reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)
        header = list(layout.columns or next(reader, []))
        header[:1] = [first.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}") for first in header[:1]]
        _check_columns(name, layout, header)
        indices = [header.index(column) for column in layout.wanted()]
        for number, fields in enumerate(_records(reader), 1):
            if isinstance(fields, str):
                yield ListRow(number, problem=fields)
            elif len(fields) != len(header):
                yield ListRow(number, problem=f"{len(fields)} fields instead of {len(header)}")
            else:
                yield ListRow(number, *(fields[index] for index in indices))


def _records(reader: Iterable[list[str]]) -> Iterator[list[str] | str]:
    """The records of a CSV reader, or what it says of one that it cannot read; blank lines are no records."""
    records = iter(reader)
    while True:
        try:
            fields = next(records)
        except StopIteration:
            return
        except csv.Error as error:
            yield str(error)
            continue
        if fields:
            yield fields


def _document(path: Path, name: str, layout: ListLayout) -> Iterator[ListRow]:
    with open_decompressed(path) as binary:
        data = binary.read(MAX_DOCUMENT_BYTES + 1)
    if len(data) > MAX_DOCUMENT_BYTES:
        raise RequestError(f"{name}: more than {MAX_DOCUMENT_BYTES:,} bytes; make such a list JSON-lines or Parquet")
    text = data.decode("utf-8-sig", "surrogateescape")
    del data
    values = read_json_document(text, name, layout.rows, layout.joins, layout.wanted())
    yield from _picked((_dict_or_problem(value) for value in values), name, layout)


def _json_lines(path: Path, name: str, layout: ListLayout) -> Iterator[ListRow]:
    with open_decompressed(path) as binary:
        yield from _picked((_object(line) for line in read_lines(binary)), name, layout)


def _picked(values: Iterable[dict[str, Any] | str | None], name: str, layout: ListLayout) -> Iterator[ListRow]:
    """The wanted fields of objects; a text among them says what is wrong with a row, None is no row."""
    keys: dict[str, None] = {}
    for number, row in enumerate(values, 1):
        if isinstance(row, str):
            yield ListRow(number, problem=row)
        elif row is not None:
            keys.update(dict.fromkeys(list(row)[:COLUMNS_SHOWN]) if len(keys) < COLUMNS_SHOWN else {})
            yield ListRow(number, *(field_of(row, column) for column in layout.wanted()))
    if keys:
        _check_columns(name, layout, list(keys), {column: column.split(".")[0] for column in layout.wanted()})


def read_lines(binary: IO[bytes]) -> Iterator[bytes]:
    """Lines; one that is too long is cut, so that it cannot fill the memory, and its rest is skipped."""
    while line := binary.readline(MAX_LINE_BYTES):
        rest = line
        while len(rest) == MAX_LINE_BYTES and not rest.endswith(b"\n"):
            rest = binary.readline(MAX_LINE_BYTES)
        yield line


def _object(line: bytes) -> dict[str, Any] | str | None:
    """The object on a line, what is wrong with it, or None for a blank line."""
    if not line.strip():
        return None
    try:
        value = json.loads(line)
    except UnicodeDecodeError:
        return "not UTF-8"
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"[:200]
    return _dict_or_problem(value)


def _dict_or_problem(value: Any) -> dict[str, Any] | str:
    """``value`` if it is an object, else what is wrong with it."""
    if isinstance(value, RowProblem):
        return value
    return value if isinstance(value, dict) else f"a JSON {type(value).__name__}, not an object"


@contextmanager
def open_decompressed(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, unzipped where they are gzip."""
    with path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        if not zipped:
            yield raw
            return
        with gzip.GzipFile(fileobj=raw) as stream:
            yield stream  # type: ignore[misc]  # a GzipFile is no IO[bytes], but reads like one


def _check_columns(name: str, layout: ListLayout, present: list[str], roots: dict[str, str] | None = None) -> None:
    """RequestError when a column, or the field in which the path to it begins, is in no row."""
    missing = [column for column in layout.wanted() if not {column, (roots or {}).get(column)} & set(present)]
    if missing:
        hint = "" if layout.columns else "; where the first line is no header, say columns = [...] in [ingest]"
        raise RequestError(f"{name}: no column {missing[0]!r}; it has {present[:COLUMNS_SHOWN]}{hint}")
