"""zscir gc: list the artifacts that no run needs any more and, with --delete, remove them."""

import shlex
from typing import Annotated

import typer

from zscir.cli.engine import open_checked_store, open_store_to_read
from zscir.cli.options import JsonOption, StoreOption
from zscir.cli.output import print_lines, print_rows

KeepOption = Annotated[
    int, typer.Option("--keep-runs", help="Of each pipeline (and partition): its last runs that succeeded, so many.")
]
AgeOption = Annotated[
    str, typer.Option("--older-than", help="Keep what is younger, and what recently stopped runs used: 36h, 14d, 8w.")
]
DeleteOption = Annotated[
    bool, typer.Option("--delete/--dry-run", help="Remove it; without this option nothing is removed.")
]


def gc_command(
    keep_runs: KeepOption = 3,
    older_than: AgeOption = "14d",
    delete: DeleteOption = False,
    store_uri: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what no run needs any more, and how many bytes that is; --delete removes it, also while runs are at work.

    The lineage stays: `zscir show KEY` still says what a removed artifact was, and runs make it again.

    Example: zscir gc --keep-runs 3 --older-than 14d
    """
    from zscir.maintenance.gc import gc_summary, gc_table, plan_gc, run_gc
    from zscir.maintenance.retention import RetentionPolicy
    from zscir.store.inventory import check_store_exists

    policy = RetentionPolicy.parse(keep_runs, older_than)
    # A dry run is not checked for the right to write: on S3 it needs none, on a disk only to read the disk's clock.
    store = open_checked_store(store_uri) if delete else open_store_to_read(store_uri)
    # A mistyped address would otherwise be an empty store, with nothing to remove.
    check_store_exists(store)
    plan = plan_gc(store, policy)
    rows = gc_table(plan)
    done = run_gc(store, plan) if delete else None
    if as_json:
        # The total is the last row: the result goes there, so that the output stays one list of rows.
        print_rows([row | ({"removed": done.deleted.row} if done and row is rows[-1] else {}) for row in rows], True)
        return
    print_rows(rows, False, f"store {store.uri}")
    command = ["zscir", "gc", "--keep-runs", str(keep_runs), "--older-than", older_than, "--delete"]
    print_lines(gc_summary(rows, done, shlex.join([*command, *(["--store", store_uri] if store_uri else [])])))
