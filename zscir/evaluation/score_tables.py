"""Score rows of several evaluations become tables: a row per evaluation, one column per benchmark, protocol, metric."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from zscir.benchmarks.comparability import (
    HEADLINES,
    NO_TEXTS,
    Sheet,
    control_named,
    markdown_row,
    plain,
    sheet_of,
    split_protocol,
)  # fmt: skip

Row = dict[str, Any]


@dataclass(frozen=True)
class Line:
    """One evaluation: whose numbers a row holds, and how the method was asked.

    ``control`` is image, text or sum where the backbone was not trained for the task, else None.
    """

    method: str
    backbone: str
    texts: str
    preprocessing: str
    control: str | None = None


@dataclass(frozen=True)
class Cell:
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
class Grid:
    """Lines in the order of the evaluations; cells by (line number, sheet, metric)."""

    lines: list[Line]
    cells: dict[tuple[int, Sheet, str], Cell]

    def sheets(self) -> list[Sheet]:
        """Headline benchmarks first, in the literature's order, then categories and tasks."""
        found = dict.fromkeys(sheet for _, sheet, _ in self.cells)
        order = list(HEADLINES)
        return sorted(
            found, key=lambda one: (order.index(one.benchmark) if one.benchmark in order else len(order), one.title)
        )

    def metrics(self, sheet: Sheet) -> list[str]:
        """The metrics of a sheet, headline ones first, then as the evaluation wrote them."""
        found = dict.fromkeys(metric for _, own, metric in self.cells if own == sheet)
        first = [metric for metric in HEADLINES.get(sheet.benchmark, ()) if metric in found]
        return first + [metric for metric in found if metric not in first]

    def best(self, sheet: Sheet, metric: str) -> float:
        """The highest value of a column."""
        return max(cell.value for (_, own, name), cell in self.cells.items() if (own, name) == (sheet, metric))

    def lines_in(self, sheet: Sheet) -> list[int]:
        """The numbers of the lines that have a number in a sheet."""
        return sorted({number for number, own, _ in self.cells if own == sheet})

    def texts(self, sheet: Sheet, number: int | None = None) -> str:
        """The text protocols that a sheet, or one line in it, was asked with."""
        found = {
            line: cell.texts for (line, own, _), cell in self.cells.items() if own == sheet and number in (None, line)
        }
        return _joined(found[line] for line in sorted(found))


def grid_of(evaluations: Sequence[Sequence[Row]]) -> Grid:
    """The grid of the score rows of each evaluation (with hits, bounds, ``control`` and ``allow_missing`` if known)."""
    lines, cells = [], {}
    for number, rows in enumerate(evaluations):
        ways = [split_protocol(row["protocol"]) for row in rows]
        shown = (_joined(texts for _, texts, _ in ways), _joined(fit for _, _, fit in ways))
        who: Row = rows[0] if rows else {"method": "?", "backbone": "?", "control": None}
        lines.append(Line(who["method"], who["backbone"], *shown, control_of(who)))
        for row, (_, texts, _) in zip(rows, ways, strict=True):
            cells[number, sheet_of(row), row["metric"]] = Cell(
                row["value"], row["n"], row.get("low"), row.get("high"), row.get("hits"), texts,
                row.get("allow_missing"),
            )  # fmt: skip
    return Grid(lines, cells | _beside_easier_texts(cells))


def control_of(row: Row) -> str | None:
    """Which control a score row comes from; rows that do not say it are told by their label."""
    found: str | None = row["control"] if "control" in row else control_named(row["method"])
    return found


def _beside_easier_texts(cells: dict[tuple[int, Sheet, str], Cell]) -> dict[tuple[int, Sheet, str], Cell]:
    """What was asked without any text belongs beside easier texts too."""
    easier = dict.fromkeys(sheet for _, sheet, _ in cells if sheet.texts)
    return {
        (number, other, metric): cell
        for (number, sheet, metric), cell in cells.items()
        for other in easier
        if cell.texts == NO_TEXTS and sheet == replace(other, texts="")
    }


def markdown(grid: Grid, title: str) -> str:
    """An overview (the first metric of each headline benchmark), then one table per sheet with intervals."""
    parts = [f"# {plain(title)}", overview(grid)]
    for sheet in grid.sheets():
        said = "\n\n".join([f"Texts: {plain(grid.texts(sheet))}.", *map(plain, remarks(grid, [sheet]))])
        parts.append(f"## {plain(sheet.title)}\n\n{_sheet_table(grid, sheet)}\n\n{said}")
    return "\n\n".join(parts) + "\n"


