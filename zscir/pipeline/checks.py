"""Gates: numbers about a step's data, their last good values and the bounds in a pipeline file become verdicts."""

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, model_validator

from zscir.pipeline.data_statistics import TABLE_SCHEMAS
from zscir.runtime.errors import RequestError
from zscir.runtime.specs import Spec

ROW_COUNT_PATTERN = re.compile(r"(\w+) (==|<=|>=) (\w+)(?:\.(\w+))?")
COMPARISONS: dict[str, Callable[[int, int], bool]] = {"==": operator.eq, "<=": operator.le, ">=": operator.ge}
ROUNDING_TOLERANCE = 1e-9  # 0.8 - 0.6 is no more than 0.2
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
    def _bounds_something(self) -> "Thresholds":
        if not self.literals():
            raise ValueError(f"give at least one of {', '.join(type(self).model_fields)}")
        return self


class QualityChecks(Spec):
    """The gates of a step: bounds by the name of the measure (data_statistics.py), and counts against its inputs.

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

    def bounds(self) -> dict[str, Thresholds]:
        """Measure -> its bounds, where there are some."""
        named = ((name, getattr(self, name)) for name in type(self).model_fields)
        return {name: bounds for name, bounds in named if isinstance(bounds, Thresholds)}

    def check_counts(self, roles: list[str], where: str) -> None:
        """RequestError when a count is no count, or names a table or an input that there is not."""
        for text in self.counts or ():
            one = RowCountCheck.parse(text, where)
            for table in (one.table, one.of_table):
                if table not in TABLE_SCHEMAS:
                    raise RequestError(
                        f"{where}: counts: '{text}': no table '{table}'; there are {sorted(TABLE_SCHEMAS)}"
                    )
            if one.role not in roles:
                raise RequestError(f"{where}: counts: '{text}': no input '{one.role}'; the step reads {sorted(roles)}")


@dataclass(frozen=True)
class RowCountCheck:
    """The rows of ``table`` against those of ``of_table`` in the input ``role``."""

    table: str
    sign: str
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
    """What a gate says: ``pass``, ``warn`` or ``fail``; ``threshold`` is the bound that was crossed, or all of them.

    ``reference`` is the last good run's value; of a count, the rows of the input.
    """

    metric: str
    value: float | None
    reference: float | None
    threshold: str
    verdict: str


def evaluate_check(metric: str, value: float | None, reference: float | None, bounds: Thresholds) -> CheckResult:
    """One number against its bounds; those against the last good run hold only where there is one.

    A number that could not be measured fails, or warns where there are only bounds that warn.
    """
    given = {name: float(bound) for name, bound in bounds.literals().items()}
    for level in ("fail", "warn"):
        for name, bound in given.items():
            if name.startswith(level) and (value is None or _crossed(name[5:], value, reference, bound)):
                return CheckResult(metric, value, reference, f"{name} = {bound:g}", level)
    return CheckResult(
        metric, value, reference, ", ".join(f"{name} = {bound:g}" for name, bound in given.items()), "pass"
    )


def _crossed(kind: str, value: float, reference: float | None, bound: float) -> bool:
    if kind in ("below", "above"):
        return value < bound if kind == "below" else value > bound
    if reference is None:
        return False
    if kind == "shift":
        return abs(value - reference) > bound * abs(reference) + ROUNDING_TOLERANCE
    return (reference - value if kind == "drop" else value - reference) > bound + ROUNDING_TOLERANCE


def evaluate_row_count(text: str, count: RowCountCheck, rows: int | None, of: int | None) -> CheckResult:
    """A count of rows against that of an input; a table that is not there fails."""
    fits = rows is not None and of is not None and COMPARISONS[count.sign](rows, of)
    value, reference = (None if one is None else float(one) for one in (rows, of))
    return CheckResult(f"rows of {count.table}", value, reference, text, "pass" if fits else "fail")


def format_check(found: CheckResult) -> str:
    """A verdict in words: what was measured, what it was before, and the bound."""
    if found.metric == "schema":
        return f"schema: {found.threshold}"
    value = "could not be measured (no such table, or no rows)" if found.value is None else f"is {found.value:g}"
    before = "" if found.reference is None else f"; the {_format_reference(found)} {found.reference:g}"
    return f"{found.metric} {value}{before}; the bound is {found.threshold}"


def _format_reference(found: CheckResult) -> str:
    return "input has" if found.metric.startswith("rows of ") else "last good run had"
