"""Print tables, JSON, errors and log lines; every secret in a log line or an error is redacted."""

import json
import logging
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from zscir.runtime.progress import LOG_LABELS
from zscir.runtime.settings import logs_as_json


def print_rows(
    rows: Sequence[Mapping[str, Any]], as_json: bool, title: str = "", columns: Sequence[str] | None = None
) -> None:
    """Print rows to standard output, as one JSON array or as a table."""
    if as_json:
        sys.stdout.write(json.dumps([dict(row) for row in rows], default=_json_value, indent=1) + "\n")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    names = list(columns or (rows[0] if rows else []))
    table = Table(title=title or None, title_justify="left", header_style="bold")
    for name in names:
        # Folded, not cut with an ellipsis: keys and ids are there to be copied.
        table.add_column(name, overflow="fold")
    for row in rows:
        # As Text: a caption with [bold] in it is data, and rich would obey it in a plain string.
        table.add_row(*(Text(_format_cell(row.get(name))) for name in names))
    width = None if sys.stdout.isatty() else 200  # a file or a pipe has no width of its own; rich would take 80
    Console(width=width).print(table if names else Text("(no rows)"))


def print_values(title: str, values: Mapping[str, Any]) -> None:
    """Print named values, one a line."""
    lines = [title, *(f"  {name}: {_format_cell(value)}" for name, value in values.items())]
    sys.stdout.write("\n".join(lines) + "\n")


def print_lines(lines: str | Iterable[str]) -> None:
    """Print plain lines to standard output."""
    sys.stdout.write((lines if isinstance(lines, str) else "\n".join(lines)) + "\n")


class PlainFormatter(logging.Formatter):
    """Log lines for a person, every secret redacted."""

    def format(self, record: logging.LogRecord) -> str:
        """Time and message."""
        return _redacted(super().format(record))


class JsonFormatter(logging.Formatter):
    """Log lines for a program: time (UTC), level, message, and run, step and key where they are known."""

    def format(self, record: logging.LogRecord) -> str:
        """One JSON object; ``logger`` is there for lines of other packages, ``traceback`` for errors."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": _redacted(record.getMessage()),
            **LOG_LABELS.get(),
        }
        if record.name != "zscir":
            line["logger"] = record.name
        if record.exc_info:
            line["traceback"] = _redacted(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)


def setup_logging(debug: bool) -> None:
    """Log lines of zscir go to standard error, plain or (``ZSCIR_LOG=json``) as JSON; others' only when they warn."""
    as_json = logs_as_json()
    # Standard error, so that the output of --json can be piped.
    own = _to_stderr(JsonFormatter() if as_json else PlainFormatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("zscir")
    logger.handlers[:] = [own]
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    # The root logger has a handler as well: every line would come twice.
    logger.propagate = False
    others = logging.getLogger()
    # Handlers of an earlier call are replaced; those of other packages and of pytest stay.
    kept = [handler for handler in others.handlers if not isinstance(handler.formatter, PlainFormatter | JsonFormatter)]
    others.handlers[:] = [*kept, own if as_json else _to_stderr(PlainFormatter("%(message)s"))]
    logging.captureWarnings(True)


def _to_stderr(lines: logging.Formatter) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(lines)
    return handler


def print_error(error: BaseException, debug: bool, message: str = "") -> None:
    """An error on standard error, as a few lines or as a line of JSON; its traceback only when ``debug``."""
    text = message or str(error)
    if _wants_json():
        logging.getLogger("zscir").error(text, exc_info=error if debug else None)
        return
    if debug:
        sys.stderr.write(_redacted("".join(traceback.format_exception(error))))
    sys.stderr.write(_redacted(f"zscir: {text}\n"))


def _wants_json() -> bool:
    return any(isinstance(handler.formatter, JsonFormatter) for handler in logging.getLogger("zscir").handlers)


def _redacted(text: str) -> str:
    from zscir.lineage.environment import redact  # imports pydantic, which --help does not need

    return str(redact(text))


def _json_value(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _format_cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, float):
        return f"{value:.2f}"
    # A bool is an int to Python; True would be shown as 1.
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