def overview(grid: Grid) -> str:
    """One column for each headline benchmark and protocol; the best of a column is bold."""
    sheets = [sheet for sheet in grid.sheets() if sheet.benchmark in HEADLINES] or grid.sheets()
    columns = [(sheet, grid.metrics(sheet)[0]) for sheet in sheets]
    heads = [f"{sheet.title} {metric} {_n(grid, sheet, metric)}".strip() for sheet, metric in columns]
    rows = [["method", "backbone", "texts", "preprocessing", *heads]]
    for number, line in enumerate(grid.lines):
        cells = [_short(grid, number, *column) for column in columns]
        if any(cells):
            rows.append([line.method, line.backbone, line.texts, line.preprocessing, *(cell or "-" for cell in cells)])
    return "\n\n".join([_drawn(rows), *map(plain, remarks(grid, sheets))])


def remarks(grid: Grid, sheets: Sequence[Sheet]) -> list[str]:
    """What must be said beside the numbers of some sheets: which controls are missing, which images were allowed to."""
    return [*missing_controls(grid, sheets), *_allowances(grid, sheets)]


def missing_controls(grid: Grid, sheets: Sequence[Sheet]) -> list[str]:
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


def _allowances(grid: Grid, sheets: Sequence[Sheet]) -> list[str]:
    """A sentence for each sheet in which images were allowed to be missing, whether any was or not."""
    found: dict[Sheet, int] = {}
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


def wide_rows(grid: Grid) -> list[list[str]]:
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


def _plain_numbers(cell: Cell | None) -> tuple[str, str, str]:
    if cell is None:
        return "", "", ""
    return repr(cell.value), "" if cell.hits is None else str(cell.hits), str(cell.n)


def _sheet_table(grid: Grid, sheet: Sheet) -> str:
    metrics = grid.metrics(sheet)
    heads = [f"{metric} {_n(grid, sheet, metric)}".strip() for metric in metrics]
    rows = [["method", "backbone", "texts", "preprocessing", *heads]]
    for number in grid.lines_in(sheet):
        line = grid.lines[number]
        cells = [_full(grid, number, sheet, metric) or "-" for metric in metrics]
        rows.append([line.method, line.backbone, grid.texts(sheet, number), line.preprocessing, *cells])
    return _drawn(rows)


def _drawn(rows: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * 4 + ["---:"] * (len(rows[0]) - 4)
    return "\n".join(markdown_row([plain(cell) for cell in row]) for row in [rows[0], rule, *rows[1:]])


def _short(grid: Grid, number: int, sheet: Sheet, metric: str) -> str:
    """The percentage, with its n where the column's head cannot say it; empty where there is none."""
    cell = grid.cells.get((number, sheet, metric))
    if cell is None:
        return ""
    text = _marked(grid, cell, sheet, metric)
    return text if _n(grid, sheet, metric) else f"{text} (n {cell.n})"


def _full(grid: Grid, number: int, sheet: Sheet, metric: str) -> str:
    """The percentage with its interval, and hits of n; for means of graded values, n where the head cannot say it."""
    cell = grid.cells.get((number, sheet, metric))
    if cell is None:
        return ""
    known = cell.low is not None and cell.high is not None
    parts = [_marked(grid, cell, sheet, metric), f"[{cell.low:.1f}, {cell.high:.1f}]" if known else ""]
    plain_n = "" if _n(grid, sheet, metric) else f"(n {cell.n})"
    parts.append(plain_n if cell.hits is None else f"({cell.hits}/{cell.n})")
    return " ".join(part for part in parts if part)


def _marked(grid: Grid, cell: Cell, sheet: Sheet, metric: str) -> str:
    text = f"{cell.value:.2f}"
    return f"**{text}**" if len(grid.lines) > 1 and cell.value == grid.best(sheet, metric) > 0 else text


def _n(grid: Grid, sheet: Sheet, metric: str) -> str:
    """``(n 4181)`` if all evaluations asked as many queries; else each cell says its own."""
    counts = {cell.n for (_, own, name), cell in grid.cells.items() if (own, name) == (sheet, metric)}
    return f"(n {counts.pop()})" if len(counts) == 1 else ""


def _joined(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(name for name in names if name)) or "-"
