"""Query Parquet files with DuckDB, which spills to disk: a list of 10^8 pairs needs no memory of that size."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from zscir.runtime.schemas import check_table, escape_glob, parquet_columns, parquet_sql, table_writer
from zscir.store.artifacts import atomic_path

if TYPE_CHECKING:
    import duckdb

BATCH_ROWS = 50_000  # of a row group; it decides bytes of the artifacts


def write_query(path: Path, schema: pa.Schema, sql: str, **values: Any) -> None:
    """Write the answer to ``sql`` as a Parquet file in row groups of ``BATCH_ROWS``; see ``query_tables``."""
    with atomic_path(path) as part, table_writer(part, schema) as writer:
        for table in query_tables(sql, path.parent, BATCH_ROWS, schema, **values):
            writer.write_table(table)


def query_tables(sql: str, scratch: Path, rows: int, schema: pa.Schema, **values: Any) -> Iterator[pa.Table]:
    """The answer in tables of exactly ``rows`` rows (the last may be shorter), checked against ``schema``.

    DuckDB spills into a dot folder of ``scratch`` and nowhere else. ``values`` fill the $names in ``sql``; a Path
    among them, or in a list, is the name of one file, never a pattern.
    """
    with _database(scratch) as connection:
        held: list[pa.RecordBatch] = []
        for batch in connection.sql(sql, params=_parameters(values)).to_arrow_reader(rows):
            held.append(batch)
            table = pa.Table.from_batches(held)
            while table.num_rows >= rows:
                yield check_table(table.slice(0, rows), schema, "a joined table")
                table = table.slice(rows)
            held = table.to_batches()
        if held:
            yield check_table(pa.Table.from_batches(held), schema, "a joined table")


def query_values(sql: str, scratch: Path, **values: Any) -> list[tuple[Any, ...]]:
    """All rows of a small answer."""
    with _database(scratch) as connection:
        return connection.execute(sql, _parameters(values)).fetchall()


def rows_sql(paths: Iterable[Path], schema: pa.Schema, options: str = ", file_row_number = true") -> str:
    """A table expression of Parquet files that an older version may have written; ``parquet_sql`` says how."""
    return parquet_sql(parquet_columns(str(path) for path in paths), schema, options)


def _parameters(values: dict[str, Any]) -> dict[str, Any]:
    return {name: _parameter(value) for name, value in values.items()}


def _parameter(value: Any) -> Any:
    if isinstance(value, list):
        return [_parameter(item) for item in value]
    return escape_glob(value) if isinstance(value, Path) else value


@contextmanager
def _database(scratch: Path) -> "Iterator[duckdb.DuckDBPyConnection]":
    import duckdb

    settings: dict[str, str | bool | int | float | list[str]] = {
        "temp_directory": str(scratch / ".duckdb"),
        "autoinstall_known_extensions": "false",
    }
    with duckdb.connect(config=settings) as connection:
        connection.execute("SET enable_progress_bar = false")  # it would draw over our own
        yield connection
