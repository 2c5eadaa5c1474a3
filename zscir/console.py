"""The console: rows become a table for a person or JSON for a program; errors become a few lines and a code."""

import json
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any


def show_rows(
    rows: Sequence[Mapping[str, Any]], as_json: bool, title: str = "", columns: Sequence[str] | None = None
) -> None:
    """Print rows to standard output, as one JSON array or as a table."""
    if as_json:
        sys.stdout.write(json.dumps([dict(row) for row in rows], default=_plain, indent=1) + "\n")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    names = list(columns or (rows[0] if rows else []))
    table = Table(title=title or None, title_justify="left", header_style="bold")
    for name in names:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(_word(row.get(name))) for name in names))
    wide = None if sys.stdout.isatty() else 200
    Console(width=wide).print(table if names else Text("(no rows)"))


def show_pairs(title: str, values: Mapping[str, Any]) -> None:
    """Print named values, one a line."""
    lines = [title, *(f"  {name}: {_word(value)}" for name, value in values.items())]
    sys.stdout.write("\n".join(lines) + "\n")


def say(lines: str | Iterable[str]) -> None:
    """Print plain lines to standard output."""
    sys.stdout.write((lines if isinstance(lines, str) else "\n".join(lines)) + "\n")


def start_logging(debug: bool) -> None:
    """Log lines of zscir go to standard error, plain; others' only when they warn."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("zscir")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    logger.propagate = False


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _word(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, float):
        return f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
