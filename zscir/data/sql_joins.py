"""Joins: SQL over Parquet files larger than the memory becomes tables of a fixed number of rows, in order."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from zscir.runtime.schemas import check_table, parquet_columns, parquet_sql

if TYPE_CHECKING:
    import duckdb


def query_tables(sql: str, scratch: Path, rows: int, schema: pa.Schema, **values: Any) -> Iterator[pa.Table]:
    """The answer in tables of exactly ``rows`` rows (the last may be shorter), checked against ``schema``.

    DuckDB spills into a dot folder of ``scratch`` and nowhere else. ``values`` fill the $names in ``sql``.
    """
    with _database(scratch) as connection:
        held: list[pa.RecordBatch] = []
        for batch in connection.sql(sql, params=values).to_arrow_reader(rows):
            held.append(batch)
            table = pa.Table.from_batches(held)
            while table.num_rows >= rows:
                yield check_table(table.slice(0, rows), schema, "a joined table")
                table = table.slice(rows)
            held = table.to_batches()
        if held:
            yield check_table(pa.Table.from_batches(held), schema, "a joined table")


def query_values(sql: str, scratch: Path, **values: Any) -> list[tuple[Any, ...]]:
    """The few rows of a small answer."""
    with _database(scratch) as connection:
        return connection.execute(sql, values).fetchall()


def rows_sql(paths: Iterable[Path], schema: pa.Schema, options: str = ", file_row_number = true") -> str:
    """A table expression of Parquet files that an older version may have written; ``parquet_sql`` says how."""
    return parquet_sql(parquet_columns(str(path) for path in paths), schema, options)


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
