"""Scores: the evaluations of a run become rows for the console and tables for the page."""

import re
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from markupsafe import Markup

from zscir.artifacts import Artifact
from zscir.benchmarks.sheets import Sheet
from zscir.evaluation.tables import Cell, Grid, grid_of
from zscir.report.charts import Series, line_chart, read_curve
from zscir.report.peek import first_rows, has_columns
from zscir.report.record import RunRecord, read_record
from zscir.report.training import Curve
from zscir.store import Store

MAX_ROWS = 20_000
NAMES = {"fashioniq": "FashionIQ", "cirr": "CIRR", "circo": "CIRCO", "genecis": "GeneCIS"}
HEADLINES = {"fashioniq": ("R@10",), "cirr": ("R@1", "Rsub@1"), "circo": ("mAP@5",), "genecis": ("R@1",)}
COLUMNS = ("benchmark", "split", "method", "backbone", "metric", "value", "n")
CONTROL = re.compile(r"(.*: )?(image only|text only|sum, lambda .*)")
ABOUT = (
    "Percent, higher is better; the best of each column is bold, its 95 % bootstrap interval is under each value. "
    "Controls use the backbone as it is, without any training for the task."
)
Row = dict[str, Any]
Column = tuple[Sheet, str]  # benchmark, split and ranking protocol; metric


@dataclass(frozen=True)
class Scores:
    """The scores of a run as a grid; ``controls`` are the numbers of its lines that are controls."""

    grid: Grid
    controls: frozenset[int]

    def columns(self) -> list[Column]:
        """Every column, sheet by sheet."""
        return [(sheet, metric) for sheet in self.grid.sheets() for metric in self.grid.metrics(sheet)]


@dataclass(frozen=True)
class Head:
    """The head of a column or of a group of ``columns`` columns."""

    name: str
    about: str
    columns: int = 1


@dataclass(frozen=True)
class Value:
    """One number as it is shown; ``interval`` may be empty."""

    value: float
    best: bool
    interval: str


@dataclass(frozen=True)
class Line:
    """The numbers of one evaluation. ``kind`` is ``control`` or ``method``."""

    method: str
    about: str
    kind: str
    cells: tuple[Value | None, ...]


@dataclass(frozen=True)
class ScoreTable:
    """Methods by metrics."""

    title: str
    about: str
    groups: tuple[Head, ...]
    columns: tuple[Head, ...]
    rows: tuple[Line, ...]


def score_rows(store: Store, run_id: str) -> list[Row]:
    """One row for each method of a run: its name and the headline metrics of each benchmark, in percent."""
    scores = read_scores(read_record(store, run_id))
    columns = _headlines(scores)
    several = len({line.backbone for line in scores.grid.lines}) > 1
    return [
        {"method": line.method, **({"backbone": line.backbone} if several else {})}
        | {_title(one, columns): _number(scores.grid.cells.get((number, *one))) for one in columns}
        for number, line in enumerate(scores.grid.lines)
    ]


def _number(cell: Cell | None) -> float | None:
    return None if cell is None else cell.value


def read_scores(record: RunRecord) -> Scores:
    """The grid of a run: what its ``tabulate`` put together, else all its evaluations; controls first."""
    marked = marked_controls(record)
    told = [rows for _, artifact in record.made_by("tabulate") for rows in tabulated(artifact)]
    own = [_evaluated(artifact) for _, artifact in record.made_by("evaluate")] if not told else []
    ordered = sorted((rows for rows in told or own if rows), key=lambda rows: not is_control(rows, marked))
    controls = (number for number, rows in enumerate(ordered) if is_control(rows, marked))
    return Scores(grid_of(ordered), frozenset(controls))


def marked_controls(record: RunRecord) -> set[tuple[str, str]]:
    """Method and backbone of every evaluation of the run whose spec asks for a control."""
    asked = [artifact for _, artifact in record.made_by("evaluate") if _asks_control(artifact)]
    return {_who(rows) for rows in map(_evaluated, asked) if rows}


def _evaluated(artifact: Artifact) -> list[Row]:
    for name in ("intervals.parquet", "scores.parquet"):
        if has_columns(artifact, name, (*COLUMNS, "protocol")):
            return first_rows(artifact, name, MAX_ROWS)
    return []


def tabulated(artifact: Artifact) -> list[list[Row]]:
    """The rows of each evaluation in a table, with the protocol put together again."""
    if not has_columns(artifact, "table.parquet", (*COLUMNS, "evaluation", "ranking", "texts", "preprocessing")):
        return []
    rows = first_rows(artifact, "table.parquet", MAX_ROWS)
    for row in rows:
        row["protocol"] = f"{row['ranking']}/{row['texts']}/{row['preprocessing']}"
    return [list(own) for _, own in groupby(rows, key=lambda row: row["evaluation"])]


def _asks_control(evaluation: Artifact) -> bool:
    return evaluation.manifest is not None and "control" in evaluation.manifest.spec


def _who(rows: list[Row]) -> tuple[str, str]:
    return rows[0]["method"], rows[0]["backbone"]


def is_control(rows: list[Row], marked: set[tuple[str, str]]) -> bool:
    """Whether nothing was trained for these scores: the evaluation's spec says so, or else its name does."""
    return _who(rows) in marked or CONTROL.fullmatch(rows[0]["method"]) is not None


def _family(sheet: Sheet) -> str:
    """``genecis`` of ``genecis/focus_object``."""
    return sheet.benchmark.partition("/")[0]


