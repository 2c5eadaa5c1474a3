"""Scores: the evaluations of a run become rows for the console and tables for the page."""

from dataclasses import dataclass
from itertools import groupby
from typing import Any

from zscir.benchmarks.comparability import Sheet
from zscir.evaluation.score_tables import Cell, Grid, control_of, grid_of, remarks
from zscir.report.artifact_reader import first_rows, has_columns
from zscir.report.run_data import RunRecord, read_record
from zscir.store.artifacts import Artifact
from zscir.store.store import Store

MAX_ROWS = 20_000
NAMES = {"fashioniq": "FashionIQ", "cirr": "CIRR", "circo": "CIRCO", "genecis": "GeneCIS"}
HEADLINES = {"fashioniq": ("R@10",), "cirr": ("R@1", "Rsub@1"), "circo": ("mAP@5",), "genecis": ("R@1",)}
COLUMNS = ("benchmark", "split", "method", "backbone", "metric", "value", "n")
ABOUT = (
    "Percent, higher is better; the best of each column is bold. Under each value: hits of queries, and the 95 % "
    "bootstrap interval. Controls (grey) use the backbone as it is, without any training for the task."
)
Row = dict[str, Any]
Column = tuple[Sheet, str]  # benchmark, split and ranking protocol; metric


@dataclass(frozen=True)
class Scores:
    """The scores of a run as a grid, controls first."""

    grid: Grid

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
    """One number as it is shown; ``of`` (hits of queries) and ``interval`` may be empty."""

    value: float
    best: bool
    of: str
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
    """Methods by metrics. ``remarks`` must be read with it: controls that are missing, images that were allowed to."""

    title: str
    about: str
    groups: tuple[Head, ...]
    columns: tuple[Head, ...]
    rows: tuple[Line, ...]
    remarks: tuple[str, ...]


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


def score_remarks(store: Store, run_id: str) -> list[str]:
    """What must be said beside ``score_rows``: controls that are missing, images that were allowed to be."""
    scores = read_scores(read_record(store, run_id))
    return remarks(scores.grid, list(dict.fromkeys(sheet for sheet, _ in _headlines(scores))))


def read_scores(record: RunRecord) -> Scores:
    """The grid of a run: what its ``tabulate`` put together, else all its evaluations; controls first."""
    told = [rows for _, artifact in record.made_by("tabulate") for rows in tabulated(artifact)]
    own = [evaluated(artifact) for _, artifact in record.made_by("evaluate")] if not told else []
    return Scores(grid_of(sorted((rows for rows in told or own if rows), key=lambda rows: not control_of(rows[0]))))


def evaluated(artifact: Artifact) -> list[Row]:
    """The score rows of one evaluation, with hits and bounds where it has them."""
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


def is_control(evaluation: Artifact) -> bool:
    """Whether an evaluation asked a backbone without any training for the task."""
    rows = evaluated(evaluation)
    if rows:
        return control_of(rows[0]) is not None
    return evaluation.manifest is not None and "control" in evaluation.manifest.spec  # a split without answers


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
    return " ".join(word for word in (named(sheet), metric, more) if word)


def named(sheet: Sheet) -> str:
    """``FashionIQ dress``; a mean over parts stands for the benchmark."""
    return f"{NAMES.get(_family(sheet), _family(sheet))} {_part(sheet)}".removesuffix("mean").strip()


def score_tables(record: RunRecord) -> list[ScoreTable]:
    """The overview, then tables for each benchmark: its means, then categories and tasks (aspects: the breakdown)."""
    scores = read_scores(record)
    columns = [one for one in scores.columns() if "/" not in one[1]]
    tables = [_table("Overview", ABOUT, scores, _headlines(scores))]
    for family in dict.fromkeys(_family(sheet) for sheet, _ in columns):
        own = [one for one in columns if _family(one[0]) == family]
        name = NAMES.get(family, family)
        whole = [one for one in own if _part(one[0]) in ("", "mean")]
        tables.append(_table(name, "", scores, whole))
        tables.append(_table(f"{name} part by part", "", scores, [one for one in own if one not in whole]))
    return [table for table in tables if table.columns]


def _table(title: str, about: str, scores: Scores, columns: list[Column]) -> ScoreTable:
    grid, sheets = scores.grid, list(dict.fromkeys(sheet for sheet, _ in columns))
    heads = tuple(Head(metric, _asked(grid, (sheet, metric))) for sheet, metric in columns)
    lines = []
    for number, line in enumerate(grid.lines):
        cells = tuple(_value(grid, number, one) for one in columns)
        texts = dict.fromkeys(grid.texts(sheet, number) for sheet in sheets)
        small = [one for one in (line.backbone, *texts, line.preprocessing) if one not in ("", "-", "none")]
        if any(cell is not None for cell in cells):
            kind = "method" if line.control is None else "control"
            lines.append(Line(line.method, " · ".join(dict.fromkeys(small)), kind, cells))
    said = tuple(remarks(grid, sheets))
    return ScoreTable(title, about, _groups(grid, columns), heads, tuple(lines), said)


def _value(grid: Grid, number: int, column: Column) -> Value | None:
    cell = grid.cells.get((number, *column))
    if cell is None:
        return None
    known = cell.low is not None and cell.high is not None
    interval = f"{cell.low:.1f} to {cell.high:.1f}" if known else ""
    of = "" if cell.hits is None else f"{cell.hits:,}/{cell.n:,}"
    return Value(cell.value, len(grid.lines) > 1 and cell.value == grid.best(*column), of, interval)


def _asked(grid: Grid, column: Column) -> str:
    """How many queries; several numbers mean that the lines were not asked the same."""
    counts = sorted({cell.n for (_, sheet, metric), cell in grid.cells.items() if (sheet, metric) == column})
    return "n " + ", ".join(f"{count:,}" for count in counts)


def _groups(grid: Grid, columns: list[Column]) -> tuple[Head, ...]:
    """Neighbouring columns of one sheet share a head that names benchmark, split and protocol, texts and all."""
    runs: list[tuple[Sheet, int]] = [(sheet, len(list(own))) for sheet, own in groupby(one[0] for one in columns)]
    return tuple(
        Head(named(sheet), f"{sheet.split}, {sheet.protocol}; texts {grid.texts(sheet)}", count)
        for sheet, count in runs
    )
