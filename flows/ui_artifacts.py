"""Artifacts: what a run plans, how far a cut step is, and what it scores become tables and bars on Prefect's page.

Only on an API that somebody looks at. They are an ornament: one that cannot be written is a line in the log.
"""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar, cast
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.settings import PREFECT_API_URL

from zscir.pipeline.execute import plan_rows
from zscir.pipeline.run import ACTIVE_RUNS, Run
from zscir.pipeline.stage import Chunk, ChunkMapper, ChunkResult
from zscir.runtime.progress import log_warning
from zscir.store.store import Store

PROGRESS_EVERY_S = 5.0
T = TypeVar("T")


def publish_plan(run: Run, steps: Sequence[str]) -> None:
    """At the start: a table of what will be reused or made, and why; and where to find the run's report."""
    if not _is_watched():
        return
    from zscir.report.page import (
        default_report_path,  # brings what a page is drawn with, which a quick run has no need of
    )

    plan = plan_rows([one for one in run.plan if one.step.name in steps])
    where = default_report_path(run.store, run.run_id)
    report = (
        f"The report of run `{run.run_id}`, a page that needs no other file, is written by\n\n"
        f"    zscir report {run.run_id} --store {run.store.uri}\n\nas `{where}`; it can be read while the run goes on."
    )
    _log_failure(lambda: create_table_artifact(plan, _key(run, "plan"), f"What run {run.run_id} does, and why"))
    _log_failure(
        lambda: create_markdown_artifact(report, _key(run, "report"), f"Where the report of run {run.run_id} is")
    )


def publish_scores(run: Run) -> None:
    """At the end: a table of the scores, in percent, where the run has some."""
    if _is_watched():
        _log_failure(lambda: _publish_score_table(run))


def _publish_score_table(run: Run) -> None:
    from zscir.report.scores import headline_score_rows

    rows = headline_score_rows(run.store, run.run_id)
    if rows:
        create_table_artifact(rows, _key(run, "scores"), f"Scores of run {run.run_id}, in percent")


def with_progress(mapper: ChunkMapper, run_id: str, step: str) -> ChunkMapper:
    """``mapper``, with a bar that is moved in place as pieces end, every few seconds at most."""

    def mapped(store: Store, pieces: Sequence[Chunk]) -> Iterator[ChunkResult]:
        bar = ChunkProgressBar(ACTIVE_RUNS[run_id], step, len(pieces)) if _is_watched() else None
        for done in mapper(store, pieces):
            if bar is not None:
                bar.count(done)
            yield done

    return mapped


class ChunkProgressBar:
    """One progress artifact; after the first time that it cannot be written it is left alone."""

    def __init__(self, run: Run, step: str, total: int) -> None:
        self.step, self.total, self.done, self.failed = step, total, 0, 0
        self.due = time.monotonic() + PROGRESS_EVERY_S
        name = _key(run, f"{step}-progress")
        self.artifact = _log_failure(lambda: cast(UUID, create_progress_artifact(0.0, name, self._words())))

    def count(self, done: ChunkResult) -> None:
        """One more piece has ended."""
        self.done += 1
        self.failed += done.key is None
        now = time.monotonic()
        if self.artifact is not None and (now >= self.due or self.done == self.total):
            artifact, percent = self.artifact, 100 * self.done / self.total
            self.artifact = _log_failure(lambda: cast(UUID, update_progress_artifact(artifact, percent, self._words())))
            self.due = now + PROGRESS_EVERY_S

    def _words(self) -> str:
        failed = f", {self.failed:,} failed" if self.failed else ""
        return f"{self.step}: {self.done:,} of {self.total:,} pieces{failed}"


def _is_watched() -> bool:
    """Prefect's ephemeral server, which ends with the run, has no page."""
    return bool(PREFECT_API_URL.value())


def _key(run: Run, what: str) -> str:
    """Prefect's keys are lowercase letters, digits and dashes; a later run's artifact becomes a version of it."""
    return re.sub(r"[^a-z0-9]+", "-", f"{run.pipeline.name}-{what}".lower()).strip("-")


def _log_failure(write: Callable[[], T]) -> T | None:
    try:
        return write()
    except Exception as error:  # noqa: BLE001 - whatever Prefect's client raises, the run goes on without the ornament
        log_warning(f"not shown on Prefect's page: {type(error).__name__}: {error}")
        return None