def _part(sheet: Sheet) -> str:
    """``focus object`` of ``genecis/focus_object``; empty where there are no parts."""
    return sheet.benchmark.partition("/")[2].replace("_", " ")


def _headlines(scores: Scores) -> list[Column]:
    """The columns that stand for the benchmarks: means over parts where there are means."""
    columns = scores.columns()
    averaged = {(_family(sheet), sheet.split, sheet.protocol) for sheet, _ in columns if _part(sheet) == "mean"}
    order = list(HEADLINES)
    chosen = [
        (sheet, metric)
        for sheet, metric in columns
        if metric in HEADLINES.get(_family(sheet), ())
        and (_part(sheet) == "mean" or (_family(sheet), sheet.split, sheet.protocol) not in averaged)
    ]
    return sorted(chosen, key=lambda one: order.index(_family(one[0])))


def _title(column: Column, beside: list[Column]) -> str:
    """``CIRR R@1``; split and protocol only where another column differs in nothing else."""
    sheet, metric = column
    alike = [one for one, name in beside if (one.benchmark, name) == (sheet.benchmark, metric)]
    more = f"({sheet.split}, {sheet.protocol})" if len(alike) > 1 else ""
    return " ".join(word for word in (_named(sheet), metric, more) if word)


def _named(sheet: Sheet) -> str:
    return f"{NAMES.get(_family(sheet), _family(sheet))} {_part(sheet)}".removesuffix("mean").strip()


def score_tables(record: RunRecord) -> list[ScoreTable]:
    """The overview, then tables for each benchmark: its means, CIRCO's semantic aspects, categories and tasks."""
    scores = read_scores(record)
    columns = scores.columns()
    tables = [_table("Overview", ABOUT, scores, _headlines(scores))]
    for family in dict.fromkeys(_family(sheet) for sheet, _ in columns):
        own = [one for one in columns if _family(one[0]) == family]
        name = NAMES.get(family, family)
        whole = [one for one in own if _part(one[0]) in ("", "mean")]
        tables.append(_table(name, "", scores, [one for one in whole if "/" not in one[1]]))
        tables.append(_table(f"{name} by semantic aspect", "", scores, [one for one in whole if "/" in one[1]]))
        tables.append(_table(f"{name} part by part", "", scores, [one for one in own if one not in whole], False))
    return [table for table in tables if table.columns]


def _table(title: str, about: str, scores: Scores, columns: list[Column], intervals: bool = True) -> ScoreTable:
    grid = scores.grid
    heads = tuple(Head(one[1].rpartition("/")[2].replace("_", " "), _asked(grid, one)) for one in columns)
    lines = []
    for number, line in enumerate(grid.lines):
        cells = tuple(_value(grid, number, one, intervals) for one in columns)
        small = " · ".join(
            one for one in (line.backbone, line.texts, line.preprocessing) if one not in ("", "-", "none")
        )
        if any(cell is not None for cell in cells):
            lines.append(Line(line.method, small, "control" if number in scores.controls else "method", cells))
    return ScoreTable(title, about, _groups(columns), heads, tuple(lines))


def _value(grid: Grid, number: int, column: Column, intervals: bool) -> Value | None:
    cell = grid.cells.get((number, *column))
    if cell is None:
        return None
    known = intervals and cell.low is not None and cell.high is not None
    interval = f"{cell.low:.1f} to {cell.high:.1f}" if known else ""
    return Value(cell.value, len(grid.lines) > 1 and cell.value == grid.best(*column), interval)


def _asked(grid: Grid, column: Column) -> str:
    """How many queries; several numbers mean that the lines were not asked the same."""
    counts = sorted({cell.n for (_, sheet, metric), cell in grid.cells.items() if (sheet, metric) == column})
    return "n " + ", ".join(f"{count:,}" for count in counts)


def _groups(columns: list[Column]) -> tuple[Head, ...]:
    """Neighbouring columns of one sheet share a head that names benchmark, split and protocol."""
    runs: list[tuple[Sheet, int]] = [(sheet, len(list(own))) for sheet, own in groupby(one[0] for one in columns)]
    return tuple(Head(_named(sheet), f"{sheet.split}, {sheet.protocol}", count) for sheet, count in runs)


def lambda_curves(record: RunRecord) -> list[Curve]:
    """The grids that tuned the weight of a sum: the score on the validation benchmark by lambda."""
    grids = [grid for step, artifact in record.made_by("evaluate") for grid in _grids(step.name, artifact)]
    if not grids:
        return []
    lines = [line for _, line in grids]
    measured = ", ".join(sorted({name for name, _ in grids}))
    svg = Markup(line_chart(lines, "lambda, the weight of the image", measured, "Score by lambda"))  # noqa: S704
    best = [f"{line.name}: {line.x[line.y.index(max(line.y))]:g}" for line in lines]
    about = "What the sum of text and lambda x image scores on other queries; the first best value is then reported. "
    return [Curve("The sum's weight, tuned", about + "Chosen: " + "; ".join(best), (svg,), broad=True)]


def _grids(step: str, evaluation: Artifact) -> list[tuple[str, Series]]:
    """What was measured, and its values in order of lambda."""
    if not has_columns(evaluation, "curve.parquet", ("step", "name", "value")):
        return []
    series = {one.name: one for one in read_curve(evaluation)}
    weights = series.pop("lambda", None)
    if weights is None:
        return []
    found = []
    for name, one in series.items():
        points = sorted(zip(weights.y, one.y, strict=False))
        found.append((name, Series(step, [x for x, _ in points], [y for _, y in points])))
    return found
