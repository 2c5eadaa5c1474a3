"""Scores of a run: rows for the console, tables for the page."""

from dataclasses import dataclass
from itertools import groupby
from typing import Any

from zscir.benchmarks.comparability import ComparisonGroup
from zscir.benchmarks.registry import benchmark_order, info_of_label
from zscir.evaluation.score_tables import ScoreColumn, ScoreGrid, build_score_grid, control_kind, score_grid_remarks
from zscir.report.artifact_reader import has_columns, read_first_rows
from zscir.report.run_data import RunRecord, read_record
from zscir.store.artifacts import Artifact
from zscir.store.store import Store

MAX_SCORE_ROWS = 20_000  # of one table; the demo has some hundred
SCORE_COLUMNS = ("benchmark", "split", "method", "backbone", "metric", "value", "n")
SCORES_ABOUT = (
    "Percent, higher is better; the best of each column is bold. Under each value: hits of queries, and the 95 % "
    "bootstrap interval. Controls (grey) use the backbone as it is, without any training for the task."
)
_Row = dict[str, Any]


@dataclass(frozen=True)
class TableHead:
    """The head of a column or of a group of ``columns`` columns."""

    name: str
    about: str
    columns: int = 1


@dataclass(frozen=True)
class ScoreValue:
    """One number as it is shown; ``of`` (hits of queries) and ``interval`` may be empty."""

    value: float
    best: bool
    of: str
    interval: str


@dataclass(frozen=True)
class ScoreTableRow:
    """The numbers of one evaluation. ``kind`` is ``control`` or ``method``."""

    method: str
    about: str
    kind: str
    cells: tuple[ScoreValue | None, ...]


@dataclass(frozen=True)
class ScoreTable:
    """Methods by metrics. Read ``score_grid_remarks`` with it: missing controls, images allowed to be missing."""

    title: str
    about: str
    groups: tuple[TableHead, ...]
    columns: tuple[TableHead, ...]
    rows: tuple[ScoreTableRow, ...]
    remarks: tuple[str, ...]


def headline_score_rows(store: Store, run_id: str) -> list[_Row]:
    """One row for each method of a run: its name and the headline metrics of each benchmark, in percent."""
    grid = read_scores(read_record(store, run_id))
    columns = _headlines(grid)
    several = len({method.backbone for method in grid.methods}) > 1
    rows: list[_Row] = []
    for number, method in enumerate(grid.methods):
        row: _Row = {"method": method.method} | ({"backbone": method.backbone} if several else {})
        for column in columns:
            cell = grid.cells.get((number, *column))
            row[_title(column, columns)] = None if cell is None else cell.value
        rows.append(row)
    return rows


def headline_score_remarks(store: Store, run_id: str) -> list[str]:
    """Remarks on ``headline_score_rows``: controls that are missing, images that were allowed to be missing."""
    grid = read_scores(read_record(store, run_id))
    return score_grid_remarks(grid, list(dict.fromkeys(group for group, _ in _headlines(grid))))


def read_scores(record: RunRecord) -> ScoreGrid:
    """The grid of a run: what its ``tabulate`` put together, else all its evaluations; controls first."""
    tables = record.steps_with_artifact("tabulate")
    evaluations = [rows for _, artifact in tables for rows in tabulated_score_rows(artifact)]
    if not evaluations:
        evaluations = [evaluation_score_rows(artifact) for _, artifact in record.steps_with_artifact("evaluate")]
    with_scores = [rows for rows in evaluations if rows]
    return build_score_grid(sorted(with_scores, key=lambda rows: not control_kind(rows[0])))


def evaluation_score_rows(artifact: Artifact) -> list[_Row]:
    """The score rows of one evaluation, with hits and bounds where it has them."""
    for name in ("intervals.parquet", "scores.parquet"):
        if has_columns(artifact, name, (*SCORE_COLUMNS, "protocol")):
            return read_first_rows(artifact, name, MAX_SCORE_ROWS)
    return []


def tabulated_score_rows(artifact: Artifact) -> list[list[_Row]]:
    """The rows of each evaluation in a table, with the protocol put together again."""
    if not has_columns(artifact, "table.parquet", (*SCORE_COLUMNS, "evaluation", "ranking", "texts", "preprocessing")):
        return []
    rows = read_first_rows(artifact, "table.parquet", MAX_SCORE_ROWS)
    for row in rows:
        # ``tabulate`` stores the three parts of the protocol in columns of their own.
        row["protocol"] = f"{row['ranking']}/{row['texts']}/{row['preprocessing']}"
    return [list(evaluation) for _, evaluation in groupby(rows, key=lambda row: row["evaluation"])]


def is_control(evaluation: Artifact) -> bool:
    """Whether an evaluation is of a backbone without any training for the task."""
    rows = evaluation_score_rows(evaluation)
    if rows:
        return control_kind(rows[0]) is not None
    return evaluation.manifest is not None and "control" in evaluation.manifest.spec  # a split without answers


def _benchmark_name(group: ComparisonGroup) -> str:
    """``genecis`` of ``genecis/focus_object``."""
    return group.benchmark.partition("/")[0]


