"""Score tables of several evaluations: a row for each, a column for each benchmark, split, protocol and metric."""

from collections.abc import Iterable, Iterator, Sequence
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
from zscir.benchmarks.registry import is_whole_benchmark

_Row = dict[str, Any]
ScoreColumn = tuple[ComparisonGroup, str]  # benchmark, split and ranking protocol; metric
CONTROLS = {"image": "image only", "text": "text only", "sum": "sum"}


@dataclass(frozen=True)
class EvaluatedMethod:
    """One evaluation: the method, backbone and protocols of a row.

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

    ``texts`` is its text protocol, ``allow_missing`` how many images were allowed to be missing.
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
    """Methods in the order of the evaluations; cells by (method's number, group, metric)."""

    methods: list[EvaluatedMethod]
    cells: dict[tuple[int, ComparisonGroup, str], ScoreCell]

    def groups(self) -> list[ComparisonGroup]:
        """Whole benchmarks first, in the literature's order, then categories and tasks."""
        return sorted(dict.fromkeys(group for _, group, _ in self.cells), key=lambda group: group.order)

    def metrics(self, group: ComparisonGroup) -> list[str]:
        """The metrics of a group, those that papers print first, then as the evaluation wrote them."""
        found = dict.fromkeys(metric for _, cell_group, metric in self.cells if cell_group == group)
        known = literature_metrics(group.benchmark) if is_whole_benchmark(group.benchmark) else ()
        first = [metric for metric in known if metric in found]
        return first + [metric for metric in found if metric not in first]

    def columns(self) -> list[ScoreColumn]:
        """Every column, group by group."""
        return [(group, metric) for group in self.groups() for metric in self.metrics(group)]

    def best(self, group: ComparisonGroup, metric: str) -> float:
        """The highest value of a column."""
        return max(cell.value for (_, *column), cell in self.cells.items() if tuple(column) == (group, metric))

    def methods_in(self, group: ComparisonGroup) -> list[int]:
        """The numbers of the methods that have a score in a group."""
        return sorted({number for number, cell_group, _ in self.cells if cell_group == group})

    def text_protocols(self, group: ComparisonGroup, number: int | None = None) -> str:
        """The text protocols of a group, or of one method in it."""
        found = {
            method: cell.texts
            for (method, cell_group, _), cell in self.cells.items()
            if cell_group == group and number in (None, method)
        }
        return _joined(found[method] for method in sorted(found))


def build_score_grid(evaluations: Sequence[Sequence[_Row]]) -> ScoreGrid:
    """The grid of the score rows of each evaluation (with hits, bounds, ``control`` and ``allow_missing`` if known)."""
    methods, cells = [], {}
    for number, rows in enumerate(evaluations):
        protocols = [split_protocol(row["protocol"]) for row in rows]
        # An evaluation may score benchmarks by different text protocols: its row names them all.
        texts, preprocessing = (_joined(protocol[place] for protocol in protocols) for place in (1, 2))
        # No rows: an evaluation of a split whose answers only a server has.
        first: _Row = rows[0] if rows else {"method": "?", "backbone": "?", "control": None}
        methods.append(EvaluatedMethod(first["method"], first["backbone"], texts, preprocessing, control_kind(first)))
        for row, (_, row_texts, _) in zip(rows, protocols, strict=True):
            cells[number, comparison_group_of(row), row["metric"]] = ScoreCell(
                row["value"],
                row["n"],
                row.get("low"),
                row.get("high"),
                row.get("hits"),
                row_texts,
                row.get("allow_missing"),
            )
    return ScoreGrid(methods, cells | _beside_easier_texts(cells))


def control_kind(row: _Row) -> str | None:
    """Which control a score row comes from: its column ``control``, or its label in older rows without the column."""
    found: str | None = row["control"] if "control" in row else control_from_label(row["method"])
    return found


def _beside_easier_texts(
    cells: dict[tuple[int, ComparisonGroup, str], ScoreCell],
) -> dict[tuple[int, ComparisonGroup, str], ScoreCell]:
    """Cells of the image-only control, copied into the groups of easier texts: it reads no text, easy or not."""
    easier = dict.fromkeys(group for _, group, _ in cells if group.texts)
    return {
        (number, other, metric): cell
        for (number, group, metric), cell in cells.items()
        for other in easier
        if cell.texts == NO_TEXTS and group == replace(other, texts="")
    }


def score_tables_markdown(grid: ScoreGrid, title: str) -> str:
    """An overview (the first metric of each whole benchmark), then one table per group with intervals."""
    parts = [f"# {escape_markdown(title)}", overview(grid)]
    for group in grid.groups():
        texts = f"Texts: {escape_markdown(grid.text_protocols(group))}."
        remarks = map(escape_markdown, score_grid_remarks(grid, [group]))
        section = [f"## {escape_markdown(group.title)}", _group_table(grid, group), texts, *remarks]
        parts.append("\n\n".join(section))
    return "\n\n".join(parts) + "\n"


def overview(grid: ScoreGrid) -> str:
    """One column for each headline benchmark and protocol; the best of a column is bold."""
    # Categories and tasks only where an evaluation has nothing else, as one of some parts alone.
    groups = [group for group in grid.groups() if is_whole_benchmark(group.benchmark)] or grid.groups()
    columns = [(group, grid.metrics(group)[0]) for group in groups]
    heads = [f"{group.title} {metric} {_query_count(grid, group, metric)}".strip() for group, metric in columns]
    rows = [["method", "backbone", "texts", "preprocessing", *heads]]
    for number, method in enumerate(grid.methods):
        cells = [_short(grid, number, *column) for column in columns]
        # A method that has no score in any shown column would be a row of dashes.
        if any(cells):
            rows.append(
                [method.method, method.backbone, method.texts, method.preprocessing, *(cell or "-" for cell in cells)]
            )
    return "\n\n".join([_markdown_table(rows), *map(escape_markdown, score_grid_remarks(grid, groups))])


def score_grid_remarks(grid: ScoreGrid, groups: Sequence[ComparisonGroup]) -> list[str]:
    """Remarks on the numbers of some groups: which controls are missing, how many images were allowed to be."""
    return [*missing_controls(grid, groups), *_allowances(grid, groups)]


def missing_controls(grid: ScoreGrid, groups: Sequence[ComparisonGroup]) -> list[str]:
    """A sentence for each set of controls that some methods' backbone has no numbers of, in the same groups."""
    titles_lacking: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for group in groups:
        methods = [grid.methods[number] for number in grid.methods_in(group)]
        for backbone, lacking in lacking_controls([(method.backbone, method.control) for method in methods]):
            titles_lacking.setdefault((backbone, lacking), []).append(group.title)
    return [
        f"CONTROLS MISSING: no {', no '.join(lacking)} of {backbone} in {', '.join(dict.fromkeys(titles))}."
        for (backbone, lacking), titles in titles_lacking.items()
    ]


def lacking_controls(methods: Sequence[tuple[str, str | None]]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """From (backbone, control) of each method: the backbones of trained methods, and the controls that each lacks."""
    # A trained method means little without its backbone's own scores beside it.
    for backbone in dict.fromkeys(backbone for backbone, control in methods if control is None):
        lacking = tuple(name for kind, name in CONTROLS.items() if (backbone, kind) not in methods)
        if lacking:
            yield backbone, lacking


def _allowances(grid: ScoreGrid, groups: Sequence[ComparisonGroup]) -> list[str]:
    """A sentence for each group in which images were allowed to be missing, whether any was or not."""
    found: dict[ComparisonGroup, int] = {}
    for (_, group, _), cell in grid.cells.items():
        if group in groups and cell.allow_missing is not None:
            found[group] = max(found.get(group, 0), cell.allow_missing)
    return [
        f"allow_missing {found[group]}: {group.title} is not the whole benchmark."
        if " without " in group.ranking
        else f"allow_missing {found[group]}: {group.title} might lack images, but none was missing."
        for group in groups
        if group in found
    ]


def wide_rows(grid: ScoreGrid) -> list[list[str]]:
    """A header and a line per evaluation, every column of every group, for spreadsheets; empty where not measured."""
    columns = grid.columns()
    heads = [
        head
        for group, metric in columns
        for head in (f"{group.title} {metric}", f"{group.title} {metric} hits", f"{group.title} {metric} n")
    ]
    rows = [["method", "backbone", "texts", "preprocessing", *heads]]
    for number, method in enumerate(grid.methods):
        cells = [grid.cells.get((number, group, metric)) for group, metric in columns]
        numbers = [text for cell in cells for text in _plain_numbers(cell)]
        rows.append([method.method, method.backbone, method.texts, method.preprocessing, *numbers])
    return rows


def _plain_numbers(cell: ScoreCell | None) -> tuple[str, str, str]:
    if cell is None:
        return "", "", ""
    # repr: a spreadsheet gets every digit.
    return repr(cell.value), "" if cell.hits is None else str(cell.hits), str(cell.n)


def _group_table(grid: ScoreGrid, group: ComparisonGroup) -> str:
    metrics = grid.metrics(group)
    heads = [f"{metric} {_query_count(grid, group, metric)}".strip() for metric in metrics]
    rows = [["method", "backbone", "texts", "preprocessing", *heads]]
    for number in grid.methods_in(group):
        method = grid.methods[number]
        cells = [_full(grid, number, group, metric) or "-" for metric in metrics]
        rows.append([method.method, method.backbone, grid.text_protocols(group, number), method.preprocessing, *cells])
    return _markdown_table(rows)


def _markdown_table(rows: Sequence[Sequence[str]]) -> str:
    # Four columns of text, then numbers, which are aligned to the right.
    rule = ["---"] * 4 + ["---:"] * (len(rows[0]) - 4)
    return "\n".join(markdown_row([escape_markdown(cell) for cell in row]) for row in [rows[0], rule, *rows[1:]])


def _short(grid: ScoreGrid, number: int, group: ComparisonGroup, metric: str) -> str:
    """The percentage, with its n where the column's head cannot say it; empty where there is none."""
    cell = grid.cells.get((number, group, metric))
    if cell is None:
        return ""
    text = _bold_if_best(grid, cell, group, metric)
    return text if _query_count(grid, group, metric) else f"{text} (n {cell.n})"


def _full(grid: ScoreGrid, number: int, group: ComparisonGroup, metric: str) -> str:
    """The percentage with its interval, and hits of n; for means of graded values, n where the head cannot say it."""
    cell = grid.cells.get((number, group, metric))
    if cell is None:
        return ""
    known = cell.low is not None and cell.high is not None
    parts = [_bold_if_best(grid, cell, group, metric), f"[{cell.low:.1f}, {cell.high:.1f}]" if known else ""]
    count = "" if _query_count(grid, group, metric) else f"(n {cell.n})"
    parts.append(count if cell.hits is None else f"({cell.hits}/{cell.n})")
    return " ".join(part for part in parts if part)


def _bold_if_best(grid: ScoreGrid, cell: ScoreCell, group: ComparisonGroup, metric: str) -> str:
    text = f"{cell.value:.2f}"
    # All of the best are bold where several are equal; a column of zeros has no best.
    return f"**{text}**" if len(grid.methods) > 1 and cell.value == grid.best(group, metric) > 0 else text


def _query_count(grid: ScoreGrid, group: ComparisonGroup, metric: str) -> str:
    """``(n 4181)`` if all evaluations have as many queries; else each cell says its own."""
    counts = {cell.n for (_, *column), cell in grid.cells.items() if tuple(column) == (group, metric)}
    return f"(n {counts.pop()})" if len(counts) == 1 else ""


def _joined(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(name for name in names if name)) or "-"
