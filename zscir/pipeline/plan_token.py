"""Plan tokens: a plan becomes one word that changes with it, so that only the plan that a person saw is carried out."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zscir.pipeline.pipeline_file import FILE, Step, external
from zscir.pipeline.plan import PlannedStep, field_changes
from zscir.runtime.errors import RequestError
from zscir.runtime.specs import canonical_json, digest_of
from zscir.store.store import Store

PLANS = "plans"
LENGTH = 16
PENDING = "pending"
Remembered = dict[str, dict[str, Any]]  # step name -> what is to become of it


def remembered(plan: Sequence[PlannedStep]) -> Remembered:
    """All that a plan says of each step: action, stage, version, key (or ``pending``), spec and inputs' digests."""
    digests = {one.step.name: one.artifact.digest for one in plan if one.artifact is not None}
    return {
        one.step.name: {
            "action": one.action, "stage": one.step.stage.name, "version": one.step.stage.version,
            "key": one.key or PENDING, "spec": one.step.spec.literals(), "inputs": _inputs(one.step, digests),
        }
        for one in plan
    }  # fmt: skip


def token_of(plan: Remembered) -> str:
    """The plan's token: 16 hexadecimal digits of a digest over all of it, whatever the order of its fields."""
    return digest_of(plan)[:LENGTH]


def remember(store: Store, plan: Sequence[PlannedStep]) -> str:
    """The token of ``plan``, which is kept in the store so that it can be told later what has changed."""
    asked = remembered(plan)
    token = token_of(asked)
    with tempfile.TemporaryDirectory(prefix="zscir-plan-") as folder:
        local = Path(folder) / f"{token}.json"
        local.write_text(canonical_json(asked), encoding="utf-8")
        store.write_file(local, PLANS, local.name)
    return token


def check_token(store: Store, plan: Sequence[PlannedStep], token: str) -> None:
    """RequestError, which says step by step what has changed, unless ``plan`` is the one of ``token``."""
    now = remembered(plan)
    if token_of(now) == token:
        return
    text = store.read_text(PLANS, f"{token}.json") if token.isalnum() else None
    before = _parsed(text)
    lines = [] if before is None else [f"  {line}" for line in changes(before, now)]
    what = "" if before is not None else "; that plan is not in the store, so what differs cannot be said"
    message = f"--plan {token}: the plan made now is another one{what}"
    raise RequestError("\n".join([message, *lines, "Look at `zscir plan` again; nothing was run."]))


def changes(before: Remembered, now: Remembered) -> list[str]:
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
        if reference.startswith(FILE):
            return external(reference).digest[:12]
        return digests[reference][:12] if reference in digests else f"{PENDING}: {reference}"

    return {
        role: [one(reference) for reference in (value if isinstance(value, list) else [value])]
        for role, value in step.inputs.items()
    }


def _parsed(text: str | None) -> Remembered | None:
    try:
        found = None if text is None else json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
