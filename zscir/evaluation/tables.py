"""Score rows of several evaluations become tables: a row per evaluation, one column per benchmark, protocol, metric."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from zscir.benchmarks.sheets import Sheet, markdown_row, plain, sheet_of, split_protocol

Row = dict[str, Any]
# What the literature prints first: benchmark -> metrics; the first of each is the overview's.
HEADLINES = {
    "fashioniq/mean": ("R@10", "R@50"),
    "cirr": ("R@1", "R@5", "R@10", "R@50", "Rsub@1", "Rsub@2", "Rsub@3"),
    "circo": ("mAP@5", "mAP@10", "mAP@25", "mAP@50"),
    "genecis/mean": ("R@1", "R@2", "R@3"),
}


@dataclass(frozen=True)
class Line:
    """One evaluation: whose numbers a row holds, and how the method was asked."""

    method: str
    backbone: str
    texts: str
    preprocessing: str


@dataclass(frozen=True)
class Cell:
    """A percentage with its number of queries, and its interval where one is known."""

    value: float
    n: int
    low: float | None = None
    high: float | None = None


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
            found, key=lambda one: (order.index(one.benchmark) if one.benchmark in order else len(order), *_key(one))
        )

    def metrics(self, sheet: Sheet) -> list[str]:
        """The metrics of a sheet, headline ones first, then as the evaluation wrote them."""
        found = dict.fromkeys(metric for _, own, metric in self.cells if own == sheet)
        first = [metric for metric in HEADLINES.get(sheet.benchmark, ()) if metric in found]
        return first + [metric for metric in found if metric not in first]

    def best(self, sheet: Sheet, metric: str) -> float:
        """The highest value of a column."""
        return max(cell.value for (_, own, name), cell in self.cells.items() if (own, name) == (sheet, metric))


def grid_of(evaluations: Sequence[Sequence[Row]]) -> Grid:
    """The grid of the score rows (with ``low`` and ``high`` where known) of each evaluation."""
    lines, cells = [], {}
    for number, rows in enumerate(evaluations):
        ways = [split_protocol(row["protocol"]) for row in rows]
        who = rows[0] if rows else {"method": "?", "backbone": "?"}
        shown = (_joined(texts for _, texts, _ in ways), _joined(fit for _, _, fit in ways))
        lines.append(Line(who["method"], who["backbone"], *shown))
        for row in rows:
            cells[number, sheet_of(row), row["metric"]] = Cell(row["value"], row["n"], row.get("low"), row.get("high"))
    return Grid(lines, cells)


def markdown(grid: Grid, title: str) -> str:
    """An overview (the first metric of each headline benchmark), then one table per sheet with intervals."""
    parts = [f"# {plain(title)}", overview(grid)]
    parts += [f"## {plain(sheet.title)}\n\n{_sheet_table(grid, sheet)}" for sheet in grid.sheets()]
    return "\n\n".join(parts) + "\n"


def overview(grid: Grid) -> str:
    """One column for each headline benchmark and protocol; the best of a column is bold."""
    sheets = [sheet for sheet in grid.sheets() if sheet.benchmark in HEADLINES] or grid.sheets()
    columns = [(sheet, grid.metrics(sheet)[0]) for sheet in sheets]
    heads = [f"{sheet.title} {metric} {_n(grid, sheet, metric)}".strip() for sheet, metric in columns]
    return _table(grid, heads, columns, with_interval=False)


def wide_rows(grid: Grid) -> list[list[str]]:
    """A header and a line per evaluation, every column of every sheet, for spreadsheets; empty where not measured."""
    columns = [(sheet, metric) for sheet in grid.sheets() for metric in grid.metrics(sheet)]
    heads = [head for sheet, metric in columns for head in (f"{sheet.title} {metric}", f"{sheet.title} {metric} n")]
    rows = [["method", "backbone", "texts", "preprocessing", *heads]]
    for number, line in enumerate(grid.lines):
        cells = [grid.cells.get((number, sheet, metric)) for sheet, metric in columns]
        numbers = [text for cell in cells for text in ((repr(cell.value), str(cell.n)) if cell else ("", ""))]
        rows.append([line.method, line.backbone, line.texts, line.preprocessing, *numbers])
    return rows


def _sheet_table(grid: Grid, sheet: Sheet) -> str:
    columns = [(sheet, metric) for metric in grid.metrics(sheet)]
    heads = [f"{metric} {_n(grid, sheet, metric)}".strip() for _, metric in columns]
    return _table(grid, heads, columns, with_interval=True)


def _table(grid: Grid, heads: list[str], columns: list[tuple[Sheet, str]], with_interval: bool) -> str:
    rows = [["method", "backbone", "texts", "preprocessing", *heads]]
    for number, line in enumerate(grid.lines):
        cells = [_cell(grid, number, sheet, metric, with_interval) for sheet, metric in columns]
        if any(cells):
            rows.append([line.method, line.backbone, line.texts, line.preprocessing, *(cell or "-" for cell in cells)])
    rule = ["---"] * 4 + ["---:"] * len(columns)
    return "\n".join(markdown_row([plain(cell) for cell in row]) for row in [rows[0], rule, *rows[1:]])


def _cell(grid: Grid, number: int, sheet: Sheet, metric: str, with_interval: bool) -> str:
    cell = grid.cells.get((number, sheet, metric))
    if cell is None:
        return ""
    text = f"{cell.value:.2f}"
    text = f"**{text}**" if len(grid.lines) > 1 and cell.value == grid.best(sheet, metric) > 0 else text
    if with_interval and cell.low is not None and cell.high is not None:
        text += f" [{cell.low:.1f}, {cell.high:.1f}]"
    return text if _n(grid, sheet, metric) else f"{text} (n {cell.n})"


def _n(grid: Grid, sheet: Sheet, metric: str) -> str:
    """``(n 4181)`` if all evaluations asked as many queries; else each cell says its own."""
    counts = {cell.n for (_, own, name), cell in grid.cells.items() if (own, name) == (sheet, metric)}
    return f"(n {counts.pop()})" if len(counts) == 1 else ""


def _key(sheet: Sheet) -> tuple[str, str, str]:
    return sheet.benchmark, sheet.split, sheet.protocol


def _joined(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(name for name in names if name)) or "-"


def compared(grid: Grid, pairs: Sequence[Row]) -> str:
    """A section of paired tests, the best of each column against all others; empty when nothing can be paired."""
    if not pairs:
        return ""
    names = [f"{number + 1}. {line.method}" for number, line in enumerate(grid.lines)]
    lines = [
        markdown_row(["column", "methods (by row)", "points", "queries won / lost", "p"]),
        markdown_row(["---"] * 5),
    ]
    for column in dict.fromkeys(_column(one) for one in pairs):
        own = [one for one in pairs if _column(one) == column]
        best = _best_of(own)
        tests = [_against(one, best, names) for one in own if best in (one["first"], one["second"])]
        lines += [markdown_row([plain(column), *cells]) for cells in tests]
    said = "Same queries, two-sided: McNemar's exact test for R@K, sign flips for mAP; not corrected for many tests."
    return f"\n## Paired tests\n\n{said}\n\n" + "\n".join(lines) + "\n"


def _column(pair: Row) -> str:
    return f"{pair['benchmark']} {pair['split']} ({pair['ranking']}) {pair['metric']}"


def _best_of(pairs: Sequence[Row]) -> int:
    """The evaluation that is ahead of the others by most points; the first of equals."""
    lead: dict[int, float] = {}
    for one in pairs:
        lead[one["second"]] = lead.get(one["second"], 0.0) + one["difference"]
        lead[one["first"]] = lead.get(one["first"], 0.0) - one["difference"]
    return max(sorted(lead), key=lambda number: lead[number])


def _against(pair: Row, best: int, names: Sequence[str]) -> list[str]:
    """The cells of one test, seen from the best."""
    turned = pair["first"] == best
    other = pair["second"] if turned else pair["first"]
    points = -pair["difference"] if turned else pair["difference"]
    won, lost = (pair["lost"], pair["won"]) if turned else (pair["won"], pair["lost"])
    who = f"{plain(names[best])} against {plain(names[other])}"
    return [who, f"{points + 0.0:+.2f}", f"{won} / {lost} of {pair['n']}", f"{pair['p_value']:.2g}"]
