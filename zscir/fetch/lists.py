"""Lists: files of URLs as people have them (Parquet, CSV, TSV, JSON-lines, also .gz) become numbered rows."""

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

from zscir.errors import RequestError

BATCH_ROWS = 50_000
MAX_LINE_BYTES = 1_000_000
KEYS_TO_NAME = 30
SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")
UNREADABLE = (OSError, EOFError, zlib.error, pa.ArrowInvalid)


class Row(NamedTuple):
    """One row: its number in the file (the first is 1), what stands in the three columns, or what is wrong with it."""

    number: int
    url: Any = None
    text: Any = None
    licence: Any = None
    problem: str | None = None


@dataclass(frozen=True)
class Layout:
    """Which columns count, what they are called where a file has no header, and whether fields may be quoted."""

    url_column: str
    text_column: str
    licence_column: str | None = None
    columns: tuple[str, ...] | None = None
    quoted: bool | None = None

    def wanted(self) -> list[str]:
        """The names of the columns that are read."""
        return [name for name in (self.url_column, self.text_column, self.licence_column) if name is not None]


def rows_of(path: Path, name: str, layout: Layout) -> Iterator[Row]:
    """The rows of one file, told by the suffix of ``name``.

    A bad row is a Row with a problem. RequestError when the file as a whole cannot be read, or has no such column.
    """
    plain = name.lower().removesuffix(".gz")
    suffix = next((known for known in SUFFIXES if plain.endswith(known)), None)
    if suffix is None or (suffix == ".parquet" and plain != name.lower()):
        raise RequestError(f"{name}: not a URL list; known are {', '.join(SUFFIXES)}, and .gz of all but Parquet")
    try:
        if suffix == ".parquet":
            yield from _parquet(path, name, layout)
        elif suffix in (".csv", ".tsv"):
            yield from _separated(path, name, layout, "," if suffix == ".csv" else "\t")
        else:
            yield from _json_lines(path, name, layout)
    except UNREADABLE as error:
        raise RequestError(f"{name}: cannot be read as {suffix} ({' '.join(str(error).split())[:200]})") from None


def _parquet(path: Path, name: str, layout: Layout) -> Iterator[Row]:
    with pq.ParquetFile(path) as file:
        _check_columns(name, layout, file.schema_arrow.names)
        number = 0
        for batch in file.iter_batches(BATCH_ROWS, columns=layout.wanted()):
            columns = [_values(batch.column(column)) for column in layout.wanted()]
            for values in zip(*columns, strict=True):
                number += 1
                yield Row(number, *values)


def _values(column: pa.Array) -> list[Any]:
    """Python values; text as bytes, because one badly encoded value would take its whole batch down."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())
    values: list[Any] = column.to_pylist()
    return values


def _separated(path: Path, name: str, layout: Layout, delimiter: str) -> Iterator[Row]:
    quoted = layout.quoted if layout.quoted is not None else delimiter == ","
    with _stream(path) as binary:
        lines = (line.decode("utf-8", "surrogateescape") for line in binary)
        reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)
        header = list(layout.columns or next(reader, []))
        header[:1] = [first.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}") for first in header[:1]]
        _check_columns(name, layout, header)
        places = [header.index(column) for column in layout.wanted()]
        for number, fields in enumerate(_records(reader), 1):
            if isinstance(fields, str):
                yield Row(number, problem=fields)
            elif len(fields) != len(header):
                yield Row(number, problem=f"{len(fields)} fields instead of {len(header)}")
            else:
                yield Row(number, *(fields[place] for place in places))


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


def _json_lines(path: Path, name: str, layout: Layout) -> Iterator[Row]:
    keys: dict[str, None] = {}
    with _stream(path) as binary:
        for number, line in enumerate(_lines(binary), 1):
            row = _object(line)
            if isinstance(row, str):
                yield Row(number, problem=row)
            elif row is not None:
                keys.update(dict.fromkeys(list(row)[:KEYS_TO_NAME]) if len(keys) < KEYS_TO_NAME else {})
                yield Row(number, *(row.get(column) for column in layout.wanted()))
    if keys:
        _check_columns(name, layout, list(keys))


def _lines(binary: IO[bytes]) -> Iterator[bytes]:
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
    return value if isinstance(value, dict) else f"a JSON {type(value).__name__}, not an object"


@contextmanager
def _stream(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        if not zipped:
            yield raw
            return
        with gzip.GzipFile(fileobj=raw) as stream:
            yield stream  # type: ignore[misc]  # a GzipFile reads like any binary file


def _check_columns(name: str, layout: Layout, present: list[str]) -> None:
    missing = [column for column in layout.wanted() if column not in present]
    if missing:
        hint = "" if layout.columns else "; where the first line is no header, say columns = [...] in [ingest]"
        raise RequestError(f"{name}: no column {missing[0]!r}; it has {present[:KEYS_TO_NAME]}{hint}")
