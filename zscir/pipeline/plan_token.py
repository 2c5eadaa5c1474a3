"""Plan tokens: a plan becomes one word that changes with it, so that only the plan that a person saw is carried out."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zscir.pipeline.input_references import FILE_PREFIX, external_input
from zscir.pipeline.pipeline_file import Step
from zscir.pipeline.plan import PlannedStep, field_changes
from zscir.runtime.errors import RequestError
from zscir.runtime.specs import canonical_json, json_digest
from zscir.store.store import Store

PLANS_FOLDER = "plans"
TOKEN_LENGTH = 16
PENDING_KEY = "pending"
PlanRecord = dict[str, dict[str, Any]]  # step name -> what is to become of it


def plan_record(plan: Sequence[PlannedStep]) -> PlanRecord:
    """All that a plan says of each step: action, stage, version, key (or ``pending``), spec and inputs' digests."""
    digests = {one.step.name: one.artifact.digest for one in plan if one.artifact is not None}
    return {
        one.step.name: {
            "action": one.action,
            "stage": one.step.stage.name,
            "version": one.step.stage.version,
            "key": one.key or PENDING_KEY,
            "spec": one.step.spec.literals(),
            "inputs": _inputs(one.step, digests),
        }
        for one in plan
    }


def plan_token_of(plan: PlanRecord) -> str:
    """The plan's token: 16 hexadecimal digits of a digest over all of it, whatever the order of its fields."""
    return json_digest(plan)[:TOKEN_LENGTH]


def save_plan(store: Store, plan: Sequence[PlannedStep]) -> str:
    """The token of ``plan``, which is kept in the store so that it can be told later what has changed."""
    asked = plan_record(plan)
    token = plan_token_of(asked)
    with tempfile.TemporaryDirectory(prefix="zscir-plan-") as folder:
        local = Path(folder) / f"{token}.json"
        local.write_text(canonical_json(asked), encoding="utf-8")
        store.write_file(local, PLANS_FOLDER, local.name)
    return token


def check_plan_token(store: Store, plan: Sequence[PlannedStep], token: str) -> None:
    """RequestError, which says step by step what has changed, unless ``plan`` is the one of ``token``."""
    now = plan_record(plan)
    if plan_token_of(now) == token:
        return
    text = store.read_text(PLANS_FOLDER, f"{token}.json") if token.isalnum() else None
    before = _parse_plan_record(text)
    lines = [] if before is None else [f"  {line}" for line in plan_changes(before, now)]
    what = "" if before is not None else "; that plan is not in the store, so what differs cannot be said"
    message = f"--plan {token}: the plan made now is another one{what}"
    raise RequestError("\n".join([message, *lines, "Look at `zscir plan` again; nothing was run."]))


def plan_changes(before: PlanRecord, now: PlanRecord) -> list[str]:
    """One line for each step that is not as it was."""
    gone = [f"{name}: is no step any more" for name in before if name not in now]
    new = [f"{name}: is a new step" for name in now if name not in before]
    both = [(name, _differences(before[name], now[name])) for name in now if name in before]
    return gone + new + [f"{name}: {'; '.join(lines)}" for name, lines in both if lines]


def _differences(was: dict[str, Any], now: dict[str, Any]) -> list[str]:
    found = [
        f"{field} {was[field]} -> {now[field]}" for field in ("action", "stage", "version") if was[field] != now[field]
    ]
    found += [f"spec changed: {line}" for line in field_changes(was["spec"], now["spec"], "")]
    found += [f"input changed: {line}" for line in field_changes(was["inputs"], now["inputs"], "")]
    if not found and was["key"] != now["key"]:
        found = [f"key {was['key'][:12]} -> {now['key'][:12]}"]
    return found


def _inputs(step: Step, digests: dict[str, str]) -> dict[str, list[str]]:
    """Role -> the digest of each artifact, or the name of the step that is to make it."""

    def one(reference: str) -> str:
        if reference.startswith(FILE_PREFIX):
            return external_input(reference).digest[:12]
        return digests[reference][:12] if reference in digests else f"{PENDING_KEY}: {reference}"

    return {
        role: [one(reference) for reference in (value if isinstance(value, list) else [value])]
        for role, value in step.inputs.items()
    }


def _parse_plan_record(text: str | None) -> PlanRecord | None:
    try:
        found = None if text is None else json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
