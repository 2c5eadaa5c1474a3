"""Data-quality checks of a step (``[steps.gates]``): thresholds of statistics, row counts, and their verdicts."""

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, model_validator

from zscir.pipeline.data_statistics import TABLE_SCHEMAS
from zscir.runtime.errors import RequestError
from zscir.runtime.specs import Spec

# "images <= pairs.pairs": our table, the comparison, an input's name, and its table where the names differ.
ROW_COUNT_PATTERN = re.compile(r"(\w+) (==|<=|>=) (\w+)(?:\.(\w+))?")
COMPARISONS: dict[str, Callable[[int, int], bool]] = {"==": operator.eq, "<=": operator.le, ">=": operator.ge}
ROUNDING_TOLERANCE = 1e-9  # 0.8 - 0.6 is 0.20000000000000007 in floating point, and no more than 0.2 to a person
NonNegativeChange = Annotated[float, Field(ge=0)]


class Thresholds(Spec):
    """How far one number may go before the run warns or fails.

    ``below`` and ``above`` bound the value itself; ``drop`` and ``rise`` its distance from the last good run's, and
    ``shift`` that distance either way as a share of the last good value.
    """

    warn_below: float | None = None
    fail_below: float | None = None
    warn_above: float | None = None
    fail_above: float | None = None
    warn_drop: NonNegativeChange | None = None
    fail_drop: NonNegativeChange | None = None
    warn_rise: NonNegativeChange | None = None
    fail_rise: NonNegativeChange | None = None
    warn_shift: NonNegativeChange | None = None
    fail_shift: NonNegativeChange | None = None

    @model_validator(mode="after")
    def _check_not_empty(self) -> "Thresholds":
        if not self.literals():
            raise ValueError(f"give at least one of {', '.join(type(self).model_fields)}")
        return self


class QualityChecks(Spec):
    """The ``gates`` of a step: thresholds by the name of the statistic (data_statistics.py), and row counts.

    A count is ``TABLE == ROLE`` (or <=, >=): the rows of a table that the step makes, against those of the table of
    that name that the input of that name holds; ``ROLE.TABLE`` names another table of the input.
    """

    counts: tuple[str, ...] | None = None
    success_rate: Thresholds | None = None
    width_px: Thresholds | None = None
    height_px: Thresholds | None = None
    side_px_p10: Thresholds | None = None
    text_chars: Thresholds | None = None
    text_chars_p10: Thresholds | None = None
    text_chars_p90: Thresholds | None = None
    duplicate_share: Thresholds | None = None
    duplicate_text_share: Thresholds | None = None
    kept_share: Thresholds | None = None
    answered_share: Thresholds | None = None

    def thresholds(self) -> dict[str, Thresholds]:
        """Statistic -> its thresholds, where there are some."""
        fields = ((name, getattr(self, name)) for name in type(self).model_fields)
        return {name: value for name, value in fields if isinstance(value, Thresholds)}

    def check_counts(self, roles: list[str], where: str) -> None:
        """RequestError when a count is not written as one, or names an unknown table or input."""
        for text in self.counts or ():
            count = RowCountCheck.parse(text, where)
            for table in (count.table, count.of_table):
                if table not in TABLE_SCHEMAS:
                    raise RequestError(
                        f"{where}: counts: '{text}': no table '{table}'; there are {sorted(TABLE_SCHEMAS)}"
                    )
            if count.role not in roles:
                reads = f"the step reads {sorted(roles)}"
                raise RequestError(f"{where}: counts: '{text}': no input '{count.role}'; {reads}")


@dataclass(frozen=True)
class RowCountCheck:
    """The rows of ``table`` against those of ``of_table`` in the input ``role``."""

    table: str
    operator: str  # ==, <= or >=
    role: str
    of_table: str

    @classmethod
    def parse(cls, text: str, where: str) -> "RowCountCheck":
        """``images == pairs`` or ``images <= pairs.pairs``; RequestError for anything else."""
        found = ROW_COUNT_PATTERN.fullmatch(text.strip())
        if found is None:
            raise RequestError(f"{where}: counts: '{text}': write it as 'images == pairs', with ==, <= or >=")
        table, sign, role, of_table = found.groups()
        return cls(table, sign, role, of_table or role)


@dataclass(frozen=True)
class CheckResult:
    """The verdict of a check: ``pass``, ``warn`` or ``fail``; ``threshold`` is the one that was crossed, or all.

    ``reference`` is the last good run's value; of a count, the rows of the input. A row of the table ``gates``.
    """

    metric: str
    value: float | None
    reference: float | None
    threshold: str
    verdict: str


def evaluate_check(metric: str, value: float | None, reference: float | None, thresholds: Thresholds) -> CheckResult:
    """One number against its thresholds; those against the last good run hold only where there is one.

    A number that could not be computed fails, or warns where only warnings are set: an empty table passes no check.
    """
    given = {name: float(threshold) for name, threshold in thresholds.literals().items()}
    # Failures first: a number that crosses both thresholds must not end as a warning.
    for level in ("fail", "warn"):
        for name, threshold in given.items():
            kind = name.removeprefix(f"{level}_")
            if name.startswith(level) and (value is None or _is_crossed(kind, value, reference, threshold)):
                return CheckResult(metric, value, reference, f"{name} = {threshold:g}", level)
    passed = ", ".join(f"{name} = {threshold:g}" for name, threshold in given.items())
    return CheckResult(metric, value, reference, passed, "pass")


def _is_crossed(kind: str, value: float, reference: float | None, threshold: float) -> bool:
    if kind in ("below", "above"):
        return value < threshold if kind == "below" else value > threshold
    # The first run of a pipeline has nothing to compare with, and must not fail for it.
    if reference is None:
        return False
    if kind == "shift":
        return abs(value - reference) > threshold * abs(reference) + ROUNDING_TOLERANCE
    return (reference - value if kind == "drop" else value - reference) > threshold + ROUNDING_TOLERANCE


def evaluate_row_count(text: str, count: RowCountCheck, rows: int | None, input_rows: int | None) -> CheckResult:
    """A count of rows against that of an input; a table that is not there fails."""
    # Without "is not None" a table that is missing on both sides would count as equal.
    fits = rows is not None and input_rows is not None and COMPARISONS[count.operator](rows, input_rows)
    value = None if rows is None else float(rows)
    reference = None if input_rows is None else float(input_rows)
    return CheckResult(f"rows of {count.table}", value, reference, text, "pass" if fits else "fail")


def format_check(result: CheckResult) -> str:
    """A result as text: the number, the one that it is compared with, and the threshold."""
    if result.metric == "schema":
        return f"schema: {result.threshold}"
    value = "could not be measured (no such table, or no rows)" if result.value is None else f"is {result.value:g}"
    source = "input has" if result.metric.startswith("rows of ") else "last good run had"
    compared = "" if result.reference is None else f"; the {source} {result.reference:g}"
    return f"{result.metric} {value}{compared}; the bound is {result.threshold}"
