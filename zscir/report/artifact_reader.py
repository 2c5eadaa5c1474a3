"""Peeks: a file of an artifact, however large and wherever it lies, gives the few rows or bytes that a page needs.

Tables are streamed in batches and never held whole; from S3 only the ranges that are asked for are fetched.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from zscir.runtime.errors import RequestError
from zscir.store.artifacts import Artifact
from zscir.store.storage_errors import translate_storage_errors
from zscir.store.store import Store

READ_BATCH_ROWS = 16_384
MAX_GROUPS = 4
MAX_REASONS = 1_000
TableRows = list[dict[str, Any]]


@contextmanager
def open_parquet(artifact: Artifact, name: str) -> Iterator[pq.ParquetFile]:
    """One Parquet file of an artifact; RequestError when it is not readable as one."""
    try:
        if isinstance(artifact.source, Store) and artifact.source.remote:
            store = artifact.source
            with (
                translate_storage_errors(store.uri),
                store.fs.open(store.address(artifact.stage, artifact.key, name), "rb") as stream,
            ):
                yield pq.ParquetFile(stream)
        else:
            with pq.ParquetFile(artifact.path(name)) as table:
                yield table
    except (pa.ArrowException, OSError) as error:
        where = f"{artifact.stage}/{artifact.key[:12]}/{name}"
        raise RequestError(f"{where}: not a readable Parquet file: {error}") from None


def read_span(artifact: Artifact, name: str, offset: int, size: int) -> bytes:
    """``size`` bytes at ``offset`` of one file; fewer when the file ends before."""
    if isinstance(artifact.source, Store) and artifact.source.remote:
        store = artifact.source
        with translate_storage_errors(store.uri):
            path = store.address(artifact.stage, artifact.key, name)
            return bytes(store.fs.cat_file(path, start=offset, end=offset + size))
    with artifact.path(name).open("rb") as stream:
        stream.seek(offset)
        return stream.read(size)


def read_batches(artifact: Artifact, name: str, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a table, a bounded number at a time."""
    with open_parquet(artifact, name) as table:
        yield from table.iter_batches(batch_size=READ_BATCH_ROWS, columns=columns)


def read_first_rows(artifact: Artifact, name: str, count: int, keep: pc.Expression | None = None) -> TableRows:
    """The first ``count`` rows (that satisfy ``keep``)."""
    found: TableRows = []
    for batch in read_batches(artifact, name):
        part = pa.Table.from_batches([batch])
        part = part if keep is None else part.filter(keep)
        found += part.slice(0, count - len(found)).to_pylist()
        if len(found) >= count:
            break
    return found


def spread_rows(artifact: Artifact, name: str, count: int, keep: pc.Expression | None = None) -> TableRows:
    """``count`` rows that lie evenly over the table (over at most four of its row groups), in order.

    With ``keep`` only rows that satisfy it are taken.
    """
    found: TableRows = []
    with open_parquet(artifact, name) as table:
        filled = [one for one in range(table.num_row_groups) if table.metadata.row_group(one).num_rows]
        groups = evenly(filled, MAX_GROUPS)
        for share, group in enumerate(groups):
            wanted = count * (share + 1) // len(groups) - count * share // len(groups)
            found += _spread_in_group(table, group, wanted, keep)
    return found


def _spread_in_group(table: pq.ParquetFile, group: int, wanted: int, keep: pc.Expression | None) -> TableRows:
    batches = -(-table.metadata.row_group(group).num_rows // READ_BATCH_ROWS)
    chosen = set(evenly(list(range(batches)), max(1, wanted)))
    pool: TableRows = []
    for number, batch in enumerate(table.iter_batches(batch_size=READ_BATCH_ROWS, row_groups=[group])):
        if number in chosen:
            part = pa.Table.from_batches([batch])
            part = part.filter(keep) if keep is not None else part
            pool += part.take(evenly(list(range(part.num_rows)), -(-wanted * 2 // len(chosen)))).to_pylist()
    return evenly(pool, wanted)


def evenly(items: list[Any], count: int) -> list[Any]:
    """At most ``count`` of ``items``, evenly spaced, the first among them."""
    if len(items) <= count:
        return list(items)
    return [items[number * len(items) // count] for number in range(count)]


def rows_with(
    artifact: Artifact,
    name: str,
    column: str,
    values: Iterable[Any],
    columns: list[str] | None = None,
    most: int = 10_000,
) -> TableRows:
    """The rows whose ``column`` is one of ``values``, at most ``most``."""
    found: TableRows = []
    listed = pa.array(sorted(set(values)), pa.string())
    for batch in read_batches(artifact, name, columns) if len(listed) else ():
        found += batch.filter(pc.is_in(batch.column(column), value_set=listed)).to_pylist()
        if len(found) >= most:
            break
    return found[:most]


def count_values(artifact: Artifact, name: str, column: str) -> list[tuple[str, int]]:
    """How often each value of ``column`` occurs, most often first; beyond 1,000 different values the rest is one."""
    total: Counter[str] = Counter()
    for batch in read_batches(artifact, name, [column]):
        for one in pc.value_counts(batch.column(column)).to_pylist():
            value = str(one["values"])
            total[value if value in total or len(total) < MAX_REASONS else "(other)"] += one["counts"]
    return sorted(total.items(), key=lambda item: (-item[1], item[0]))


def has_columns(artifact: Artifact, name: str, columns: Iterable[str]) -> bool:
    """Whether the table is there and has these columns."""
    if name not in artifact.entries:
        return False
    with open_parquet(artifact, name) as table:
        return set(columns) <= set(table.schema_arrow.names)
