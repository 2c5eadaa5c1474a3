"""Decide, key by key, why an artifact is kept, or that no run needs it.

Kept is what these used, with everything that it was made from and all files that others share with it:

- of each pipeline (of each partition of it) the last runs that succeeded. A run of a part (``--only``, ``--from``) does
  not count as one of them, and keeps the run that it continued; runs of parts in between are kept with the others;
- runs at work, and runs that stopped not long ago, so that a rerun loses nothing;
- whatever is dated (made, or touched by a run; see ``store/touch.py``) not long ago, or since the first of those runs
  started.

An artifact that was made in chunks keeps its chunks.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from zscir.lineage.run_history import KeyLinks, PastRun, RunHistory, read_run_history
from zscir.runtime.errors import RequestError
from zscir.store.inventory import StoredArtifact, StoredManifest, list_stored_artifacts, read_stored_manifests
from zscir.store.store import Store
from zscir.store.store_clock import store_now
from zscir.store.touch import MIN_GC_AGE

AGE_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
REASON_RUNNING = "runs at work"
REASON_STOPPED = "runs that stopped lately"
REASON_LAST_RUNS = "last runs"
REASON_YOUNG = "young"
REASON_NEEDED = "needed by what is kept"


@dataclass(frozen=True)
class RetentionPolicy:
    """How much is kept: runs of each pipeline, and the age (``14d``, ``36h``) up to which everything is."""

    keep_runs: int = 3
    max_age: timedelta = timedelta(days=14)

    @classmethod
    def parse(cls, keep_runs: int, older_than: str) -> "RetentionPolicy":
        """The policy of the command's options; RequestError says what is allowed."""
        # Five digits: 99,999 weeks ago is still a date that Python can hold, 999,999 weeks ago is not.
        found = re.fullmatch(r"(\d{1,5})([mhdw])", older_than.strip())
        if keep_runs < 0:
            raise RequestError(f"keep runs {keep_runs}: a whole number from 0 up is needed")
        if found is None:
            raise RequestError(f"older than {older_than!r}: give a number and a unit, such as 36h, 14d or 8w")
        age = timedelta(**{AGE_UNITS[found[2]]: int(found[1])})
        if age < MIN_GC_AGE:
            raise RequestError(
                f"older than {older_than}: at least {MIN_GC_AGE.total_seconds() / 3600:g}h is needed, so that a run "
                "that begins meanwhile is safe"
            )
        return cls(keep_runs, age)


@dataclass(frozen=True)
class MarkedStore:
    """A store at one moment (``taken_at``, by its own clock): its artifacts, their dependencies, why each is kept."""

    taken_at: datetime
    cutoff: datetime  # what is dated before it may be removed
    artifacts: list[StoredArtifact]
    manifests: dict[tuple[str, str], StoredManifest]
    dependencies: KeyLinks
    kept: dict[str, str]  # key -> reason
    running: list[str]  # ids of the runs at work
    used_by: dict[str, str]  # key -> the newest run that used it

    def unreferenced(self) -> list[StoredArtifact]:
        """The artifacts that nothing keeps, each before those that it needs."""
        found = [
            stored for stored in self.artifacts if stored.manifest_date is not None and stored.key not in self.kept
        ]
        keys = dependents_first(self.dependencies, {stored.key for stored in found})
        order = {key: place for place, key in enumerate(keys)}
        return sorted(found, key=lambda stored: (order[stored.key], stored.stage))


def mark_store(store: Store, policy: RetentionPolicy) -> MarkedStore:
    """List a whole store. The time is taken first: whatever a run does from then on is dated later than that."""
    taken_at = store_now(store)
    history = read_run_history(store)
    artifacts = list(list_stored_artifacts(store))
    manifests = read_stored_manifests(store, artifacts)
    dependencies = dependency_links(manifests, history)
    kept = keep_reasons(artifacts, history, dependencies, policy, taken_at)
    # The runs are sorted, oldest first: the newest that used a key overwrites the others.
    used_by = {key: run.run_id for run in history.runs for key in history.used.get(run.run_id, ())}
    running = [run.run_id for run in history.runs if run.status == "running"]
    return MarkedStore(taken_at, taken_at - policy.max_age, artifacts, manifests, dependencies, kept, running, used_by)