def _part(group: ComparisonGroup) -> str:
    """``focus object`` of ``genecis/focus_object``; empty where there are no parts."""
    return group.benchmark.partition("/")[2].replace("_", " ")


def _headlines(grid: ScoreGrid) -> list[ScoreColumn]:
    """The columns that stand for the benchmarks: means over parts where there are means."""
    columns = grid.columns()
    averaged = {(_benchmark_name(group), group.split, group.protocol) for group, _ in columns if _part(group) == "mean"}
    chosen = [
        (group, metric)
        for group, metric in columns
        if metric in headline_metrics(group.benchmark)
        and (_part(group) == "mean" or (_benchmark_name(group), group.split, group.protocol) not in averaged)
    ]
    # Sorting is stable: metrics keep their order within a benchmark.
    return sorted(chosen, key=lambda column: benchmark_order(column[0].benchmark))


def _title(column: ScoreColumn, beside: list[ScoreColumn]) -> str:
    """``CIRR R@1``; split and protocol only where another column differs in nothing else."""
    group, metric = column
    alike = [other for other, name in beside if (other.benchmark, name) == (group.benchmark, metric)]
    more = f"({group.split}, {group.protocol})" if len(alike) > 1 else ""
    return " ".join(word for word in (group_title(group), metric, more) if word)


def group_title(group: ComparisonGroup) -> str:
    """``FashionIQ dress``; a mean over parts stands for the benchmark."""
    return f"{benchmark_title(group.benchmark)} {_part(group)}".removesuffix("mean").strip()


def benchmark_title(label: str) -> str:
    """``FashionIQ`` of ``fashioniq/dress``; the name itself of a benchmark that this version does not know."""
    info = info_of_label(label)
    return label.partition("/")[0] if info is None else info.title


def headline_metrics(label: str) -> tuple[str, ...]:
    """The metrics that stand for a benchmark in overviews."""
    info = info_of_label(label)
    return () if info is None else info.headline_metrics


def page_score_tables(record: RunRecord) -> list[ScoreTable]:
    """The overview, then tables for each benchmark: its means, then categories and tasks (aspects: the breakdown)."""
    grid = read_scores(record)
    columns = [column for column in grid.columns() if "/" not in column[1]]
    tables = [_table("Overview", SCORES_ABOUT, grid, _headlines(grid))]
    for name in dict.fromkeys(_benchmark_name(group) for group, _ in columns):
        of_benchmark = [column for column in columns if _benchmark_name(column[0]) == name]
        whole = [column for column in of_benchmark if _part(column[0]) in ("", "mean")]
        parts = [column for column in of_benchmark if column not in whole]
        tables.append(_table(benchmark_title(name), "", grid, whole))
        tables.append(_table(f"{benchmark_title(name)} part by part", "", grid, parts))
    return [table for table in tables if table.columns]


def _table(title: str, about: str, grid: ScoreGrid, columns: list[ScoreColumn]) -> ScoreTable:
    groups = list(dict.fromkeys(group for group, _ in columns))
    heads = tuple(TableHead(metric, _query_counts(grid, (group, metric))) for group, metric in columns)
    rows = []
    for number, method in enumerate(grid.methods):
        cells = tuple(_value(grid, number, column) for column in columns)
        texts = dict.fromkeys(grid.text_protocols(group, number) for group in groups)
        details = [name for name in (method.backbone, *texts, method.preprocessing) if name not in ("", "-", "none")]
        if any(cell is not None for cell in cells):
            kind = "method" if method.control is None else "control"
            rows.append(ScoreTableRow(method.method, " · ".join(dict.fromkeys(details)), kind, cells))
    remarks = tuple(score_grid_remarks(grid, groups))
    return ScoreTable(title, about, _group_heads(grid, columns), heads, tuple(rows), remarks)


def _value(grid: ScoreGrid, number: int, column: ScoreColumn) -> ScoreValue | None:
    cell = grid.cells.get((number, *column))
    if cell is None:
        return None
    known = cell.low is not None and cell.high is not None
    interval = f"{cell.low:.1f} to {cell.high:.1f}" if known else ""
    of = "" if cell.hits is None else f"{cell.hits:,}/{cell.n:,}"
    return ScoreValue(cell.value, len(grid.methods) > 1 and cell.value == grid.best(*column), of, interval)


def _query_counts(grid: ScoreGrid, column: ScoreColumn) -> str:
    """How many queries; several numbers mean that the methods were not evaluated on the same."""
    counts = sorted({cell.n for (_, group, metric), cell in grid.cells.items() if (group, metric) == column})
    return "n " + ", ".join(f"{count:,}" for count in counts)


def _group_heads(grid: ScoreGrid, columns: list[ScoreColumn]) -> tuple[TableHead, ...]:
    """Neighbouring columns of one group share a head that names benchmark, split and protocol, texts and all."""
    neighbours = [(group, len(list(same))) for group, same in groupby(group for group, _ in columns)]
    return tuple(
        TableHead(group_title(group), f"{group.split}, {group.protocol}; texts {grid.text_protocols(group)}", count)
        for group, count in neighbours
    )
