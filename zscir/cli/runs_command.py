"""zscir runs and zscir show: what a store knows of its runs, artifacts, triplets and images."""

from zscir.cli.engine import open_checked_store
from zscir.cli.options import JsonOption, StoreOption
from zscir.cli.output import print_rows, print_values

RUN_COLUMNS = (
    "run_id",
    "pipeline",
    "status",
    "started_at",
    "finished_at",
    "steps",
    "made",
    "reused",
    "stopped_at",
    "parent_run_id",
)


def runs_command(store_uri: StoreOption = None, as_json: JsonOption = False) -> None:
    """List the runs of a store, newest last.

    Example: zscir runs
    """
    from zscir.pipeline.run import list_runs

    found = list_runs(open_checked_store(store_uri))
    print_rows(found, as_json, "", None if as_json else RUN_COLUMNS)


def show_command(ref: str, store_uri: StoreOption = None, as_json: JsonOption = False) -> None:
    """Show a run, an artifact (key or unique prefix), a triplet or an image.

    Example: zscir show latest
    """
    from zscir.lineage.lookup import describe_ref

    title, values, tables = describe_ref(open_checked_store(store_uri), ref)
    if as_json:
        print_rows([{**values, **tables}], True)
        return
    print_values(title, values)
    for name, rows in tables.items():
        print_rows(rows, False, name)
