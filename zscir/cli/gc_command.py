"""gc: a store becomes a table of what is kept, what may go and why; with --delete, what may go goes."""

import shlex
from typing import Annotated

import typer

from zscir.cli.engine import opened, opened_to_read
from zscir.cli.options import JsonOption, StoreOption
from zscir.cli.output import say, show_rows

KeepOption = Annotated[
    int, typer.Option("--keep-runs", help="Of each pipeline (and partition): its last runs that succeeded, so many.")
]
AgeOption = Annotated[
    str, typer.Option("--older-than", help="Keep all that is younger, and what lately stopped runs used: 36h, 14d, 8w.")
]
DeleteOption = Annotated[
    bool, typer.Option("--delete/--dry-run", help="Remove it; without this word nothing is removed.")
]


def gc(keep_runs: KeepOption = 3, older_than: AgeOption = "14d", delete: DeleteOption = False,
       store: StoreOption = None, as_json: JsonOption = False) -> None:  # fmt: skip
    """Say what no run needs any more, and how many bytes that is; --delete removes it, while runs may be at work.

    The lineage stays: `zscir show KEY` still says what a removed artifact was, and runs make it again.

    Example: zscir gc --keep-runs 3 --older-than 14d
    """
    from zscir.maintenance.gc import clear, look, summary, table
    from zscir.maintenance.retention import Policy
    from zscir.store.inventory import check_there

    policy = Policy.parse(keep_runs, older_than)
    where = opened(store) if delete else opened_to_read(store)
    check_there(where)
    seen = look(where, policy)
    rows = table(seen)
    done = clear(where, seen) if delete else None
    if as_json:
        show_rows([row | ({"removed": done.swept.row} if done and row is rows[-1] else {}) for row in rows], True)
        return
    show_rows(rows, False, f"store {where.uri}")
    again = ["zscir", "gc", "--keep-runs", str(keep_runs), "--older-than", older_than, "--delete"]
    say(summary(rows, done, shlex.join([*again, *(["--store", store] if store else [])])))
