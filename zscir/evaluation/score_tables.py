"""Score rows of several evaluations become tables: a row per evaluation, one column per benchmark, protocol, metric."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from zscir.benchmarks.comparability import (
    NO_TEXTS,
    ComparisonGroup,
    comparison_group_of,
    control_from_label,
    escape_markdown,
    literature_metrics,
    markdown_row,
    split_protocol,
)
from zscir.benchmarks.registry import is_whole_benchmark, whole_benchmark_order

_Row = dict[str, Any]


@dataclass(frozen=True)
class EvaluatedMethod:
    """One evaluation: whose numbers a row holds, and how the method was asked.

    ``control`` is image, text or sum where the backbone was not trained for the task, else None.
    """

    method: str
    backbone: str
    texts: str
    preprocessing: str
    control: str | None = None


@dataclass(frozen=True)
class ScoreCell:
    """A percentage with its number of queries, its hits and its interval where they are known.

    ``texts`` is the text protocol that was asked, ``allow_missing`` how many images were allowed to be missing.
    """

    value: float
    n: int
    low: float | None = None
    high: float | None = None
    hits: int | None = None
    texts: str = ""
    allow_missing: int | None = None


@dataclass(frozen=True)
class ScoreGrid:
    """Lines in the order of the evaluations; cells by (line number, sheet, metric)."""

    lines: list[EvaluatedMethod]
    cells: dict[tuple[int, ComparisonGroup, str], ScoreCell]

    def sheets(self) -> list[ComparisonGroup]:
        """Headline benchmarks first, in the literature's order, then categories and tasks."""
        found = dict.fromkeys(sheet for _, sheet, _ in self.cells)
        return sorted(found, key=lambda sheet: (whole_benchmark_order(sheet.benchmark), sheet.title))

    def metrics(self, sheet: ComparisonGroup) -> list[str]:
        """The metrics of a sheet, headline ones first, then as the evaluation wrote them."""
        found = dict.fromkeys(metric for _, own, metric in self.cells if own == sheet)
        known = literature_metrics(sheet.benchmark) if is_whole_benchmark(sheet.benchmark) else ()
        first = [metric for metric in known if metric in found]
        return first + [metric for metric in found if metric not in first]

    def best(self, sheet: ComparisonGroup, metric: str) -> float:
        """The highest value of a column."""
        return max(cell.value for (_, own, name), cell in self.cells.items() if (own, name) == (sheet, metric))

    def lines_in(self, sheet: ComparisonGroup) -> list[int]:
        """The numbers of the lines that have a number in a sheet."""
        return sorted({number for number, own, _ in self.cells if own == sheet})

    def texts(self, sheet: ComparisonGroup, number: int | None = None) -> str:
        """The text protocols that a sheet, or one line in it, was asked with."""
        found = {
            line: cell.texts for (line, own, _), cell in self.cells.items() if own == sheet and number in (None, line)
        }
        return _joined(found[line] for line in sorted(found))


def build_score_grid(evaluations: Sequence[Sequence[_Row]]) -> ScoreGrid:
    """The grid of the score rows of each evaluation (with hits, bounds, ``control`` and ``allow_missing`` if known)."""
    lines, cells = [], {}
    for number, rows in enumerate(evaluations):
        ways = [split_protocol(row["protocol"]) for row in rows]
        shown = (_joined(texts for _, texts, _ in ways), _joined(fit for _, _, fit in ways))
        who: _Row = rows[0] if rows else {"method": "?", "backbone": "?", "control": None}
        lines.append(EvaluatedMethod(who["method"], who["backbone"], *shown, control_kind(who)))
        for row, (_, texts, _) in zip(rows, ways, strict=True):
            cells[number, comparison_group_of(row), row["metric"]] = ScoreCell(
                row["value"],
                row["n"],
                row.get("low"),
                row.get("high"),
                row.get("hits"),
                texts,
                row.get("allow_missing"),
            )
    return ScoreGrid(lines, cells | _beside_easier_texts(cells))


