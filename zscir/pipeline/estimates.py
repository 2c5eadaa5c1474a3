"""Estimate the time, bytes, LLM tokens and dollars of steps to be made, from what the lineage recorded of earlier ones.

A step is estimated from the makings of steps of its name where there are some, else of its stage, in this store. Each
is scaled by the rows of the inputs, then and now, where both are known.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from zscir.lineage.sql_views import query_store_rows
from zscir.pipeline.plan import PlannedStep
from zscir.runtime.settings import Prices
from zscir.store.artifacts import Artifact
from zscir.store.store import Store

LLM_STAGES = ("ask_llm",)  # the stages that write `responses`
# `shares`: chunks kept from an earlier attempt took no time, so the time of those made is scaled up to all chunks.
# `pieces.%` are the edges from chunks to the whole: they are no inputs.
PAST_STEPS_SQL = """
WITH sizes AS (SELECT key, any_value(rows) AS rows, any_value(bytes) AS bytes FROM artifacts GROUP BY key),
fed AS (
    SELECT child_key AS key, sum(rows) AS rows_in FROM edges JOIN sizes ON sizes.key = parent_key
    WHERE role NOT LIKE 'pieces.%' GROUP BY child_key
),
shares AS (
    SELECT run_id, step, count(*) / greatest(1, count(*) FILTER (outcome = 'made')) AS times FROM pieces
    WHERE outcome IN ('made', 'reused') GROUP BY run_id, step
)
SELECT stage, step, key, rows_in, bytes, wall_s * coalesce(times, 1) AS wall_s
FROM stages LEFT JOIN sizes USING (key) LEFT JOIN fed USING (key) LEFT JOIN shares USING (run_id, step)
WHERE outcome = 'made' AND wall_s IS NOT NULL ORDER BY started_at
"""
TOKENS_SQL = """
SELECT artifact_key AS key, sum(tokens_in) AS tokens_in, sum(tokens_out) AS tokens_out FROM responses GROUP BY ALL
"""


@dataclass(frozen=True)
class Estimate:
    """Of one step: the seconds of wall clock that half, and nine in ten, of its makings took at most; medians else.

    ``times_made`` is the number of makings that it was learned from. ``usd`` is None when no price is set.
    """

    times_made: int
    wall_p50_s: float
    wall_p90_s: float
    bytes: int | None
    tokens_in: int | None
    tokens_out: int | None
    usd: float | None


def estimate_steps(store: Store, plan: Sequence[PlannedStep], prices: Prices) -> dict[str, Estimate]:
    """Step name -> estimate, of the steps to be made whose stage was ever made in this store."""
    to_make = [planned for planned in plan if planned.action == "make"]
    past = query_store_rows(store, PAST_STEPS_SQL) if to_make else []
    # ``responses`` may be large: it is read only where a step to be made costs tokens.
    if any(planned.step.stage.name in LLM_STAGES for planned in to_make):
        tokens = {row["key"]: row for row in query_store_rows(store, TOKENS_SQL)}
        past = [row | tokens.get(row["key"], {}) for row in past]
    found = {}
    for planned in to_make:
        of_stage = [row for row in past if row["stage"] == planned.step.stage.name]
        own = [row for row in of_stage if row["step"] == planned.step.name]
        if of_stage:
            rows = input_row_count(planned.input_artifacts)
            # The step's own past first: two ``train`` steps of one pipeline may differ by hours.
            found[planned.step.name] = _estimate_from_past(own or of_stage, rows, prices)
    return found


def input_row_count(inputs: Iterable[Artifact]) -> int | None:
    """The rows of all inputs that say how many they have; None when none does."""
    known = [rows for artifact in inputs if isinstance(rows := artifact.facts.get("rows"), int)]
    return sum(known) if known else None


def cost_usd(wall_s: float, tokens_in: int | None, tokens_out: int | None, prices: Prices) -> float | None:
    """What so much time and so many tokens cost; None without any price."""
    if not prices.any_known:
        return None
    per_token = (tokens_in or 0) * (prices.usd_per_mtok_in or 0) + (tokens_out or 0) * (prices.usd_per_mtok_out or 0)
    return wall_s / 3600 * (prices.usd_per_hour or 0) + per_token / 1e6


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of the ``values`` lie, on a straight line between neighbours."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def _estimate_from_past(past: list[dict[str, Any]], rows_now: int | None, prices: Prices) -> Estimate:
    def scaled(column: str) -> list[float]:
        return [
            # In proportion to the rows: right for downloads, embeddings, LLM calls; mine_pairs grows with their square.
            row[column] * (rows_now / row["rows_in"] if rows_now and row["rows_in"] else 1)
            for row in past
            if row.get(column) is not None
        ]

    def median(column: str) -> int | None:
        return round(statistics.median(values)) if (values := scaled(column)) else None

    wall = scaled("wall_s")
    p50, tokens = quantile(wall, 0.5), (median("tokens_in"), median("tokens_out"))
    return Estimate(len(past), p50, quantile(wall, 0.9), median("bytes"), *tokens, cost_usd(p50, *tokens, prices))


def estimate_rows(plan: Sequence[PlannedStep], estimates: dict[str, Estimate]) -> list[dict[str, Any]]:
    """One row for each step of the plan: what it is expected to take; nothing for what is reused."""
    return [_row(planned, estimates.get(planned.step.name)) for planned in plan]


def total_row(plan: Sequence[PlannedStep], estimates: dict[str, Estimate]) -> dict[str, Any]:
    """The last row of the plan's table: sums over the steps to be made, and how many of them nothing is known of."""
    known = [estimates[planned.step.name] for planned in plan if planned.step.name in estimates]
    making = sum(planned.action == "make" for planned in plan)
    unknown = sum(planned.action == "make" and planned.step.name not in estimates for planned in plan)
    reason = f"{making} of {len(plan)} to make" + (f", {unknown} of them unknown" if unknown else "")
    usd = [estimate.usd for estimate in known if estimate.usd is not None]
    return {
        "step": "total",
        "action": "",
        "reason": reason,
        "p50_s": sum(estimate.wall_p50_s for estimate in known),
        "p90_s": sum(estimate.wall_p90_s for estimate in known),
        "bytes": sum(estimate.bytes or 0 for estimate in known),
        "tokens_in": sum(estimate.tokens_in or 0 for estimate in known),
        "tokens_out": sum(estimate.tokens_out or 0 for estimate in known),
        "usd": sum(usd) if usd else None,
    }


def _row(planned: PlannedStep, estimate: Estimate | None) -> dict[str, Any]:
    if planned.action != "make":
        return {"p50_s": 0.0, "p90_s": 0.0, "bytes": 0, "tokens_in": 0, "tokens_out": 0, "usd": 0.0}
    if estimate is None:
        return dict.fromkeys(("p50_s", "p90_s", "bytes", "tokens_in", "tokens_out", "usd"), "unknown")
    return {
        "p50_s": round(estimate.wall_p50_s, 3),
        "p90_s": round(estimate.wall_p90_s, 3),
        "bytes": estimate.bytes,
        "tokens_in": estimate.tokens_in,
        "tokens_out": estimate.tokens_out,
        "usd": estimate.usd,
    }
