"""Table of a run's data-quality checks, failures and warnings first."""

from dataclasses import dataclass

from zscir.lineage.sql_views import query_store_rows
from zscir.report.formatting import EMPTY_VALUE
from zscir.report.run_data import RunRecord

WORST_FIRST = ("fail", "warn", "pass")


@dataclass(frozen=True)
class CheckTableRow:
    """One check; ``reference`` is the last good run's value, of a count the rows of the input."""

    step: str
    metric: str
    value: str
    reference: str
    threshold: str
    verdict: str


def check_table_rows(record: RunRecord) -> list[CheckTableRow]:
    """Every check of the run except passed schema checks, the worst first, else in the order of the steps."""
    found = query_store_rows(record.store, "SELECT * FROM gates WHERE run_id = $1", [record.run_id])
    places = {step.name: number for number, step in enumerate(record.steps)}
    found.sort(key=lambda row: (WORST_FIRST.index(row["verdict"]), places.get(row["step"], len(places))))
    return [
        CheckTableRow(
            row["step"],
            row["metric"].replace("_", " "),
            _number(row["value"]),
            _number(row["reference"]),
            row["threshold"].replace("_", " "),
            row["verdict"],
        )
        for row in found
        if (row["metric"], row["verdict"]) != ("schema", "pass")
    ]


def _number(value: float | None) -> str:
    """Up to four decimals, none where there are none."""
    if value is None:
        return EMPTY_VALUE
    return f"{value:,.0f}" if value == int(value) else f"{value:,.4f}".rstrip("0")
