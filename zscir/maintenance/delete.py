"""Delete the artifacts that nothing keeps, one by one, while runs may be at work.

Why no run loses an artifact that it reuses, whenever it starts. The time ``T`` of the listing is taken first, by the
store's clock; only what is dated before ``T`` minus the age (at least ``MIN_GC_AGE``) is removed. A run that reuses an
artifact touches it: then its manifest is dated within ``TOUCH_AFTER`` of that moment (``store/touch.py``).

- A run that started before ``T`` and is at work is known by its heartbeat. All that is dated since it started is kept,
  and so all that it has touched; what it touches later is dated after ``T``. (The moment between the touches of its
  plan and its first heartbeat is covered by the age: they would have to be ``MIN_GC_AGE`` minus ``TOUCH_AFTER`` apart.)
- A run that starts after ``T`` touches after ``T``. Its touch and the removal exclude each other: both hold the key (a
  file lock; on S3 a lease, too), the run to look and to date anew, the removal to look at the date *again* and remove
  the manifest. Who comes second sees what the first did: the run makes the artifact anew, or the removal is dropped.
- To touch an artifact is to touch all that it needs. So dependents go before what they need, and if the removal of one
  is dropped, so is that of all it needs. A run about to make a dependent touches what it needs itself. Shared files may
  lie where there is no manifest any more (``verify --quarantine``): they go last, unless what remains needs them.

The manifest goes first. A kill at any moment leaves at most files without a manifest, which nobody takes for an
artifact and the next gc removes at once (``orphans.py``). Every removal is recorded before it happens
(``lineage/deletions.py``). An endpoint without conditional writes has no leases: there nothing is removed while a run
is at work. One gap is left on S3: a machine that is suspended between its last look at its lease and the one request
that removes the manifest, for longer than the term of the lease. A run that touches the artifact meanwhile fails at a
missing file, and its rerun makes the artifact anew.
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
    """What a gc removed: artifacts and bytes, and how many artifacts it kept because a run took them up meanwhile.

    ``kept_keys`` are the keys of those and of all that they need, artifacts or not.
    """

    id: str
    removed: int
    bytes: int
    kept: int
    kept_keys: frozenset[str] = frozenset()

    @property
    def row(self) -> dict[str, str | int]:
        """What ``zscir gc --json`` prints of it."""
        return {"id": self.id, "removed": self.removed, "bytes": self.bytes, "spared": self.kept}


def delete_unreferenced(store: Store, marks: MarkedStore) -> DeleteResult:
    """Remove the artifacts that nothing keeps, except those touched since; StageError when the store refuses."""
    # Dependents first: when one turns out to be in use, what it needs has not been removed yet.
    unreferenced = marks.unreferenced()
    deletions = DeletionLog(store, "gc")
    for artifact in unreferenced:
        stored = marks.manifests.get((artifact.stage, artifact.key))
        deletions.record_planned(
            artifact.stage,
            artifact.key,
            artifact.size,
            len(artifact.files),
            removal_reason(marks, artifact),
            stored.text if stored else None,
        )
    size, kept = 0, set[str]()
    with deletions.written():
        for artifact in track(unreferenced, len(unreferenced), "gc"):
            if artifact.key in kept or not _delete_one(store, marks, artifact):
                kept.update(dependency_closure(marks.dependencies, [artifact.key]))
                deletions.record_outcome(artifact.stage, artifact.key, SPARED)
            else:
                size += artifact.size
                deletions.record_outcome(artifact.stage, artifact.key, DONE)
    outcomes = Counter(deletions.outcomes())
    return DeleteResult(deletions.id, outcomes[DONE], size, outcomes[SPARED], frozenset(kept))


def removal_reason(marks: MarkedStore, artifact: StoredArtifact) -> str:
    """Why an artifact is removed, as text for its row of the table ``removed``."""
    run_id = marks.used_by.get(artifact.key)
    last = f"last used by run {run_id}" if run_id is not None else "no run lists it"
    return f"of no run that is kept, dated {artifact.manifest_date:%Y-%m-%d}; {last}"


def _delete_one(store: Store, marks: MarkedStore, artifact: StoredArtifact) -> bool:
    """Remove one artifact; False when another process holds its key, or has touched it since."""
    with try_hold_key(store.scratch, store.leases, artifact.stage, artifact.key) as free:
        if not free:
            return False
        lease = _lease(store, marks, artifact)
        # Listed again under the key: since the first listing a run may have dated it anew, or made it again.
        now = list_objects(store, artifact.stage, artifact.key)
        if MANIFEST in now and now[MANIFEST].modified_at >= marks.cutoff:
            return False
        if lease is not None:
            lease.check()
        remove_stored_artifact(store, StoredArtifact(artifact.stage, artifact.key, now))
        return True


def _lease(store: Store, marks: MarkedStore, artifact: StoredArtifact) -> Lease | None:
    lease = store.leases.held(artifact.stage, artifact.key) if store.leases is not None else None
    if lease is None and store.leases is not None and marks.running:
        raise StageError(
            f"store {store.uri}: its endpoint has no conditional writes, so nothing can be removed while runs are at "
            f"work ({', '.join(marks.running[:3])}); do it when they are over"
        )
    return lease


def remove_stored_artifact(store: Store, artifact: StoredArtifact) -> None:
    """Remove all files under a key, its manifest first. The caller must hold the key."""
    folder = store.address(artifact.stage, artifact.key)
    remove_manifest(store, artifact.stage, artifact.key)
    with translate_storage_errors(store.uri):
        if store.remote:
            paths = [f"{folder}/{name}" for name in artifact.files if name != MANIFEST]
            if paths:
                # All at once: s3fs sends up to 1,000 keys per request.
                store.fs.rm(paths)
        elif Path(folder).is_dir():
            shutil.rmtree(folder)


def remove_manifest(store: Store, stage: str, key: str) -> None:
    """Remove the manifest, so that the files under a key are no artifact any more. The caller must hold the key."""
    path = store.address(stage, key, MANIFEST)
    with translate_storage_errors(store.uri):
        if store.remote:
            store.fs.rm_file(path)
        elif Path(path).exists():
            Path(path).unlink()
            # So that a power cut cannot bring the manifest back after the files it names are gone.
            fsync_path(Path(path).parent)
