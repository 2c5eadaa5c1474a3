"""Log lines and progress: a bar on a terminal, a line every few seconds elsewhere."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import TypeVar

from zscir.runtime.settings import logs_as_json

log = logging.getLogger("zscir")
T = TypeVar("T")
LOG_EVERY_S = 10.0
# A context variable: steps and chunks of several threads must not label each other's lines.
LOG_LABELS: ContextVar[Mapping[str, str]] = ContextVar("labels", default=MappingProxyType({}))


@contextmanager
def log_labels(**labels: str) -> Iterator[None]:
    """Add labels (run, step, stage, key) to every log line in the block."""
    before = LOG_LABELS.set({**LOG_LABELS.get(), **labels})
    try:
        yield
    finally:
        LOG_LABELS.reset(before)


def log_info(message: str) -> None:
    """Log one line about the work under way."""
    log.info(message)


def log_warning(message: str) -> None:
    """Log one line about something that a person should look at; the work continues."""
    log.warning(message)


def track(items: Iterable[T], total: int | None, label: str) -> Iterator[T]:
    """Yield ``items`` unchanged and show how many of ``total`` are done."""
    # stderr: stdout is for results, which people pipe.
    if sys.stderr.isatty() and not logs_as_json():
        yield from _with_bar(items, total, label)
    else:
        yield from _with_log_lines(items, total, label)


def _with_bar(items: Iterable[T], total: int | None, label: str) -> Iterator[T]:
    # Here, not above: only a terminal needs rich.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=total)
        for item in items:
            yield item
            progress.advance(task)


def _with_log_lines(items: Iterable[T], total: int | None, label: str) -> Iterator[T]:
    last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - last >= LOG_EVERY_S:
            last = time.monotonic()
            log_info(f"{label}: {done}" + (f" of {total}" if total is not None else ""))
