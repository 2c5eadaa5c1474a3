"""Rejects: what steps left out becomes a few examples of as many reasons as possible."""

from dataclasses import dataclass

from zscir.report.artifact_reader import Rows, first_rows
from zscir.report.formatting import cut
from zscir.report.run_data import RunRecord
from zscir.runtime.errors import ZscirError

TABLE = "rejects.parquet"
MAX_SHOWN = 8
LOOKED_AT = 4_000


@dataclass(frozen=True)
class Reject:
    """One thing that a step left out."""

    step: str
    id: str
    reason: str
    detail: str


def reject_examples(record: RunRecord) -> list[Reject]:
    """At most eight rejects of each step that has any; each reason comes before any reason comes twice."""
    found = []
    for step in record.steps:
        if step.artifact is None or TABLE not in step.artifact.entries:
            continue
        try:
            rows = varied(first_rows(step.artifact, TABLE, LOOKED_AT))
        except ZscirError as error:
            found.append(Reject(step.name, "", "cannot be read", cut(str(error))))
            continue
        found += [
            Reject(step.name, cut(one["id"], 90), cut(one["reason"], 60), cut(one["detail"], 200)) for one in rows
        ]
    return found


def varied(rows: Rows) -> Rows:
    """The first row of each reason, then the second of each, until there are enough; sorted by reason."""
    by_reason: dict[str, Rows] = {}
    for row in rows:
        by_reason.setdefault(row["reason"], []).append(row)
    turns = [group[turn] for turn in range(MAX_SHOWN) for group in by_reason.values() if turn < len(group)]
    return sorted(turns[:MAX_SHOWN], key=lambda row: (row["reason"], row["id"]))
