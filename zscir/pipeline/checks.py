"""Gates: numbers about a step's data, their last good values and the bounds in a pipeline file become verdicts."""

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, model_validator

from zscir.pipeline.data_statistics import SCHEMAS
from zscir.runtime.errors import RequestError
from zscir.runtime.specs import Spec

COUNT = re.compile(r"(\w+) (==|<=|>=) (\w+)(?:\.(\w+))?")
SIGNS: dict[str, Callable[[int, int], bool]] = {"==": operator.eq, "<=": operator.le, ">=": operator.ge}
ROUNDING = 1e-9  # 0.8 - 0.6 is no more than 0.2
Step = Annotated[float, Field(ge=0)]


class Bounds(Spec):
    """How far one number may go before the run warns or fails.

    ``below`` and ``above`` bound the value itself; ``drop`` and ``rise`` its distance from the last good run's, and
    ``shift`` that distance either way as a share of the last good value.
    """

    warn_below: float | None = None
    fail_below: float | None = None
    warn_above: float | None = None
    fail_above: float | None = None
    warn_drop: Step | None = None
    fail_drop: Step | None = None
    warn_rise: Step | None = None
    fail_rise: Step | None = None
    warn_shift: Step | None = None
    fail_shift: Step | None = None

    @model_validator(mode="after")
    def _bounds_something(self) -> "Bounds":
        if not self.literals():
            raise ValueError(f"give at least one of {', '.join(type(self).model_fields)}")
        return self


class Gates(Spec):
    """The gates of a step: bounds by the name of the measure (data_statistics.py), and counts against its inputs.

    A count is ``TABLE == ROLE`` (or <=, >=): the rows of a table that the step makes, against those of the table of
    that name that the input of that name holds; ``ROLE.TABLE`` names another table of the input.
    """

    counts: tuple[str, ...] | None = None
    success_rate: Bounds | None = None
    width_px: Bounds | None = None
    height_px: Bounds | None = None
    side_px_p10: Bounds | None = None
    text_chars: Bounds | None = None
    text_chars_p10: Bounds | None = None
    text_chars_p90: Bounds | None = None
    duplicate_share: Bounds | None = None
    duplicate_text_share: Bounds | None = None
    kept_share: Bounds | None = None
    answered_share: Bounds | None = None

    def bounds(self) -> dict[str, Bounds]:
        """Measure -> its bounds, where there are some."""
        named = ((name, getattr(self, name)) for name in type(self).model_fields)
        return {name: bounds for name, bounds in named if isinstance(bounds, Bounds)}

    def check_counts(self, roles: list[str], where: str) -> None:
        """RequestError when a count is no count, or names a table or an input that there is not."""
        for text in self.counts or ():
            one = Count.parse(text, where)
            for table in (one.table, one.of_table):
                if table not in SCHEMAS:
                    raise RequestError(f"{where}: counts: '{text}': no table '{table}'; there are {sorted(SCHEMAS)}")
            if one.role not in roles:
                raise RequestError(f"{where}: counts: '{text}': no input '{one.role}'; the step reads {sorted(roles)}")


@dataclass(frozen=True)
class Count:
    """The rows of ``table`` against those of ``of_table`` in the input ``role``."""

    table: str
    sign: str
    role: str
    of_table: str

    @classmethod
    def parse(cls, text: str, where: str) -> "Count":
        """``images == pairs`` or ``images <= pairs.pairs``; RequestError for anything else."""
        found = COUNT.fullmatch(text.strip())
        if found is None:
            raise RequestError(f"{where}: counts: '{text}': write it as 'images == pairs', with ==, <= or >=")
        table, sign, role, of_table = found.groups()
        return cls(table, sign, role, of_table or role)


@dataclass(frozen=True)
class Verdict:
    """What a gate says: ``pass``, ``warn`` or ``fail``; ``threshold`` is the bound that was crossed, or all of them.

    ``reference`` is the last good run's value; of a count, the rows of the input.
    """

    metric: str
    value: float | None
    reference: float | None
    threshold: str
    verdict: str


def judge(metric: str, value: float | None, reference: float | None, bounds: Bounds) -> Verdict:
    """One number against its bounds; those against the last good run hold only where there is one.

    A number that could not be measured fails, or warns where there are only bounds that warn.
    """
    given = {name: float(bound) for name, bound in bounds.literals().items()}
    for level in ("fail", "warn"):
        for name, bound in given.items():
            if name.startswith(level) and (value is None or _crossed(name[5:], value, reference, bound)):
                return Verdict(metric, value, reference, f"{name} = {bound:g}", level)
    return Verdict(metric, value, reference, ", ".join(f"{name} = {bound:g}" for name, bound in given.items()), "pass")


def _crossed(kind: str, value: float, reference: float | None, bound: float) -> bool:
    if kind in ("below", "above"):
        return value < bound if kind == "below" else value > bound
    if reference is None:
        return False
    if kind == "shift":
        return abs(value - reference) > bound * abs(reference) + ROUNDING
    return (reference - value if kind == "drop" else value - reference) > bound + ROUNDING


def judge_count(text: str, count: Count, rows: int | None, of: int | None) -> Verdict:
    """A count of rows against that of an input; a table that is not there fails."""
    fits = rows is not None and of is not None and SIGNS[count.sign](rows, of)
    value, reference = (None if one is None else float(one) for one in (rows, of))
    return Verdict(f"rows of {count.table}", value, reference, text, "pass" if fits else "fail")


def say(found: Verdict) -> str:
    """A verdict in words: what was measured, what it was before, and the bound."""
    if found.metric == "schema":
        return f"schema: {found.threshold}"
    value = "could not be measured (no such table, or no rows)" if found.value is None else f"is {found.value:g}"
    before = "" if found.reference is None else f"; the {_other(found)} {found.reference:g}"
    return f"{found.metric} {value}{before}; the bound is {found.threshold}"


def _other(found: Verdict) -> str:
    return "input has" if found.metric.startswith("rows of ") else "last good run had"
