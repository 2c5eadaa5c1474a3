"""Significance tables: each trained method against the strongest control, from the paired tests of ``tabulate``."""

from dataclasses import dataclass
from typing import Any

from zscir.benchmarks.comparability import ComparisonGroup
from zscir.benchmarks.registry import benchmark_order
from zscir.evaluation.score_tables import control_kind
from zscir.report.artifact_reader import TableRows, has_columns, read_first_rows
from zscir.report.run_data import RunRecord
from zscir.report.scores import TableHead, group_title, tabulated_score_rows
from zscir.store.artifacts import Artifact

MAX_PAIR_ROWS = 20_000
PAIR_COLUMNS = (
    "first",
    "second",
    "benchmark",
    "split",
    "ranking",
    "metric",
    "difference",
    "won",
    "lost",
    "n",
    "p_value",
)
WHOLE_TITLE = "Against the strongest control"
PARTS_TITLE = "Against the strongest control, part by part"
TestedColumn = tuple[str, str, str, str]  # benchmark, split, ranking, metric


@dataclass(frozen=True)
class ControlTest:
    """One method minus one control on the same queries: points of percent, queries won and lost, two-sided p."""

    points: float
    control: str
    won: int
    lost: int
    p_value: float

    @property
    def significant(self) -> bool:
        """Whether less than one in twenty choices of the queries would give so large a difference by chance."""
        return self.p_value < 0.05


@dataclass(frozen=True)
class SignificanceTable:
    """Methods by headline metrics; ``remark`` says when there is no control to test against."""

    title: str
    columns: tuple[TableHead, ...]
    rows: tuple[tuple[str, tuple[ControlTest | None, ...]], ...]
    remark: str = ""


def comparisons(record: RunRecord) -> list[SignificanceTable]:
    """For each ``tabulate`` of the run: whole benchmarks, then categories and tasks one by one."""
    return [table for _, artifact in record.steps_with_artifact("tabulate") for table in _comparisons(artifact)]


def _comparisons(table: Artifact) -> list[SignificanceTable]:
    if not has_columns(table, "pairs.parquet", PAIR_COLUMNS):
        return []
    first_rows = {rows[0]["evaluation"]: rows[0] for rows in tabulated_score_rows(table)}
    names = {number: row["method"] for number, row in first_rows.items()}
    controls = {number for number, row in first_rows.items() if control_kind(row) is not None}
    if names and not controls:
        return [
            SignificanceTable(WHOLE_TITLE, (), (), "CONTROLS MISSING: there is no control to hold the methods against.")
        ]
    by_key: dict[TestedColumn, TableRows] = {}
    for row in read_first_rows(table, "pairs.parquet", MAX_PAIR_ROWS):
        by_key.setdefault((row["benchmark"], row["split"], row["ranking"], row["metric"]), []).append(row)
    tests = {key: _tests(rows, controls, names) for key, rows in by_key.items()}
    whole = {key: found for key, found in tests.items() if _is_whole(key) and found}
    parts = {key: found for key, found in tests.items() if not _is_whole(key) and found}
    drawn = [_comparison(title, found, names) for title, found in ((WHOLE_TITLE, whole), (PARTS_TITLE, parts))]
    return [table for table in drawn if table.rows]


def _is_whole(key: TestedColumn) -> bool:
    return key[0].partition("/")[2] in ("", "mean")


def _comparison(
    title: str, tests: dict[TestedColumn, dict[int, ControlTest]], names: dict[int, str]
) -> SignificanceTable:
    keys = sorted(tests, key=lambda key: benchmark_order(key[0]))
    methods = [number for number in names if any(number in found for found in tests.values())]
    heads = tuple(
        TableHead(f"{group_title(ComparisonGroup(*key[:3]))} {key[3]}", f"{key[1]}, {key[2]}") for key in keys
    )
    return SignificanceTable(
        title, heads, tuple((names[method], tuple(tests[key].get(method) for key in keys)) for method in methods)
    )


def _tests(pairs: TableRows, controls: set[int], names: dict[int, str]) -> dict[int, ControlTest]:
    """Each method's test against the control that is ahead of the other controls."""
    best = strongest(pairs, controls)
    found = {}
    for row in pairs:
        both = (row["first"], row["second"])
        if best in both and not controls.issuperset(both):
            sign = 1 if best == row["first"] else -1
            won, lost = (row["won"], row["lost"]) if sign > 0 else (row["lost"], row["won"])
            method = both[1] if sign > 0 else both[0]
            found[method] = ControlTest(sign * row["difference"], names[best], won, lost, row["p_value"])
    return found


def strongest(pairs: TableRows, controls: set[int]) -> int:
    """The control with the most points over the other controls; the first of equals, -1 when there is none."""
    there = sorted({number for row in pairs for number in (row["first"], row["second"]) if number in controls})
    lead: dict[int, Any] = dict.fromkeys(there, 0.0)
    for row in pairs:
        if row["first"] in lead and row["second"] in lead:
            lead[row["second"]] += row["difference"]
            lead[row["first"]] -= row["difference"]
    return max(lead, key=lambda number: lead[number], default=-1)
