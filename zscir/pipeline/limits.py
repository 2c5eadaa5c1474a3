"""The limits of a pipeline file on time, money and attempts (``[limits]``); none enters a key."""

from typing import Annotated

from pydantic import Field

from zscir.runtime.errors import StageError
from zscir.runtime.specs import Spec

PositiveLimit = Annotated[float, Field(gt=0)]


class StepLimits(Spec):
    """``limits = { max_hours = 2 }`` of one step: hours of wall clock for each time that it is made."""

    max_hours: PositiveLimit | None = None


class Limits(Spec):
    """Bounds on one run. ``max_hours`` and ``max_usd`` are of the whole run, ``max_step_hours`` of each of its steps.

    What fails for a passing reason is tried ``retries`` times more, after ``backoff_s`` seconds, then twice that, ...
    """

    max_hours: PositiveLimit | None = None
    max_usd: PositiveLimit | None = None
    max_step_hours: PositiveLimit | None = None
    # In no key, like all of this table: how often something was tried changes no byte of what came out.
    retries: Annotated[int, Field(ge=0, le=20)] = 2
    backoff_s: Annotated[float, Field(ge=0, le=3600)] = 2.0


def step_timeout_error(step: str, max_s: float | None) -> StageError:
    """The error of a step that exceeded its time limit."""
    return StageError(
        f"it took longer than its limit of {(max_s or 0) / 3600:.3g} hours; raise limits.max_step_hours, or its "
        f"own with --set {step}.limits.max_hours=... at the rerun"
    )
