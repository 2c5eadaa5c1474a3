"""Reclaiming: the artifacts that nothing keeps are taken out of the store, one by one, while runs may be at work.

Why no run loses an artifact that it reuses, whenever it begins. The time ``T`` at which the store is looked at is taken
first, by the store's clock; only what is dated before ``T`` less the age (at least ``SHORTEST``) is removed. A run that
uses an artifact claims it: then it is dated within ``FRESH`` of that moment (``claims``).

- A run that began before ``T`` and is at work is seen by its heartbeat; all that is dated since it began is kept, and
  so all that it has claimed. What it claims later is dated after ``T``. (The moment between its plan's claims and its
  first heartbeat is covered by the age: they would have to be ``SHORTEST`` less ``FRESH`` apart.)
- A run that begins after ``T`` claims after ``T``. Its claim and the removal exclude each other: both hold the key (a
  file lock; on S3 a lease, too), the one to look and to date anew, the other to look at the date *again* and remove
  the manifest. Who comes second sees what the first did: the run makes the artifact anew, or the removal is dropped.
- To claim an artifact is to claim all that it needs: what needs others goes before them, and if its removal is dropped,
  so is theirs. Whoever is about to make something that needs them claims them himself. Files that are lent may lie
  where there is no manifest any more (``verify --quarantine``): they go last, unless what is left needs them.

The manifest goes first. A kill at any moment leaves at most files without a manifest, which nobody takes for an
artifact and the next gc removes at once (``leftovers``). What is removed was written down before (``removals``).
An endpoint that knows no conditional writes has no leases: there nothing is removed while a run is at work. One gap
is left on S3: a machine that falls asleep between its last look at its lease and the one request that removes the
manifest, for longer than the lease's term. A run that claims the artifact meanwhile fails at a missing file, and its
rerun makes the artifact anew.
"""

import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from zscir.lineage.deletions import DONE, SPARED, DeletionLog
from zscir.maintenance.retention import MarkedStore, dependency_closure
from zscir.runtime.errors import StageError
from zscir.runtime.progress import track
from zscir.store.artifacts import MANIFEST, fsync_path
from zscir.store.inventory import StoredArtifact, list_objects
from zscir.store.key_lock import try_hold_key
from zscir.store.leases import Lease
from zscir.store.storage_errors import translate_storage_errors
from zscir.store.store import Store


@dataclass(frozen=True)
class DeleteResult:
    """What a clearing did: how many artifacts and bytes went, and how many were dropped since somebody took them up.

    ``needed`` are the keys of those, and of all that they need, artifacts or not.
    """

    id: str
    removed: int
    bytes: int
    spared: int
    needed: frozenset[str] = frozenset()

    @property
    def row(self) -> dict[str, str | int]:
        """What is told of it."""
        return {"id": self.id, "removed": self.removed, "bytes": self.bytes, "spared": self.spared}


def delete_unreferenced(store: Store, marked: MarkedStore) -> DeleteResult:
    """Remove what nothing keeps, unless it was taken up since; StageError when the store does not let us."""
    garbage = marked.garbage()
    removals = DeletionLog(store, "gc")
    for heap in garbage:
        read = marked.read.get((heap.stage, heap.key))
        removals.plan(
            heap.stage, heap.key, heap.size, len(heap.files), removal_reason(marked, heap), read.text if read else None
        )
    size, spared = 0, set[str]()
    with removals.written():
        for heap in track(garbage, len(garbage), "gc"):
            if heap.key in spared or not _delete_one(store, marked, heap):
                spared.update(dependency_closure(marked.needs, [heap.key]))
                removals.note(heap.stage, heap.key, SPARED)
            else:
                size += heap.size
                removals.note(heap.stage, heap.key, DONE)
    outcomes = Counter(removals.outcomes())
    return DeleteResult(removals.id, outcomes[DONE], size, outcomes[SPARED], frozenset(spared))


def removal_reason(marked: MarkedStore, heap: StoredArtifact) -> str:
    """Why an artifact is garbage, in words for its row."""
    run_id = marked.used_by.get(heap.key)
    last = f"last used by run {run_id}" if run_id is not None else "no run lists it"
    return f"of no run that is kept, dated {heap.dated:%Y-%m-%d}; {last}"


def _delete_one(store: Store, marked: MarkedStore, heap: StoredArtifact) -> bool:
    """Whether the artifact is gone; False when somebody has its key, or has claimed it since."""
    with try_hold_key(store.scratch, store.leases, heap.stage, heap.key) as free:
        if not free:
            return False
        lease = _lease(store, marked, heap)
        now = list_objects(store, heap.stage, heap.key)
        if MANIFEST in now and now[MANIFEST].at >= marked.cutoff:
            return False
        if lease is not None:
            lease.check()
        remove_stored_artifact(store, StoredArtifact(heap.stage, heap.key, now))
        return True


def _lease(store: Store, marked: MarkedStore, heap: StoredArtifact) -> Lease | None:
    lease = store.leases.of(heap.stage, heap.key) if store.leases is not None else None
    if lease is None and store.leases is not None and marked.at_work:
        raise StageError(
            f"store {store.uri}: its endpoint knows no conditional writes, so nothing can be removed while runs are at "
            f"work ({', '.join(marked.at_work[:3])}); do it when they are over"
        )
    return lease


def remove_stored_artifact(store: Store, heap: StoredArtifact) -> None:
    """Remove all that lies under a key, its manifest first; only who holds the key may."""
    folder = store.address(heap.stage, heap.key)
    remove_manifest(store, heap.stage, heap.key)
    with translate_storage_errors(store.uri):
        if store.remote:
            paths = [f"{folder}/{name}" for name in heap.files if name != MANIFEST]
            if paths:
                store.fs.rm(paths)
        elif Path(folder).is_dir():
            shutil.rmtree(folder)


def remove_manifest(store: Store, stage: str, key: str) -> None:
    """Make what lies under a key no artifact any more; only who holds the key may."""
    path = store.address(stage, key, MANIFEST)
    with translate_storage_errors(store.uri):
        if store.remote:
            store.fs.rm_file(path)
        elif Path(path).exists():
            Path(path).unlink()
            fsync_path(Path(path).parent)
