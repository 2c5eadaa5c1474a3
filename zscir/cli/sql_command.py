"""zscir sql: query the lineage and record tables of a store."""

from zscir.cli.engine import open_checked_store
from zscir.cli.options import JsonOption, StoreOption
from zscir.cli.output import print_rows


def sql_command(query: str, store_uri: StoreOption = None, as_json: JsonOption = False) -> None:
    """Query the lineage and record tables with DuckDB's SQL.

    Example: zscir sql "SELECT run_id, status FROM run"
    """
    from zscir.lineage.sql_views import query_store

    names, found = query_store(open_checked_store(store_uri), query)
    print_rows([dict(zip(names, row, strict=True)) for row in found], as_json, "", names)
