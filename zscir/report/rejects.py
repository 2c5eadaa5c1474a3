"""Examples of what steps rejected, of as many reasons as possible."""

from dataclasses import dataclass

from zscir.report.artifact_reader import TableRows, read_first_rows
from zscir.report.formatting import shorten_text
from zscir.report.run_data import RunRecord
from zscir.runtime.errors import ZscirError

REJECTS_FILE = "rejects.parquet"
MAX_SHOWN = 8
MAX_REJECTS_READ = 4_000  # of each step; a table of rejects may have millions of rows


@dataclass(frozen=True)
class RejectExample:
    """One row that a step rejected."""

    step: str
    id: str
    reason: str
    detail: str


def reject_examples(record: RunRecord) -> list[RejectExample]:
    """At most eight rejects of each step that has any; each reason comes before any reason comes twice."""
    found = []
    for step in record.steps:
        if step.artifact is None or REJECTS_FILE not in step.artifact.entries:
            continue
        try:
            rows = vary_by_reason(read_first_rows(step.artifact, REJECTS_FILE, MAX_REJECTS_READ))
        except ZscirError as error:
            found.append(RejectExample(step.name, "", "cannot be read", shorten_text(str(error))))
            continue
        found += [
            RejectExample(
                step.name,
                shorten_text(row["id"], 90),
                shorten_text(row["reason"], 60),
                shorten_text(row["detail"], 200),
            )
            for row in rows
        ]
    return found


def vary_by_reason(rows: TableRows) -> TableRows:
    """The first row of each reason, then the second of each, until there are enough; sorted by reason."""
    by_reason: dict[str, TableRows] = {}
    for row in rows:
        by_reason.setdefault(row["reason"], []).append(row)
    taken = [
        same_reason[turn] for turn in range(MAX_SHOWN) for same_reason in by_reason.values() if turn < len(same_reason)
    ]
    return sorted(taken[:MAX_SHOWN], key=lambda row: (row["reason"], row["id"]))
