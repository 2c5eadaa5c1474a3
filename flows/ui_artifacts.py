"""Show a run on Prefect's page: artifacts with its plan, the progress of chunked steps, and its scores.

Only where a server was named, whose page outlives the run. An artifact that cannot be written is a line in the log.
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
    # The module imports what a report is drawn with (seconds), which a run that nobody watches does without.
    from zscir.report.page import default_report_path

    plan = plan_rows([planned for planned in run.plan if planned.step.name in steps])
    where = default_report_path(run.store, run.run_id)
    report = (
        f"The report of run `{run.run_id}`, a page that needs no other file, is written by\n\n"
        f"    zscir report {run.run_id} --store {run.store.uri}\n\nas `{where}`; it can be read during the run."
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
    """``mapper``, with a bar that is moved in place as chunks end, every few seconds at most."""

    def mapped(store: Store, chunks: Sequence[Chunk]) -> Iterator[ChunkResult]:
        bar = ChunkProgressBar(ACTIVE_RUNS[run_id], step, len(chunks)) if _is_watched() else None
        for result in mapper(store, chunks):
            if bar is not None:
                bar.add(result)
            yield result

    return mapped


class ChunkProgressBar:
    """A progress artifact; after the first failure to write it, it is left alone."""

    def __init__(self, run: Run, step: str, total: int) -> None:
        self.step, self.total, self.done, self.failed = step, total, 0, 0
        self.due = time.monotonic() + PROGRESS_EVERY_S
        name = _key(run, f"{step}-progress")
        self.artifact = _log_failure(lambda: cast(UUID, create_progress_artifact(0.0, name, self._description())))

    def add(self, result: ChunkResult) -> None:
        """Count one more chunk that ended, and move the bar if it is due."""
        self.done += 1
        self.failed += result.key is None
        now = time.monotonic()
        if self.artifact is not None and (now >= self.due or self.done == self.total):
            artifact, percent = self.artifact, 100 * self.done / self.total
            self.artifact = _log_failure(
                lambda: cast(UUID, update_progress_artifact(artifact, percent, self._description()))
            )
            self.due = now + PROGRESS_EVERY_S

    def _description(self) -> str:
        failed = f", {self.failed:,} failed" if self.failed else ""
        return f"{self.step}: {self.done:,} of {self.total:,} chunks{failed}"


def _is_watched() -> bool:
    """Whether a server was named: the ephemeral one, which ends with the run, has no page."""
    return bool(PREFECT_API_URL.value())


def _key(run: Run, what: str) -> str:
    """An artifact's key, of lowercase letters, digits and dashes as Prefect demands; a later run's is a new version."""
    return re.sub(r"[^a-z0-9]+", "-", f"{run.pipeline.name}-{what}".lower()).strip("-")


def _log_failure(write: Callable[[], T]) -> T | None:
    try:
        return write()
    except Exception as error:  # noqa: BLE001 - whatever Prefect's client raises, the run continues without the artifact
        log_warning(f"not shown on Prefect's page: {type(error).__name__}: {error}")
        return None
