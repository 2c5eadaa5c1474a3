"""Keep a run within its limits of hours and dollars: what it has spent, and a clean stop before it spends more."""

import time
from dataclasses import dataclass, field

from zscir.pipeline.estimates import Estimate, cost_usd
from zscir.pipeline.limits import Limits
from zscir.runtime.errors import OverBudget, RequestError
from zscir.runtime.schemas import RESPONSES_SCHEMA, read_table
from zscir.runtime.settings import Prices
from zscir.store.artifacts import Artifact

RESPONSES_PREFIX = "responses-"  # the files of ask_llm, the only stage that pays by the token


@dataclass
class Budget:
    """What one run may spend, from the moment at which this is made: hours of wall clock, and dollars."""

    limits: Limits
    prices: Prices
    _began: float = field(default_factory=time.monotonic)  # a clock that is set back gives no hours back
    _tokens_in: int = 0
    _tokens_out: int = 0

    def check_prices(self) -> None:
        """RequestError when dollars are limited and no price is known: nothing could ever stop such a run."""
        if self.limits.max_usd is not None and not self.prices.any_known:
            raise RequestError(
                f"max_usd = {self.limits.max_usd:g} needs a price: set ZSCIR_USD_PER_HOUR for this machine, and "
                "ZSCIR_USD_PER_MTOK_IN and ZSCIR_USD_PER_MTOK_OUT for an LLM"
            )

    @property
    def limited(self) -> bool:
        """Whether there is any limit on the whole run."""
        return self.limits.max_hours is not None or self.limits.max_usd is not None

    def spent(self) -> tuple[float, float]:
        """Hours and US dollars so far."""
        wall_s = time.monotonic() - self._began
        return wall_s / 3600, cost_usd(wall_s, self._tokens_in, self._tokens_out, self.prices) or 0.0

    def add_usage(self, made: Artifact) -> None:
        """Add the LLM tokens of an artifact that this run has made."""
        # Reading every response to count tokens costs time, and only dollars need them.
        if self.limits.max_usd is None:
            return
        for name in made.files(".parquet"):
            if name.startswith(RESPONSES_PREFIX):
                table = read_table(made.path(name), RESPONSES_SCHEMA, ["tokens_in", "tokens_out"])
                self._tokens_in += sum(filter(None, table.column("tokens_in").to_pylist()))
                self._tokens_out += sum(filter(None, table.column("tokens_out").to_pylist()))

    def check(self, step: str, estimate: Estimate | None = None) -> None:
        """OverBudget when a limit is reached, or would be by ``step`` if it takes as long as half of its makings did.

        What is not known of a step counts as nothing.
        """
        hours, usd = self.spent()
        next_hours = estimate.wall_p50_s / 3600 if estimate is not None else 0.0
        next_usd = (estimate.usd or 0.0) if estimate is not None else 0.0
        for option, unit, limit, so_far, to_come in (
            ("--max-hours", "hours", self.limits.max_hours, hours, next_hours),
            ("--max-usd", "US dollars", self.limits.max_usd, usd, next_usd),
        ):
            if limit is None or (so_far < limit and so_far + to_come <= limit):
                continue
            need = f", step '{step}' is expected to take {_rounded(to_come)}" if to_come else f" at step '{step}'"
            # The option that is proposed must let the rerun pass this point, also when the estimate was low.
            raise OverBudget(
                f"the run's limit of {limit:g} {unit} stops it: {_rounded(so_far)} {unit} spent{need}; spent in all: "
                f"{_rounded(hours)} hours, {_rounded(usd)} US dollars",
                f"{option} {_rounded(max(2 * limit, 2 * so_far, 1.5 * to_come))}",
            )

    def deadline(self) -> float | None:
        """When (seconds since 1970) the run has spent all it may if nothing but time costs; None without a limit."""
        hours, usd = self.spent()
        left = []  # hours; tokens cannot be foreseen while a step is at work, they are added at its end
        if self.limits.max_hours is not None:
            left.append(self.limits.max_hours - hours)
        if self.limits.max_usd is not None and self.prices.usd_per_hour:
            left.append((self.limits.max_usd - usd) / self.prices.usd_per_hour)
        # Wall clock, not monotonic: the deadline travels with chunks to other processes and machines.
        return time.time() + 3600 * min(left) if left else None


def _rounded(value: float) -> str:
    return f"{value:.3g}"