def dependency_links(manifests: dict[tuple[str, str], StoredManifest], history: RunHistory) -> KeyLinks:
    """Key -> keys without which its artifact is not whole, or could not be made again.

    Where a manifest cannot be read, the inputs are those of the lineage tables.
    """
    needs: KeyLinks = defaultdict(set)
    for (_, key), stored in manifests.items():
        needs[key] |= stored.input_keys if stored.manifest is not None else history.edges.get(key, set())
        needs[key] |= history.chunks.get(key, set())
    return dict(needs)


def keep_reasons(
    artifacts: list[StoredArtifact],
    history: RunHistory,
    dependencies: KeyLinks,
    policy: RetentionPolicy,
    taken_at: datetime,
) -> dict[str, str]:
    """Key -> why it is kept."""
    cutoff = taken_at - policy.max_age
    kept: dict[str, str] = {}
    runs = kept_runs(history.runs, policy, cutoff)
    # A run touches what it will reuse before its first heartbeat: what is dated since shortly before its start counts.
    active = [run for run in history.runs if runs.get(run.run_id) in (REASON_RUNNING, REASON_STOPPED)]
    since = min([cutoff, *(run.first_seen - MIN_GC_AGE for run in active)])
    for run_id, why in runs.items():
        for key in history.used.get(run_id, ()):
            kept.setdefault(key, why)
    for stored in artifacts:
        if stored.manifest_date is not None and stored.manifest_date >= since:
            kept.setdefault(stored.key, REASON_YOUNG)
    for key in dependency_closure(dependencies, list(kept)):
        kept.setdefault(key, REASON_NEEDED)
    return kept


def kept_runs(runs: list[PastRun], policy: RetentionPolicy, cutoff: datetime) -> dict[str, str]:
    """Run -> why the artifacts that it used are kept. ``runs`` are sorted, oldest first."""
    kept: dict[str, str] = {}
    counted: dict[tuple[str, tuple[str, ...]], int] = defaultdict(int)
    for run in reversed(runs):
        group = (run.pipeline, run.partition)
        if run.status == "running":
            kept[run.run_id] = REASON_RUNNING
        elif run.status != "succeeded":
            # Not counted by ``keep_runs``: many failures in a row must not push the last good run out.
            if run.last_seen >= cutoff:
                kept[run.run_id] = REASON_STOPPED
        elif counted[group] < policy.keep_runs:
            kept[run.run_id] = REASON_LAST_RUNS
            # False adds nothing: a run of a part uses up none of ``keep_runs``.
            counted[group] += run.is_complete_run
    return _with_parent_runs(kept, {run.run_id: run for run in runs})


def _with_parent_runs(kept: dict[str, str], runs: dict[str, PastRun]) -> dict[str, str]:
    """A run of a part keeps the run that it continued."""
    found = dict(kept)
    for run_id, why in kept.items():
        run = runs[run_id]
        while not run.is_complete_run and run.parent_run_id in runs and run.parent_run_id not in found:
            run = runs[run.parent_run_id]
            found[run.run_id] = why if why != REASON_RUNNING else REASON_LAST_RUNS
    return found


def dependency_closure(needs: KeyLinks, keys: Iterable[str]) -> list[str]:
    """``keys`` and everything that they need, at any remove."""
    found = dict.fromkeys(keys)
    queue = list(found)
    while queue:
        for key in needs.get(queue.pop(), ()):
            if key not in found:
                found[key] = None
                queue.append(key)
    return list(found)


def dependents_first(needs: KeyLinks, keys: set[str]) -> list[str]:
    """``keys`` in an order in which each comes before those that it needs."""
    # A stack of its own: artifacts may depend on each other in chains longer than Python's recursion limit.
    entered: set[str] = set()
    done: list[str] = []
    for start in sorted(keys):
        stack = [(start, False)]
        while stack:
            key, leaving = stack.pop()
            if leaving:
                done.append(key)
            elif key not in entered:
                entered.add(key)
                stack.append((key, True))
                stack += [(needed, False) for needed in sorted(needs.get(key, set()) & keys)]
    return done[::-1]
