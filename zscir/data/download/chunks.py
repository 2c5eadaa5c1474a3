"""Split the distinct URLs of pairs into content-defined chunks, so that a changed row moves one chunk only."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from zscir.data.sql_joins import BATCH_ROWS, query_tables, rows_sql
from zscir.runtime.schemas import PAIRS_SCHEMA, read_rows, schema_of, write_table
from zscir.store.artifacts import atomic_path

URLS_SCHEMA = schema_of(image_key="str", url="str", text="str")
MIN_CHUNK_DIVISOR = 4  # a chunk has at least chunk_rows / MIN_CHUNK_DIVISOR rows, except the last


@dataclass(frozen=True)
class ChunkUrl:
    """One distinct URL of a chunk, with the text of the first pair that has it."""

    image_key: str
    url: str
    text: str


def read_chunk(urls: Path) -> tuple[ChunkUrl, ...]:
    """The URLs of one chunk's list."""
    return tuple(ChunkUrl(**row) for row in read_rows(urls, URLS_SCHEMA))


def write_chunks(tables: Iterable[pa.Table], folder: Path, chunk_rows: int) -> tuple[int, int]:
    """Split tables of URLS_SCHEMA rows into ``NNNNN.parquet``; return how many chunks and URLs there are.

    A chunk's rows are sorted by image key: it stays the same when rows change places inside it.
    """
    chunks = urls = 0
    for rows in content_defined_chunks(tables, chunk_rows):
        with atomic_path(folder / f"{chunks:05d}.parquet") as part:
            write_table(part, URLS_SCHEMA, rows.sort_by("image_key"))
        chunks, urls = chunks + 1, urls + rows.num_rows
    return chunks, urls


def distinct_urls(pairs: Path, scratch: Path) -> Iterator[pa.Table]:
    """The distinct URLs of pairs in the order in which they first come, each with its first text."""
    sql = f"""
        SELECT sha256(url) AS image_key, url, arg_min(text, file_row_number) AS text
        FROM {rows_sql([pairs], PAIRS_SCHEMA)}
        GROUP BY url ORDER BY min(file_row_number)
    """  # noqa: S608 - our own expressions
    return query_tables(sql, scratch, BATCH_ROWS, URLS_SCHEMA)


def content_defined_chunks(tables: Iterable[pa.Table], chunk_rows: int) -> Iterator[pa.Table]:
    """Groups of consecutive rows, of at most ``chunk_rows``, that end at rows whose hash says so.

    An end depends only on the rows since the one before it, and soon on those near it alone: rows that are inserted,
    removed or appended move the ends around them and leave the other chunks as they are.
    """
    pending = URLS_SCHEMA.empty_table()
    for table in tables:
        pending = pa.concat_tables([pending, table])
        start = 0
        for end in _chunk_ends(pending, chunk_rows):
            yield pending.slice(start, end - start)
            start = end
        pending = pending.slice(start)
    if pending.num_rows:
        yield pending


def _chunk_ends(rows: pa.Table, chunk_rows: int) -> Iterator[int]:
    """Where chunks end among these rows; the rest is undecided until more rows are there."""
    min_rows = max(1, chunk_rows // MIN_CHUNK_DIVISOR)
    mark_every = max(1, (chunk_rows - min_rows) // 2)
    size, marks = 0, [int(key[:12], 16) % mark_every == 0 for key in rows.column("image_key").to_pylist()]
    for position, mark in enumerate(marks, start=1):
        size += 1
        if size == chunk_rows or (mark and size >= min_rows):
            yield position
            size = 0
