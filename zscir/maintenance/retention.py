"""Retention: what lies in a store and what its runs used become, key by key, a reason to keep it, or none.

Kept is what these used, with everything that it was made from and all files that others lend to it:

- of each pipeline (of each partition of it) the last runs that succeeded. A run of a part (``--only``, ``--from``) does
  not count as one of them, and keeps the run that it went on from; runs of parts in between are kept with the others;
- runs at work, and runs that stopped not long ago, so that a rerun loses nothing;
- whatever is dated (made, or claimed by a run; see ``claims``) not long ago, or since the first of those runs began.

An artifact that was made in pieces keeps its pieces.
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
REASON_YOUNG = "young"
REASON_NEEDED = "needed by what is kept"


@dataclass(frozen=True)
class RetentionPolicy:
    """How much is kept: runs of each pipeline, and the age (``14d``, ``36h``) up to which everything is."""

    keep_runs: int = 3
    older_than: timedelta = timedelta(days=14)

    @classmethod
    def parse(cls, keep_runs: int, older_than: str) -> "RetentionPolicy":
        """The policy of words; RequestError says what is allowed."""
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
    """A store at one moment: ``at`` (by its own clock), what lies there, who needs whom, and why each key is kept."""

    at: datetime
    cutoff: datetime
    heaps: list[StoredArtifact]
    read: dict[tuple[str, str], StoredManifest]
    needs: KeyLinks
    kept: dict[str, str]
    at_work: list[str]  # the runs at work
    used_by: dict[str, str]  # key -> the newest run that used it

    def garbage(self) -> list[StoredArtifact]:
        """The artifacts that nothing keeps, each before those that it needs."""
        left = [one for one in self.heaps if one.dated is not None and one.key not in self.kept]
        order = {key: place for place, key in enumerate(dependents_first(self.needs, {one.key for one in left}))}
        return sorted(left, key=lambda one: (order[one.key], one.stage))


def mark_store(store: Store, policy: RetentionPolicy) -> MarkedStore:
    """Look at all of a store. The time is taken first: whatever a run does from then on is dated later than that."""
    at = store_now(store)
    history = read_run_history(store)
    lying = list(list_stored_artifacts(store))
    read = read_stored_manifests(store, lying)
    needs = dependency_links(read, history)
    kept = keep_reasons(lying, history, needs, policy, at)
    used_by = {key: run.run_id for run in history.runs for key in history.used.get(run.run_id, ())}
    at_work = [run.run_id for run in history.runs if run.status == "running"]
    return MarkedStore(at, at - policy.older_than, lying, read, needs, kept, at_work, used_by)


def dependency_links(read: dict[tuple[str, str], StoredManifest], history: RunHistory) -> KeyLinks:
    """Key -> keys without which its artifact is not whole, or could not be made again; of a manifest that cannot be
    read the lineage knows."""
    needs: KeyLinks = defaultdict(set)
    for (_, key), one in read.items():
        needs[key] |= one.needs if one.manifest is not None else history.edges.get(key, set())
        needs[key] |= history.pieces.get(key, set())
    return dict(needs)


def keep_reasons(
    lying: list[StoredArtifact], history: RunHistory, needs: KeyLinks, policy: RetentionPolicy, at: datetime
) -> dict[str, str]:
    """Key -> why it is kept."""
    cutoff = at - policy.older_than
    kept: dict[str, str] = {}
    runs = kept_runs(history.runs, policy, cutoff)
    since = min(
        [
            cutoff,
            *(
                run.begun - MIN_GC_AGE
                for run in history.runs
                if runs.get(run.run_id) in (REASON_RUNNING, REASON_STOPPED)
            ),
        ]
    )
    for run_id, why in runs.items():
        for key in history.used.get(run_id, ()):
            kept.setdefault(key, why)
    for one in lying:
        if one.dated is not None and one.dated >= since:
            kept.setdefault(one.key, REASON_YOUNG)
    for key in dependency_closure(needs, list(kept)):
        kept.setdefault(key, REASON_NEEDED)
    return kept


REASON_RUNNING = "runs at work"
REASON_STOPPED = "runs that stopped lately"
REASON_LAST_RUNS = "last runs"


def kept_runs(runs: list[PastRun], policy: RetentionPolicy, cutoff: datetime) -> dict[str, str]:
    """Run -> why what it used is kept. ``runs`` are sorted, oldest first."""
    kept: dict[str, str] = {}
    whole: dict[tuple[str, tuple[str, ...]], int] = defaultdict(int)
    for run in reversed(runs):
        line = (run.pipeline, run.partition)
        if run.status == "running":
            kept[run.run_id] = REASON_RUNNING
        elif run.status != "succeeded":
            if run.heard_of >= cutoff:
                kept[run.run_id] = REASON_STOPPED
        elif whole[line] < policy.keep_runs:
            kept[run.run_id] = REASON_LAST_RUNS
            whole[line] += run.whole
    return _with_parent_runs(kept, {run.run_id: run for run in runs})


def _with_parent_runs(kept: dict[str, str], runs: dict[str, PastRun]) -> dict[str, str]:
    """A run of a part stands on the run that it went on from."""
    found = dict(kept)
    for run_id, why in kept.items():
        run = runs[run_id]
        while not run.whole and run.parent_run_id in runs and run.parent_run_id not in found:
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
    begun: set[str] = set()
    done: list[str] = []
    for start in sorted(keys):
        stack = [(start, False)]
        while stack:
            key, left = stack.pop()
            if left:
                done.append(key)
            elif key not in begun:
                begun.add(key)
                stack.append((key, True))
                stack += [(one, False) for one in sorted(needs.get(key, set()) & keys)]
    return done[::-1]
