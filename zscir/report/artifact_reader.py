"""Read a few rows or bytes of an artifact's file, however large it is and wherever it lies.

Tables are streamed in batches and never held whole; from S3 only the ranges that are needed are fetched.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from zscir.lineage.sql_views import RECORD_SCHEMAS
from zscir.runtime.errors import RequestError
from zscir.runtime.schemas import conform_table, is_table_of, select_fields
from zscir.store.artifacts import Artifact
from zscir.store.storage_errors import translate_storage_errors
from zscir.store.store import Store

READ_BATCH_ROWS = 16_384
MAX_GROUPS = 4  # row groups read of one table: each is a request of its own to S3
MAX_REASONS = 1_000  # bounds the memory of a table whose "reasons" are free text
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
        raise RequestError(f"{_where(artifact, name)}: not a readable Parquet file: {error}") from None


def _where(artifact: Artifact, name: str) -> str:
    return f"{artifact.stage}/{artifact.key[:12]}/{name}"


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


def read_batches(artifact: Artifact, name: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """The rows of a table, a bounded number at a time; a record table of any version has its schema's columns."""
    with open_parquet(artifact, name) as table:
        yield from _batches(table, _where(artifact, name), list(range(table.num_row_groups)), columns)


def _batches(
    table: pq.ParquetFile, where: str, groups: list[int], columns: list[str] | None = None
) -> Iterator[pa.Table]:
    present = table.schema_arrow.names
    schema = _record_schema(where.rpartition("/")[2], present)
    chosen = None if columns is None else [column for column in columns if column in present]
    for batch in table.iter_batches(READ_BATCH_ROWS, groups, chosen):
        rows = pa.Table.from_batches([batch])
        yield rows if schema is None else conform_table(rows, select_fields(schema, columns), where)


def _record_schema(name: str, columns: list[str]) -> pa.Schema | None:
    """The schema of a record table, by its file name; None where a table of a stage's own only shares the name."""
    schema = RECORD_SCHEMAS.get(name.removesuffix(".parquet"))
    return schema if schema is not None and is_table_of(columns, schema) else None


def read_first_rows(artifact: Artifact, name: str, count: int, row_filter: pc.Expression | None = None) -> TableRows:
    """The first ``count`` rows (that satisfy ``row_filter``)."""
    found: TableRows = []
    for batch in read_batches(artifact, name):
        kept = batch if row_filter is None else batch.filter(row_filter)
        found += kept.slice(0, count - len(found)).to_pylist()
        if len(found) >= count:
            break
    return found


def spread_rows(artifact: Artifact, name: str, count: int, row_filter: pc.Expression | None = None) -> TableRows:
    """``count`` rows that lie evenly over the table (over at most four of its row groups), in order.

    With ``row_filter`` only rows that satisfy it are taken.
    """
    found: TableRows = []
    with open_parquet(artifact, name) as table:
        metadata = table.metadata
        filled = [number for number in range(table.num_row_groups) if metadata.row_group(number).num_rows]
        groups = evenly(filled, MAX_GROUPS)
        for share, group in enumerate(groups):
            wanted = count * (share + 1) // len(groups) - count * share // len(groups)
            batches = -(-metadata.row_group(group).num_rows // READ_BATCH_ROWS)
            found += _spread(_batches(table, _where(artifact, name), [group]), batches, wanted, row_filter)
    return found


def _spread(tables: Iterator[pa.Table], batches: int, wanted: int, row_filter: pc.Expression | None) -> TableRows:
    chosen = set(evenly(list(range(batches)), max(1, wanted)))
    pool: TableRows = []
    for number, table in enumerate(tables):
        if number in chosen:
            kept = table.filter(row_filter) if row_filter is not None else table
            # Twice as many as wanted, since other batches may hold too few.
            pool += kept.take(evenly(list(range(kept.num_rows)), -(-wanted * 2 // len(chosen)))).to_pylist()
    return evenly(pool, wanted)


def evenly(items: list[Any], count: int) -> list[Any]:
    """At most ``count`` of ``items``, evenly spaced, the first among them."""
    if len(items) <= count:
        return list(items)
    return [items[number * len(items) // count] for number in range(count)]  # integers: no rounding to repeat an item


def rows_with(
    artifact: Artifact,
    name: str,
    column: str,
    values: Iterable[Any],
    columns: list[str] | None = None,
    max_rows: int = 10_000,
) -> TableRows:
    """The rows whose ``column`` is one of ``values``, at most ``max_rows``."""
    found: TableRows = []
    listed = pa.array(sorted(set(values)), pa.string())  # typed: an empty list has no type of its own
    for batch in read_batches(artifact, name, columns) if len(listed) else ():
        found += batch.filter(pc.is_in(batch.column(column), value_set=listed)).to_pylist()
        if len(found) >= max_rows:
            break
    return found[:max_rows]


def count_values(artifact: Artifact, name: str, column: str) -> list[tuple[str, int]]:
    """How often each value of ``column`` occurs, most often first; beyond 1,000 different values the rest is one."""
    total: Counter[str] = Counter()
    for batch in read_batches(artifact, name, [column]):
        for counted in pc.value_counts(batch.column(column)).to_pylist():
            value = str(counted["values"])
            total[value if value in total or len(total) < MAX_REASONS else "(other)"] += counted["counts"]
    return sorted(total.items(), key=lambda item: (-item[1], item[0]))


def has_columns(artifact: Artifact, name: str, columns: Iterable[str]) -> bool:
    """Whether the table is there and has these columns; a nullable one of a record table need not be in the file."""
    if name not in artifact.entries:
        return False
    with open_parquet(artifact, name) as table:
        present = table.schema_arrow.names
    schema = _record_schema(name, present)
    nullable = [] if schema is None else [field.name for field in schema if field.nullable]
    return set(columns) <= {*present, *nullable}
