from pathlib import Path

import pytest

from zscir.data.sql_joins import query_tables
from zscir.runtime.schemas import schema_of


@pytest.mark.parametrize(("count", "rows"), [(0, 3), (1, 3), (3, 3), (7, 3), (5000, 2047), (5000, 5000)])
def test_a_query_gives_tables_of_exactly_so_many_rows(tmp_path: Path, count: int, rows: int) -> None:
    sql = "SELECT range AS n FROM range(CAST($count AS BIGINT)) ORDER BY range"
    tables = list(query_tables(sql, tmp_path, rows, schema_of(n="i64"), count=str(count)))
    assert [table.num_rows for table in tables[:-1]] == [rows] * (len(tables) - 1)
    assert [n for table in tables for n in table["n"].to_pylist()] == list(range(count))
    assert all(table.num_rows for table in tables)
