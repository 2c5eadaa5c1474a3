"""The page docs/faults.md: its two tables, and measurements of tests as rows of the second."""

from collections.abc import Callable, Iterable
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "faults.md"
Measured = Callable[[str, str], None]  # the fixture ``measured``: a fault, by its name on the page, and a line


def table(column: str) -> list[list[str]]:
    """The rows, as cells, of the page's table whose last column is called so."""
    for block in PAGE.read_text().split("\n\n"):
        head, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in block.strip().splitlines()]
        if head and head[-1] == column:
            return rows[1:]
    return []


def faults() -> list[str]:
    """What the page calls the faults."""
    return [row[0] for row in table("test")]


def rows_of(said: Iterable[tuple[str, str]]) -> list[str]:
    """Pairs of a fault and what was measured become rows in the order of the page; what is said twice stands once."""
    lines: dict[str, list[str]] = {fault: [] for fault in faults()}
    for fault, line in said:
        lines[fault] += [line] if line not in lines[fault] else []
    return [f"| {fault} | {'; '.join(found)} |" for fault, found in lines.items() if found]
