"""Table and graph of a run's steps: counts, rejects, time and memory of each."""

from dataclasses import dataclass
from typing import Any

from zscir.report import graph_layout
from zscir.report.artifact_reader import count_values
from zscir.report.formatting import format_number, format_seconds, shorten_text
from zscir.report.rejects import REJECTS_FILE
from zscir.report.run_data import RunRecord, StepRecord
from zscir.runtime.errors import ZscirError
from zscir.store.artifacts import Artifact

MAX_REASONS_SHOWN = 6  # the rest is one bar
MAX_WORDS_SHOWN = 3
MAX_FACTS_SHOWN = 7
OUTCOMES = {
    "made": "made by this run",
    "reused": "made before, reused",
    "failed": "failed",
    "running": "under way",
    "waiting": "not reached",
}


@dataclass(frozen=True)
class Reason:
    """One class of rejects: how many there are, and the share of the longest bar in percent."""

    name: str
    count: int
    percent: float


@dataclass(frozen=True)
class Input:
    """What a step read: its role, how many rows it has (None: not counted), how many artifacts it is."""

    role: str
    rows: int | None
    artifacts: int


@dataclass(frozen=True)
class StepTableRow:
    """One step as the page shows it."""

    step: StepRecord
    inputs: tuple[Input, ...]
    rows: int | None
    rejects: int | None
    rejected_from: int | None  # of how many rows the rejects are a share
    reasons: tuple[Reason, ...]
    facts: dict[str, str]
    problem: str = ""


@dataclass(frozen=True)
class GraphBox:
    """A step's box in the picture."""

    name: str
    outcome: str
    line: str
    x: float
    y: float


def step_table_rows(record: RunRecord) -> list[StepTableRow]:
    """One row for each step, in order."""
    return [_step_table_row(record, step) for step in record.steps]


def _step_table_row(record: RunRecord, step: StepRecord) -> StepTableRow:
    artifact = step.artifact
    if artifact is None:
        return StepTableRow(step, (), None, None, None, (), {}, step.problem)
    facts = artifact.facts
    found: list[tuple[str, int]] = []
    total, problem = _whole(facts.get("rejects")), ""
    if REJECTS_FILE in artifact.entries:
        try:
            found = count_values(artifact, REJECTS_FILE, "reason")
            total = sum(count for _, count in found)
        except ZscirError as error:
            problem = str(error)
    inputs, rows = _inputs(record, artifact), _whole(facts.get("rows"))
    whole = _rejected_from(inputs, rows, total, _whole(facts.get("images")))
    return StepTableRow(step, inputs, rows, total, whole, _reasons(found), shown_facts(facts), problem)


def _rejected_from(inputs: tuple[Input, ...], rows: int | None, rejects: int | None, images: int | None) -> int | None:
    """What the rejects are a share of: the images that a filter read, the largest input, or (for a list from outside
    the store, which has no row count) all rows that were read.
    """
    read = max((source.rows for source in inputs if source.rows is not None), default=0)
    if not rejects:
        return None
    if rows is not None and images == rows + rejects:  # filters count the images they read as a fact
        return images
    return read if read >= rejects else rows + rejects if rows is not None else None


def _reasons(found: list[tuple[str, int]]) -> tuple[Reason, ...]:
    shown = found[:MAX_REASONS_SHOWN]
    rest = sum(count for _, count in found[MAX_REASONS_SHOWN:])
    listed = [*shown, *([(f"{len(found) - len(shown)} more reasons", rest)] if rest else [])]
    longest = max((count for _, count in listed), default=1)
    return tuple(Reason(name, count, round(100 * count / longest, 1)) for name, count in listed)


def _inputs(record: RunRecord, artifact: Artifact) -> tuple[Input, ...]:
    manifest = artifact.manifest
    merged: dict[str, Input] = {}
    for role, entry in manifest.inputs.items() if manifest is not None else ():
        name = role.split(".")[0]  # a list of inputs has roles scores.0, scores.1, ...
        parent = record.library.get(entry.stage, entry.key) if entry.stage != "file" else None
        rows = _whole(parent.facts.get("rows")) if parent is not None else None
        before = merged.get(name)
        if before is not None:
            rows = (before.rows or 0) + (rows or 0) if (before.rows, rows) != (None, None) else None
        merged[name] = Input(name, rows, 1 if before is None else before.artifacts + 1)
    return tuple(merged.values())


def shown_facts(facts: dict[str, Any]) -> dict[str, str]:
    """The facts of a step that are not shown as rows or rejects already, each as a short text."""
    shown: dict[str, str] = {}
    for name, value in facts.items():
        in_row = name in ("rows", "rejects") or name.endswith(("by_reason", "by_class"))
        text = "" if in_row else _fact(value)
        if text:
            shown[name] = text
    more = {"more": format_number(len(shown) - MAX_FACTS_SHOWN)} if len(shown) > MAX_FACTS_SHOWN else {}
    return dict(list(shown.items())[:MAX_FACTS_SHOWN]) | more


def _fact(value: Any) -> str:
    """A number, a few words, or the first numbers of a table; empty for anything else."""
    if isinstance(value, dict):
        numbers = [(name, number) for name, number in value.items() if isinstance(number, int | float)]
        first = ", ".join(f"{name} {format_number(number)}" for name, number in numbers[:MAX_WORDS_SHOWN])
        return shorten_text(first + (", ..." if len(numbers) > MAX_WORDS_SHOWN else ""), 120)
    if isinstance(value, str):
        return shorten_text(value, 80)
    return format_number(value) if isinstance(value, int | float) else ""


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) else None  # facts are JSON of any stage's making


def draw_graph(rows: list[StepTableRow]) -> tuple[graph_layout.GraphLayout, list[GraphBox]]:
    """The layout of the graph, and the text of each box."""
    names = {row.step.name for row in rows}
    parents = {row.step.name: [parent for parent in row.step.parents if parent in names] for row in rows}
    drawing = graph_layout.layout_graph(parents)
    by_name = {row.step.name: row for row in rows}
    boxes = [
        GraphBox(box.name, by_name[box.name].step.outcome, _box_line(by_name[box.name]), box.x, box.y)
        for box in drawing.boxes
    ]
    return drawing, boxes


def _box_line(row: StepTableRow) -> str:
    parts = [f"{row.rows:,} rows"] if row.rows is not None else []
    if row.step.outcome == "made":
        parts.append(format_seconds(row.step.wall_s))
    else:
        parts.append(OUTCOMES.get(row.step.outcome, row.step.outcome).split(",")[-1].strip())
    return " · ".join(parts)
