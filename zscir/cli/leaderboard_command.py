"""zscir leaderboard: published scores beside the store's own, as Markdown, LaTeX or a page."""

from pathlib import Path
from typing import Annotated

import typer

from zscir.cli.engine import open_checked_store
from zscir.cli.options import StoreOption
from zscir.cli.output import print_lines
from zscir.runtime.settings import data_specs


def leaderboard_command(
    store_uri: StoreOption = None,
    as_latex: Annotated[bool, typer.Option("--latex", help="LaTeX tables instead of Markdown")] = False,
    page: Annotated[Path | None, typer.Option("--html", help="Write a page with sortable tables there instead")] = None,
) -> None:
    """Published scores beside the store's own, a table per protocol; toy benchmarks are left out.

    Example: zscir leaderboard --html leaderboard.html
    """
    from zscir.benchmarks.leaderboard import (
        leaderboard_latex,
        leaderboard_markdown,
        measured_entries,
        published_entries,
    )
    from zscir.lineage.sql_views import REAL_SCORES_SQL, query_store_rows

    entries = [
        *published_entries(data_specs() / "published"),
        *measured_entries(query_store_rows(open_checked_store(store_uri), REAL_SCORES_SQL)),
    ]
    if page is not None:
        from zscir.report.leaderboard_page import write_leaderboard_page

        print_lines(str(write_leaderboard_page(entries, page)))
        return
    print_lines(leaderboard_latex(entries) if as_latex else leaderboard_markdown(entries))
