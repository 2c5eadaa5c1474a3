"""Breakdowns: the groups of an evaluation's queries become tables, every method beside the controls.

Which groups there are, ``zscir.benchmarks.breakdown`` says; how often the reference itself came first is a bar.
"""

from dataclasses import dataclass
from typing import Any

from zscir.benchmarks.comparability import ComparisonGroup
from zscir.benchmarks.registry import benchmark_order, info_of_label
from zscir.evaluation.score_tables import ScoreCell, ScoreGrid, build_score_grid, control_kind, score_grid_remarks
from zscir.report.artifact_reader import has_columns, read_first_rows
from zscir.report.run_data import RunRecord
from zscir.report.scores import TableHead, benchmark_title, evaluation_score_rows
from zscir.store.artifacts import Artifact

MAX_BREAKDOWN_ROWS = 5_000
BREAKDOWN_COLUMNS = ("benchmark", "split", "protocol", "metric", "by", "group", "value", "n", "hits", "low", "high")
REFERENCE, WORDS, ASPECT = "reference", "words", "aspect"
BREAKDOWN_TITLES = {
    REFERENCE: "{} by where the reference came out",
    WORDS: "{} by length of the text",
    ASPECT: "{} by semantic aspect",
}
_Row = dict[str, Any]


@dataclass(frozen=True)
class ReferenceShare:
    """One stretch of the bar: how many of all queries had their reference come out there."""

    group: str
    percent: float
    n: int


@dataclass(frozen=True)
class BreakdownValue:
    """One number; ``width`` is its length in percent of the longest of the table."""

    value: float
    width: float
    of: str
    interval: str


@dataclass(frozen=True)
class BreakdownRow:
    """One evaluation. ``kind`` is ``control`` or ``method``; no ``shares`` where no query ranks its reference."""

    method: str
    kind: str
    shares: tuple[ReferenceShare, ...]
    cells: tuple[BreakdownValue | None, ...]


@dataclass(frozen=True)
class Breakdown:
    """Methods by groups of queries; ``bar`` says that the table has the bar of the references."""

    title: str
    about: str
    bar: bool
    groups: tuple[TableHead, ...]
    columns: tuple[str, ...]
    rows: tuple[BreakdownRow, ...]
    remarks: tuple[str, ...]


def breakdowns(record: RunRecord) -> list[Breakdown]:
    """Tables of every benchmark; where it has categories or tasks, of all their queries together."""
    evaluations = [_rows(artifact) for _, artifact in record.made_by("evaluate")]
    ordered = sorted((rows for rows in evaluations if rows), key=lambda rows: not control_kind(rows[0]))
    grid, metrics = (
        build_score_grid(ordered),
        {(row["benchmark"], row["by"]): row["metric_itself"] for own in ordered for row in own},
    )
    tables = [_table(grid, sheet, bys, metrics) for sheet in _whole(grid) for bys in ((REFERENCE, WORDS), (ASPECT,))]
    return [table for table in tables if table.columns or table.bar]


def _rows(evaluation: Artifact) -> list[_Row]:
    """Rows that a grid takes: each group as a metric of its own, with the method's name."""
    if not has_columns(evaluation, "breakdown.parquet", BREAKDOWN_COLUMNS):
        return []
    who = next(iter(evaluation_score_rows(evaluation)), None)
    if who is None:
        return []
    more = {"method": who["method"], "backbone": who["backbone"], "control": control_kind(who)}
    return [
        row | more | {"metric": f"{row['by']}:{row['group']}", "metric_itself": row["metric"]}
        for row in read_first_rows(evaluation, "breakdown.parquet", MAX_BREAKDOWN_ROWS)
    ]


def _whole(grid: ScoreGrid) -> list[ComparisonGroup]:
    """The sheets of whole benchmarks; of categories and tasks only where they were not all asked."""
    sheets = grid.sheets()
    whole = {sheet.benchmark.removesuffix("/all") for sheet in sheets if sheet.benchmark.endswith("/all")}
    kept = [sheet for sheet in sheets if "/" not in sheet.benchmark or sheet.benchmark.endswith("/all")]
    kept += [sheet for sheet in sheets if sheet not in kept and sheet.benchmark.split("/")[0] not in whole]
    return sorted(kept, key=lambda sheet: (benchmark_order(sheet.benchmark), sheet.title))


def _table(
    grid: ScoreGrid, sheet: ComparisonGroup, bys: tuple[str, ...], metrics: dict[tuple[str, str], str]
) -> Breakdown:
    known = list(dict.fromkeys(metric for _, own, metric in grid.cells if own == sheet))
    columns = {by: [one for one in known if one.startswith(f"{by}:")] for by in bys}
    # one group alone says what the score says; but where the reference came out is worth a bar even then
    shown = [one for own in columns.values() if len(own) > 1 for one in own]
    groups = tuple(
        TableHead(BREAKDOWN_TITLES[by].format(metrics[sheet.benchmark, by]), "", len(own))
        for by, own in columns.items()
        if len(own) > 1
    )
    lines = tuple(_line(grid, sheet, number, columns.get(REFERENCE, []), shown) for number in grid.lines_in(sheet))
    part = sheet.benchmark.partition("/")[2]
    info = info_of_label(sheet.benchmark)
    parts = info.part_noun if info is not None and info.part_noun else "parts"
    together = f"the queries of all {parts} together; " if part == "all" else ""
    said = f"{sheet.split}, {sheet.protocol}; {together}texts {grid.texts(sheet)}"
    title = " ".join([benchmark_title(sheet.benchmark), *([] if part in ("", "all") else [part.replace("_", " ")])])
    names = tuple(one.partition(":")[2].removeprefix("reference ") for one in shown)
    return Breakdown(
        title, said, bool(columns.get(REFERENCE)), groups, names, lines, tuple(score_grid_remarks(grid, [sheet]))
    )


def _line(
    grid: ScoreGrid, sheet: ComparisonGroup, number: int, references: list[str], shown: list[str]
) -> BreakdownRow:
    most = max(
        (cell.value for (_, own, metric), cell in grid.cells.items() if own == sheet and metric in shown), default=0
    )
    line = grid.lines[number]
    cells = tuple(_value(grid.cells.get((number, sheet, metric)), most) for metric in shown)
    counts = {metric: cell.n for metric in references if (cell := grid.cells.get((number, sheet, metric)))}
    total = sum(counts.values())
    shares = tuple(ReferenceShare(metric.partition(":")[2], 100 * n / total, n) for metric, n in counts.items())
    return BreakdownRow(line.method, "method" if line.control is None else "control", shares, cells)


def _value(cell: ScoreCell | None, most: float) -> BreakdownValue | None:
    if cell is None:
        return None
    of = f"n {cell.n:,}" if cell.hits is None else f"{cell.hits:,}/{cell.n:,}"
    interval = "" if cell.low is None or cell.high is None else f"{cell.low:.0f} to {cell.high:.0f}"
    return BreakdownValue(cell.value, round(100 * cell.value / most, 1) if most else 0.0, of, interval)
