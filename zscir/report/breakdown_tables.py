"""Breakdown tables: scores by groups of queries, every method beside the controls.

``zscir.benchmarks.breakdown`` defines the groups; how often the reference itself ranks first is drawn as a bar.
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
    REFERENCE: "{} by rank of the reference",
    WORDS: "{} by length of the text",
    ASPECT: "{} by semantic aspect",
}
_Row = dict[str, Any]


@dataclass(frozen=True)
class ReferenceShare:
    """One section of the bar: for how many of all queries the reference ranks in this group of ranks."""

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
    evaluations = [_rows(artifact) for _, artifact in record.steps_with_artifact("evaluate")]
    ordered = sorted((rows for rows in evaluations if rows), key=lambda rows: not control_kind(rows[0]))
    grid = build_score_grid(ordered)
    metrics = {(row["benchmark"], row["by"]): row["metric_itself"] for rows in ordered for row in rows}
    # Aspects get a table of their own: nine columns beside the others would not fit a page.
    tables = [_table(grid, shown, bys, metrics) for shown in _whole(grid) for bys in ((REFERENCE, WORDS), (ASPECT,))]
    return [table for table in tables if table.columns or table.bar]


def _rows(evaluation: Artifact) -> list[_Row]:
    """Breakdown rows in the shape of score rows: each group as a metric of its own, with the method's name."""
    if not has_columns(evaluation, "breakdown.parquet", BREAKDOWN_COLUMNS):
        return []
    score = next(iter(evaluation_score_rows(evaluation)), None)
    if score is None:
        return []
    labels = {"method": score["method"], "backbone": score["backbone"], "control": control_kind(score)}
    # A group of queries plays the part of a metric, so that the grid of scores and its remarks serve here too.
    return [
        row | labels | {"metric": f"{row['by']}:{row['group']}", "metric_itself": row["metric"]}
        for row in read_first_rows(evaluation, "breakdown.parquet", MAX_BREAKDOWN_ROWS)
    ]


def _whole(grid: ScoreGrid) -> list[ComparisonGroup]:
    """The comparison groups of whole benchmarks; of categories and tasks only where not all were evaluated."""
    groups = grid.groups()
    whole = {group.benchmark.removesuffix("/all") for group in groups if group.benchmark.endswith("/all")}
    kept = [group for group in groups if "/" not in group.benchmark or group.benchmark.endswith("/all")]
    kept += [group for group in groups if group not in kept and group.benchmark.split("/")[0] not in whole]
    return sorted(kept, key=lambda group: (benchmark_order(group.benchmark), group.title))


def _table(
    grid: ScoreGrid, shown: ComparisonGroup, bys: tuple[str, ...], metrics: dict[tuple[str, str], str]
) -> Breakdown:
    known = list(dict.fromkeys(metric for _, group, metric in grid.cells if group == shown))
    columns = {by: [metric for metric in known if metric.startswith(f"{by}:")] for by in bys}
    # One group alone repeats the score; but the ranks of the references are worth a bar even then.
    several = {by: names for by, names in columns.items() if len(names) > 1}
    cells = [metric for names in several.values() for metric in names]
    heads = tuple(
        TableHead(BREAKDOWN_TITLES[by].format(metrics[shown.benchmark, by]), "", len(names))
        for by, names in several.items()
    )
    references = columns.get(REFERENCE, [])
    rows = tuple(_row(grid, shown, number, references, cells) for number in grid.methods_in(shown))
    part = shown.benchmark.partition("/")[2]
    info = info_of_label(shown.benchmark)
    parts = info.part_noun if info is not None and info.part_noun else "parts"
    together = f"the queries of all {parts} together; " if part == "all" else ""
    about = f"{shown.split}, {shown.protocol}; {together}texts {grid.text_protocols(shown)}"
    title = " ".join([benchmark_title(shown.benchmark), *([] if part in ("", "all") else [part.replace("_", " ")])])
    # The column stands under a head that names the reference already.
    names = tuple(metric.partition(":")[2].removeprefix("reference ") for metric in cells)
    return Breakdown(title, about, bool(references), heads, names, rows, tuple(score_grid_remarks(grid, [shown])))


def _row(
    grid: ScoreGrid, shown: ComparisonGroup, number: int, references: list[str], metrics: list[str]
) -> BreakdownRow:
    values = [cell.value for (_, group, metric), cell in grid.cells.items() if group == shown and metric in metrics]
    longest = max(values, default=0)
    method = grid.methods[number]
    cells = tuple(_value(grid.cells.get((number, shown, metric)), longest) for metric in metrics)
    # The groups of ranks part the queries, so their sizes are shares of a whole.
    counts = {metric: cell.n for metric in references if (cell := grid.cells.get((number, shown, metric)))}
    total = sum(counts.values())
    shares = tuple(ReferenceShare(metric.partition(":")[2], 100 * n / total, n) for metric, n in counts.items())
    return BreakdownRow(method.method, "method" if method.control is None else "control", shares, cells)


def _value(cell: ScoreCell | None, longest: float) -> BreakdownValue | None:
    if cell is None:
        return None
    of = f"n {cell.n:,}" if cell.hits is None else f"{cell.hits:,}/{cell.n:,}"
    interval = "" if cell.low is None or cell.high is None else f"{cell.low:.0f} to {cell.high:.0f}"
    return BreakdownValue(cell.value, round(100 * cell.value / longest, 1) if longest else 0.0, of, interval)