def control_kind(row: _Row) -> str | None:
    """Which control a score row comes from; rows that do not say it are told by their label."""
    found: str | None = row["control"] if "control" in row else control_from_label(row["method"])
    return found


def _beside_easier_texts(
    cells: dict[tuple[int, ComparisonGroup, str], ScoreCell],
) -> dict[tuple[int, ComparisonGroup, str], ScoreCell]:
    """What was asked without any text belongs beside easier texts too."""
    easier = dict.fromkeys(sheet for _, sheet, _ in cells if sheet.texts)
    return {
        (number, other, metric): cell
        for (number, sheet, metric), cell in cells.items()
        for other in easier
        if cell.texts == NO_TEXTS and sheet == replace(other, texts="")
    }


def score_tables_markdown(grid: ScoreGrid, title: str) -> str:
    """An overview (the first metric of each headline benchmark), then one table per sheet with intervals."""
    parts = [f"# {escape_markdown(title)}", overview(grid)]
    for sheet in grid.sheets():
        said = "\n\n".join(
            [f"Texts: {escape_markdown(grid.texts(sheet))}.", *map(escape_markdown, score_grid_remarks(grid, [sheet]))]
        )
        parts.append(f"## {escape_markdown(sheet.title)}\n\n{_group_table(grid, sheet)}\n\n{said}")
    return "\n\n".join(parts) + "\n"


def overview(grid: ScoreGrid) -> str:
    """One column for each headline benchmark and protocol; the best of a column is bold."""
    sheets = [sheet for sheet in grid.sheets() if is_whole_benchmark(sheet.benchmark)] or grid.sheets()
    columns = [(sheet, grid.metrics(sheet)[0]) for sheet in sheets]
    heads = [f"{sheet.title} {metric} {_query_count(grid, sheet, metric)}".strip() for sheet, metric in columns]
    rows = [["method", "backbone", "texts", "preprocessing", *heads]]
    for number, line in enumerate(grid.lines):
        cells = [_short(grid, number, *column) for column in columns]
        if any(cells):
            rows.append([line.method, line.backbone, line.texts, line.preprocessing, *(cell or "-" for cell in cells)])
    return "\n\n".join([_markdown_table(rows), *map(escape_markdown, score_grid_remarks(grid, sheets))])


def score_grid_remarks(grid: ScoreGrid, sheets: Sequence[ComparisonGroup]) -> list[str]:
    """What must be said beside the numbers of some sheets: which controls are missing, which images were allowed to."""
    return [*missing_controls(grid, sheets), *_allowances(grid, sheets)]


def missing_controls(grid: ScoreGrid, sheets: Sequence[ComparisonGroup]) -> list[str]:
    """A sentence for each set of controls that some methods' backbone has no numbers of, in the same sheets."""
    where: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for sheet in sheets:
        lines = [grid.lines[number] for number in grid.lines_in(sheet)]
        for backbone in dict.fromkeys(line.backbone for line in lines if line.control is None):
            there = {line.control for line in lines if line.backbone == backbone}
            lacking = tuple(name for kind, name in CONTROLS.items() if kind not in there)
            if lacking:
                where.setdefault((backbone, lacking), []).append(sheet.title)
    return [
        f"CONTROLS MISSING: no {', no '.join(lacking)} of {backbone} in {', '.join(dict.fromkeys(titles))}."
        for (backbone, lacking), titles in where.items()
    ]


CONTROLS = {"image": "image only", "text": "text only", "sum": "sum"}


def _allowances(grid: ScoreGrid, sheets: Sequence[ComparisonGroup]) -> list[str]:
    """A sentence for each sheet in which images were allowed to be missing, whether any was or not."""
    found: dict[ComparisonGroup, int] = {}
    for (_, sheet, _), cell in grid.cells.items():
        if sheet in sheets and cell.allow_missing is not None:
            found[sheet] = max(found.get(sheet, 0), cell.allow_missing)
    return [
        f"allow_missing {found[sheet]}: {sheet.title} is not the whole benchmark."
        if " without " in sheet.ranking
        else f"allow_missing {found[sheet]}: {sheet.title} might lack images, but none was missing."
        for sheet in sheets
        if sheet in found
    ]


