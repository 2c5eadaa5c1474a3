"""Summary of a run at the head of its page: what went wrong, the main numbers, and the time of each step."""

from dataclasses import dataclass

from zscir.report.formatting import format_number
from zscir.report.run_data import RunRecord
from zscir.report.steps_table import StepTableRow

SILENT = "The process ended without an error message: killed, out of memory, or its machine is gone."
ALARM_TITLES = {
    "died": "The run died",
    "interrupted": "The run was interrupted",
    "over_budget": "The run stopped at its limit",
}
TILES = {
    "ingest": "pairs",
    "download": "URLs tried",
    "import_images": "images tried",
    "import_shards": "samples tried",
    "mask_triplets": "masked triplets",
    "mine_pairs": "candidate pairs",
    "parse_llm": "synthesised triplets",
}


@dataclass(frozen=True)
class Alarm:
    """The banner of a run that failed, was interrupted or is still running."""

    kind: str
    title: str
    lines: tuple[str, ...]
    command: str


@dataclass(frozen=True)
class Tile:
    """One of the main numbers."""

    name: str
    value: str


@dataclass(frozen=True)
class TimelineBar:
    """One step on the time axis of the run; ``left`` and ``width`` are percent of it."""

    name: str
    outcome: str
    left: float
    width: float
    wall_s: float | None


def alarm_of(record: RunRecord) -> Alarm | None:
    """The banner of a run that did not succeed."""
    status = record.row["status"]
    if status == "succeeded":
        return None
    if status == "running":
        under_way = ", ".join(step.name for step in record.steps if step.outcome == "running")
        return Alarm("calm", f"Still running: {under_way or 'between two steps'}", (), "")
    stopped = [step for step in record.steps if step.outcome == "failed"]
    where = "at " + ", ".join(f"'{step.name}'" for step in stopped) if stopped else "before any step failed"
    lines = tuple(step.error or SILENT for step in stopped)
    return Alarm("loud", f"{ALARM_TITLES.get(status, 'The run failed')} {where}", lines, f"zscir rerun {record.run_id}")


def run_duration_s(record: RunRecord) -> float | None:
    """Seconds from the start to the end, or to the last recorded time of a run without an end."""
    known = [moment for step in record.steps for moment in (step.started_at, step.finished_at) if moment is not None]
    end = record.row["finished_at"] or max(known, default=None)
    return None if end is None else float((end - record.row["started_at"]).total_seconds())


def tiles_of(steps: list[StepTableRow]) -> list[Tile]:
    """How many pairs, URLs, triplets, trainings and rejects."""
    tiles = []
    for stage, name in TILES.items():
        rows = [row.rows for row in steps if row.step.stage == stage and row.rows is not None]
        tiles += [Tile(name, format_number(sum(rows)))] if rows else []
    # Reused checkpoints count: the page shows their curves too.
    trained = sum(row.step.stage == "train" and row.step.artifact is not None for row in steps)
    tiles += [Tile("training" if trained == 1 else "trainings", format_number(trained))] if trained else []
    rejects = Tile("left out, with a reason", format_number(sum(row.rejects or 0 for row in steps)))
    return [*tiles, rejects] if steps else []


def bars_of(record: RunRecord) -> list[TimelineBar]:
    """The steps that took time, as bars on the run's time axis."""
    total = max(run_duration_s(record) or 0.0, 0.001)  # a run that has only begun has no length
    bars = []
    for step in record.steps:
        if step.outcome in ("made", "failed", "running") and step.started_at is not None:
            # Clocks of other machines may run ahead: no bar leaves the axis.
            left = min(100.0, 100 * (step.started_at - record.row["started_at"]).total_seconds() / total)
            width = min(100 - left, 100 * (total if step.wall_s is None else step.wall_s) / total)
            bars.append(TimelineBar(step.name, step.outcome, round(left, 2), round(width, 2), step.wall_s))
    return bars
