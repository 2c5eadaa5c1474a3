"""Plan tokens: a short digest of a plan, so that ``zscir run --plan TOKEN`` runs the plan that was printed, or none."""

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
TOKEN_LENGTH = 16  # 64 bits: short enough to type, too long to hit another plan of the store by chance
PENDING_KEY = "pending"
PlanRecord = dict[str, dict[str, Any]]  # by step name


def plan_record(plan: Sequence[PlannedStep]) -> PlanRecord:
    """All that a plan says of each step: action, stage, version, key (or ``pending``), spec and inputs' digests."""
    # Digests, not only keys: an input that was made again and differs is another plan.
    digests = {planned.step.name: planned.artifact.digest for planned in plan if planned.artifact is not None}
    return {
        planned.step.name: {
            "action": planned.action,
            "stage": planned.step.stage.name,
            "version": planned.step.stage.version,
            "key": planned.key or PENDING_KEY,
            "spec": planned.step.spec.literals(),
            "inputs": _inputs(planned.step, digests),
        }
        for planned in plan
    }


def plan_token_of(plan: PlanRecord) -> str:
    """The plan's token: 16 hexadecimal digits of a digest over all of it, whatever the order of its fields."""
    return json_digest(plan)[:TOKEN_LENGTH]


def save_plan(store: Store, plan: Sequence[PlannedStep]) -> str:
    """The token of ``plan``; its record is kept in the store, so that ``check_plan_token`` can say what changed."""
    record = plan_record(plan)
    token = plan_token_of(record)
    with tempfile.TemporaryDirectory(prefix="zscir-plan-") as folder:
        local = Path(folder) / f"{token}.json"
        local.write_text(canonical_json(record), encoding="utf-8")
        store.write_file(local, PLANS_FOLDER, local.name)
    return token


def check_plan_token(store: Store, plan: Sequence[PlannedStep], token: str) -> None:
    """RequestError, which says step by step what has changed, unless ``plan`` is the one of ``token``."""
    new = plan_record(plan)
    if plan_token_of(new) == token:
        return
    # The token comes from a command line: only letters and digits, so that it names no file outside the folder.
    text = store.read_text(PLANS_FOLDER, f"{token}.json") if token.isalnum() else None
    old = _parse_plan_record(text)
    lines = [] if old is None else [f"  {line}" for line in plan_changes(old, new)]
    unknown = "" if old is not None else "; that plan is not in the store, so the differences are unknown"
    message = f"--plan {token}: the plan made now is another one{unknown}"
    raise RequestError("\n".join([message, *lines, "Look at `zscir plan` again; nothing was run."]))


def plan_changes(old: PlanRecord, new: PlanRecord) -> list[str]:
    """One line for each step that is not as it was."""
    removed = [f"{name}: is no step any more" for name in old if name not in new]
    added = [f"{name}: is a new step" for name in new if name not in old]
    both = [(name, _differences(old[name], new[name])) for name in new if name in old]
    return removed + added + [f"{name}: {'; '.join(lines)}" for name, lines in both if lines]


def _differences(was: dict[str, Any], now: dict[str, Any]) -> list[str]:
    found = [
        f"{field} {was[field]} -> {now[field]}" for field in ("action", "stage", "version") if was[field] != now[field]
    ]
    found += [f"spec changed: {line}" for line in field_changes(was["spec"], now["spec"], "")]
    found += [f"input changed: {line}" for line in field_changes(was["inputs"], now["inputs"], "")]
    # Last: the key follows from all above, and by itself explains nothing.
    if not found and was["key"] != now["key"]:
        found = [f"key {was['key'][:12]} -> {now['key'][:12]}"]
    return found


def _inputs(step: Step, digests: dict[str, str]) -> dict[str, list[str]]:
    """Role -> the digest of each artifact, or the name of the step that is to make it."""

    def digest(reference: str) -> str:
        if reference.startswith(FILE_PREFIX):
            return external_input(reference).digest[:12]
        return digests[reference][:12] if reference in digests else f"{PENDING_KEY}: {reference}"

    return {
        role: [digest(reference) for reference in (value if isinstance(value, list) else [value])]
        for role, value in step.inputs.items()
    }


def _parse_plan_record(text: str | None) -> PlanRecord | None:
    try:
        found = None if text is None else json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
