"""Progress: a long loop becomes a bar on a terminal and a log line every few seconds elsewhere."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

log = logging.getLogger("zscir")
T = TypeVar("T")
LINE_EVERY_S = 10.0


def note(message: str) -> None:
    """One line of news about the work under way."""
    log.info(message)


def track(items: Iterable[T], total: int | None, label: str) -> Iterator[T]:
    """Yield ``items`` unchanged and show how many of ``total`` are done."""
    if sys.stderr.isatty():
        yield from _bar(items, total, label)
    else:
        yield from _lines(items, total, label)


def _bar(items: Iterable[T], total: int | None, label: str) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=total)
        for item in items:
            yield item
            progress.advance(task)


def _lines(items: Iterable[T], total: int | None, label: str) -> Iterator[T]:
    last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - last >= LINE_EVERY_S:
            last = time.monotonic()
            note(f"{label}: {done}" + (f" of {total}" if total is not None else ""))
