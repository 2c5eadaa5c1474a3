"""Clearing: what a store keeps, and what it could do without, becomes a table by stage; and what may go, goes."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from zscir.maintenance.delete import DeleteResult, delete_unreferenced
from zscir.maintenance.orphans import LEASE_KIND, Orphan, find_orphans
from zscir.maintenance.retention import MarkedStore, RetentionPolicy, mark_store
from zscir.store.store import Store

UNREFERENCED = "of no run that is kept"
Row = dict[str, Any]


@dataclass(frozen=True)
class GcPlan:
    """A store at one moment, and what may go: artifacts (in ``marked``) and other leftovers."""

    marked: MarkedStore
    left: list[Orphan]


@dataclass(frozen=True)
class GcResult:
    """What went: of the artifacts, and of the leftovers how many and how many bytes."""

    swept: DeleteResult
    left: int
    left_bytes: int


def plan_gc(store: Store, policy: RetentionPolicy) -> GcPlan:
    """Look at all of a store; nothing is changed."""
    marked = mark_store(store, policy)
    return GcPlan(marked, find_orphans(store, marked))


def run_gc(store: Store, seen: GcPlan) -> GcResult:
    """Remove what may go, unless somebody took it up since the look."""
    gone = [
        one for one in seen.left if one.kind == LEASE_KIND and one.remove()
    ]  # first: a dead lease keeps its artifact
    swept = delete_unreferenced(store, seen.marked)
    free = [one for one in seen.left if one.kind != LEASE_KIND and one.key not in swept.needed]
    gone += [one for one in free if one.remove()]
    return GcResult(swept, len(gone), sum(one.bytes for one in gone))


def gc_table(seen: GcPlan) -> list[Row]:
    """A row for each stage and each kind of leftovers: what is kept, what may go, why; the last row is the total."""
    rows = [*_stage_rows(seen.marked), *_orphan_rows(seen.left)]
    total = {
        name: sum(row[name] for row in rows) for name in ("kept", "kept_bytes", "reclaimable", "reclaimable_bytes")
    }
    return [*rows, {"stage": "total", **total, "why": ""}]


def _row(stage: str) -> Row:
    return {"stage": stage, "kept": 0, "kept_bytes": 0, "reclaimable": 0, "reclaimable_bytes": 0, "why": ""}


def _stage_rows(marked: MarkedStore) -> list[Row]:
    rows: dict[str, Row] = {}
    reasons: dict[str, Counter[str]] = defaultdict(Counter)
    for heap in [one for one in marked.heaps if one.dated is not None]:
        row = rows.setdefault(heap.stage, _row(heap.stage))
        reason = marked.kept.get(heap.key)
        kind = "reclaimable" if reason is None else "kept"
        row[kind] += 1
        row[f"{kind}_bytes"] += heap.size
        reasons[heap.stage][reason or UNREFERENCED] += 1
    for stage, row in rows.items():
        row["why"] = ", ".join(f"{count} {reason}" for reason, count in reasons[stage].most_common())
    return [rows[stage] for stage in sorted(rows)]


def _orphan_rows(left: Sequence[Orphan]) -> list[Row]:
    rows: dict[str, Row] = {}
    for one in left:
        row = rows.setdefault(one.kind, _row(f"({one.kind})"))
        row["reclaimable"] += 1
        row["reclaimable_bytes"] += one.bytes
        row["why"] = "left by processes that are gone"
    return list(rows.values())


def gc_summary(rows: Sequence[Row], done: GcResult | None, again: str) -> list[str]:
    """What was done, in lines; or, where nothing was, the command ``again`` that would do it."""
    if done is not None:
        swept = done.swept
        left = f"{done.left:,} leftovers ({done.left_bytes:,} bytes)"
        lines = [f"removed: {swept.removed:,} artifacts ({swept.bytes:,} bytes), {left}"]
        lines += [f"kept after all: {swept.spared:,} artifacts that somebody took up meanwhile"] if swept.spared else []
        return [*lines, *([f"the table `removed` of `zscir sql` lists them as {swept.id}"] if swept.removed else [])]
    may_go = rows[-1]["reclaimable"]
    if not may_go:
        return ["nothing to remove"]
    return [f"dry run, nothing was removed; {rows[-1]['reclaimable_bytes']:,} bytes go with:", f"  {again}"]


def format_gc_log(rows: Sequence[Row], done: GcResult | None) -> str:
    """The table and what was done, as lines of a flow run's log."""
    lines = [f"{row['stage']}: {row['reclaimable_bytes']:,} bytes may go: {row['why']}" for row in rows[:-1]]
    return "\n".join([*lines, *gc_summary(rows, done, "the same flow run with delete = true")])