def wide_rows(grid: ScoreGrid) -> list[list[str]]:
    """A header and a line per evaluation, every column of every sheet, for spreadsheets; empty where not measured."""
    columns = [(sheet, metric) for sheet in grid.sheets() for metric in grid.metrics(sheet)]
    heads = [
        head
        for sheet, metric in columns
        for head in (f"{sheet.title} {metric}", f"{sheet.title} {metric} hits", f"{sheet.title} {metric} n")
    ]
    rows = [["method", "backbone", "texts", "preprocessing", *heads]]
    for number, line in enumerate(grid.lines):
        cells = [grid.cells.get((number, sheet, metric)) for sheet, metric in columns]
        numbers = [text for cell in cells for text in _plain_numbers(cell)]
        rows.append([line.method, line.backbone, line.texts, line.preprocessing, *numbers])
    return rows


def _plain_numbers(cell: ScoreCell | None) -> tuple[str, str, str]:
    if cell is None:
        return "", "", ""
    return repr(cell.value), "" if cell.hits is None else str(cell.hits), str(cell.n)


def _group_table(grid: ScoreGrid, sheet: ComparisonGroup) -> str:
    metrics = grid.metrics(sheet)
    heads = [f"{metric} {_query_count(grid, sheet, metric)}".strip() for metric in metrics]
    rows = [["method", "backbone", "texts", "preprocessing", *heads]]
    for number in grid.lines_in(sheet):
        line = grid.lines[number]
        cells = [_full(grid, number, sheet, metric) or "-" for metric in metrics]
        rows.append([line.method, line.backbone, grid.texts(sheet, number), line.preprocessing, *cells])
    return _markdown_table(rows)


def _markdown_table(rows: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * 4 + ["---:"] * (len(rows[0]) - 4)
    return "\n".join(markdown_row([escape_markdown(cell) for cell in row]) for row in [rows[0], rule, *rows[1:]])


def _short(grid: ScoreGrid, number: int, sheet: ComparisonGroup, metric: str) -> str:
    """The percentage, with its n where the column's head cannot say it; empty where there is none."""
    cell = grid.cells.get((number, sheet, metric))
    if cell is None:
        return ""
    text = _bold_if_best(grid, cell, sheet, metric)
    return text if _query_count(grid, sheet, metric) else f"{text} (n {cell.n})"


def _full(grid: ScoreGrid, number: int, sheet: ComparisonGroup, metric: str) -> str:
    """The percentage with its interval, and hits of n; for means of graded values, n where the head cannot say it."""
    cell = grid.cells.get((number, sheet, metric))
    if cell is None:
        return ""
    known = cell.low is not None and cell.high is not None
    parts = [_bold_if_best(grid, cell, sheet, metric), f"[{cell.low:.1f}, {cell.high:.1f}]" if known else ""]
    plain_n = "" if _query_count(grid, sheet, metric) else f"(n {cell.n})"
    parts.append(plain_n if cell.hits is None else f"({cell.hits}/{cell.n})")
    return " ".join(part for part in parts if part)


def _bold_if_best(grid: ScoreGrid, cell: ScoreCell, sheet: ComparisonGroup, metric: str) -> str:
    text = f"{cell.value:.2f}"
    return f"**{text}**" if len(grid.lines) > 1 and cell.value == grid.best(sheet, metric) > 0 else text


def _query_count(grid: ScoreGrid, sheet: ComparisonGroup, metric: str) -> str:
    """``(n 4181)`` if all evaluations asked as many queries; else each cell says its own."""
    counts = {cell.n for (_, own, name), cell in grid.cells.items() if (own, name) == (sheet, metric)}
    return f"(n {counts.pop()})" if len(counts) == 1 else ""


def _joined(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(name for name in names if name)) or "-"
