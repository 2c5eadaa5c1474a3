"""Garbage collection: list by stage what a store keeps and what no run needs, and remove the latter."""

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
    """What a gc would remove from a store at one moment: unreferenced artifacts (in ``marks``) and orphans."""

    marks: MarkedStore
    orphans: list[Orphan]


@dataclass(frozen=True)
class GcResult:
    """What was removed: artifacts, and the number and bytes of the orphans."""

    deleted: DeleteResult
    orphans: int
    orphan_bytes: int


def plan_gc(store: Store, policy: RetentionPolicy) -> GcPlan:
    """List what a gc would remove; nothing is changed."""
    marks = mark_store(store, policy)
    return GcPlan(marks, find_orphans(store, marks))


def run_gc(store: Store, plan: GcPlan) -> GcResult:
    """Remove what ``plan`` lists, except what a run has begun to use since."""
    # Dead leases go first: a lease in the way would keep its artifact.
    removed = [orphan for orphan in plan.orphans if orphan.kind == LEASE_KIND and orphan.remove()]
    deleted = delete_unreferenced(store, plan.marks)
    # After the artifacts, since files without a manifest may be shared by one that turned out to be in use.
    others = [orphan for orphan in plan.orphans if orphan.kind != LEASE_KIND and orphan.key not in deleted.kept_keys]
    removed += [orphan for orphan in others if orphan.remove()]
    return GcResult(deleted, len(removed), sum(orphan.bytes for orphan in removed))


def gc_table(plan: GcPlan) -> list[Row]:
    """A row for each stage and each kind of orphans: what is kept, what is reclaimable, why; the last is the total."""
    rows = [*_stage_rows(plan.marks), *_orphan_rows(plan.orphans)]
    total = {
        name: sum(row[name] for row in rows) for name in ("kept", "kept_bytes", "reclaimable", "reclaimable_bytes")
    }
    return [*rows, {"stage": "total", **total, "why": ""}]


def _row(stage: str) -> Row:
    return {"stage": stage, "kept": 0, "kept_bytes": 0, "reclaimable": 0, "reclaimable_bytes": 0, "why": ""}


def _stage_rows(marks: MarkedStore) -> list[Row]:
    rows: dict[str, Row] = {}
    reasons: dict[str, Counter[str]] = defaultdict(Counter)
    for artifact in [stored for stored in marks.artifacts if stored.manifest_date is not None]:
        row = rows.setdefault(artifact.stage, _row(artifact.stage))
        reason = marks.kept.get(artifact.key)
        kind = "reclaimable" if reason is None else "kept"
        row[kind] += 1
        row[f"{kind}_bytes"] += artifact.size
        reasons[artifact.stage][reason or UNREFERENCED] += 1
    for stage, row in rows.items():
        row["why"] = ", ".join(f"{count} {reason}" for reason, count in reasons[stage].most_common())
    return [rows[stage] for stage in sorted(rows)]


def _orphan_rows(orphans: Sequence[Orphan]) -> list[Row]:
    rows: dict[str, Row] = {}
    for orphan in orphans:
        row = rows.setdefault(orphan.kind, _row(f"({orphan.kind})"))
        row["reclaimable"] += 1
        row["reclaimable_bytes"] += orphan.bytes
        row["why"] = "left by processes that are gone"
    return list(rows.values())


def gc_summary(rows: Sequence[Row], result: GcResult | None, command: str) -> list[str]:
    """What was removed, in lines; after a dry run (``result`` None) what would be, and the ``command`` for it."""
    if result is not None:
        deleted = result.deleted
        orphans = f"{result.orphans:,} leftovers ({result.orphan_bytes:,} bytes)"
        lines = [f"removed: {deleted.removed:,} artifacts ({deleted.bytes:,} bytes), {orphans}"]
        lines += [f"kept after all: {deleted.kept:,} artifacts that a run took up meanwhile"] if deleted.kept else []
        lines += [f"the table `removed` of `zscir sql` lists them as {deleted.id}"] if deleted.removed else []
        return lines
    if not rows[-1]["reclaimable"]:
        return ["nothing to remove"]
    return [f"dry run, nothing was removed; {rows[-1]['reclaimable_bytes']:,} bytes go with:", f"  {command}"]


def format_gc_log(rows: Sequence[Row], result: GcResult | None) -> str:
    """The table and the summary, as lines of a flow run's log."""
    lines = [f"{row['stage']}: {row['reclaimable_bytes']:,} bytes reclaimable: {row['why']}" for row in rows[:-1]]
    return "\n".join([*lines, *gc_summary(rows, result, "the same flow run with delete = true")])
