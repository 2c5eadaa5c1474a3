"""Find and remove what killed processes left in a store and on this machine.

- Under a key: files without a manifest (an interrupted upload or removal, or what ``verify --quarantine`` left).
- Work folders and trash of this machine, unless a process holds their lock.
- On S3: leases that nobody renews, parts of uploads that were never completed.
- Copies on this machine of artifacts that the store does not have any more.

All of it must be older than the policy says. A lease is removed by a conditional write: a process that renews it keeps
it.
"""

import itertools
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from zscir.maintenance.delete import remove_stored_artifact
from zscir.maintenance.retention import MarkedStore
from zscir.runtime.errors import StageError, TransientError
from zscir.runtime.progress import log_warning
from zscir.store.artifacts import MANIFEST
from zscir.store.conditional_writes import PreconditionFailed, read_object, remove_object
from zscir.store.file_locks import try_file_lock
from zscir.store.inventory import StoredArtifact, list_objects
from zscir.store.key_lock import try_hold_key
from zscir.store.leases import LEASE_FOLDER, lease_term_s
from zscir.store.storage_errors import translate_storage_errors
from zscir.store.store import Store
from zscir.store.store_clock import disk_now

LEASE_KIND = "leases"
DEAD_LEASE_TERMS = 10  # a lease that was not renewed for so many of its terms is dead
_TRASH = re.compile(r"\.trash-([0-9a-f]{64})-\d+")


@dataclass(frozen=True)
class Orphan:
    """One removable thing: its kind, name and bytes; ``remove`` removes it and returns whether it did.

    ``key`` is that of files which other artifacts may need, since they share them.
    """

    kind: str
    name: str
    bytes: int
    remove: Callable[[], bool]
    key: str = ""


def find_orphans(store: Store, marks: MarkedStore) -> list[Orphan]:
    """Everything of the kinds above that is old enough."""
    found = [*_without_manifest(store, marks), *_work_folders(store, marks)]
    if store.remote:
        found += [*_dead_leases(store, marks), *_unfinished_uploads(store, marks), *_stale_copies(store, marks)]
    return found


def _without_manifest(store: Store, marks: MarkedStore) -> Iterator[Orphan]:
    """Files without a manifest, except those that a kept artifact shares."""
    for artifact in marks.artifacts:
        if artifact.manifest_date is None and artifact.newest < marks.cutoff and artifact.key not in marks.kept:
            name, remove = f"{artifact.stage}/{artifact.key}", partial(_remove_without_manifest, store, marks, artifact)
            yield Orphan("files without a manifest", name, artifact.size, remove, artifact.key)


def _remove_without_manifest(store: Store, marks: MarkedStore, artifact: StoredArtifact) -> bool:
    with try_hold_key(store.scratch, store.leases, artifact.stage, artifact.key) as free:
        now = (
            StoredArtifact(artifact.stage, artifact.key, list_objects(store, artifact.stage, artifact.key))
            if free
            else artifact
        )
        if not free or MANIFEST in now.files or now.newest >= marks.cutoff:
            return False
        remove_stored_artifact(store, now)
        return True


def _work_folders(store: Store, marks: MarkedStore) -> Iterator[Orphan]:
    """Work folders ``STAGE/KEY`` and trash ``.trash-KEY-PID``; the clock is that of the disk on which they lie."""
    if not store.scratch.is_dir():
        return
    with translate_storage_errors(str(store.scratch)):
        # On S3 the scratch folder is on this machine: the same age, counted back from this disk's time.
        before = disk_now(store.scratch) - (marks.taken_at - marks.cutoff)
        # The slash at the end makes pathlib (3.11 and later) leave out the lock files between the folders.
        for folder in sorted(store.scratch.glob("[!.]*/*/")):
            size, newest = _folder_size(folder)
            if newest < before:
                name = f"{folder.parent.name}/{folder.name}"
                yield Orphan("work folders", name, size, partial(_remove_work, folder, before))
        for folder in sorted(store.scratch.glob(".trash-*/")):
            size, _ = _folder_size(folder)
            # Of any age: a commit moves something there to remove it at once, and holds its lock meanwhile.
            if _TRASH.fullmatch(folder.name):
                yield Orphan("work folders", folder.name, size, partial(_remove_trash, store.scratch, folder))


def _folder_size(folder: Path) -> tuple[int, datetime]:
    """Bytes below a folder, and the date of its last change; ``datetime.max`` where something changes just now."""
    size, newest = 0, 0.0
    try:
        for path in itertools.chain([folder], folder.rglob("*")):
            stat = path.lstat()
            size += stat.st_size if not path.is_dir() else 0
            newest = max(newest, stat.st_mtime)
    except (FileNotFoundError, NotADirectoryError):  # listed a moment ago and gone now: its process is at work
        return size, datetime.max.replace(tzinfo=UTC)
    return size, datetime.fromtimestamp(newest, UTC)


def _remove_work(folder: Path, before: datetime) -> bool:
    with try_file_lock(folder) as lock, translate_storage_errors(str(folder)):
        if lock is None or not folder.is_dir() or _folder_size(folder)[1] >= before:
            return False
        Path(f"{folder}.holder").unlink(missing_ok=True)
        shutil.rmtree(folder)
        return True


def _remove_trash(scratch: Path, folder: Path) -> bool:
    """Trash belongs to whoever holds its key, but its name does not say of which stage: take all locks of that key."""
    key = folder.name.split("-")[1]
    with ExitStack() as stack, translate_storage_errors(str(folder)):
        locks = [stack.enter_context(try_file_lock(path.with_suffix(""))) for path in scratch.glob(f"*/{key}.lock")]
        if None in locks or not folder.is_dir():
            return False
        shutil.rmtree(folder)
        return True


def _dead_leases(store: Store, marks: MarkedStore) -> Iterator[Orphan]:
    for name, stat in list_objects(store, LEASE_FOLDER).items():
        path = store.address(LEASE_FOLDER, name)
        with translate_storage_errors(store.uri):
            lease = read_object(store.fs, path)
        # The age alone is not enough where ZSCIR_LEASE_S is long: a holder may be silent for most of a term.
        if lease is not None and stat.modified_at < min(
            marks.cutoff, marks.taken_at - timedelta(seconds=DEAD_LEASE_TERMS * lease_term_s(lease))
        ):
            yield Orphan(LEASE_KIND, name, stat.size, partial(_remove_lease, store, path, lease.etag))


def _remove_lease(store: Store, path: str, etag: str) -> bool:
    with translate_storage_errors(store.uri), suppress(PreconditionFailed):
        remove_object(store.fs, path, etag)
        return True
    return False


def _unfinished_uploads(store: Store, marks: MarkedStore) -> Iterator[Orphan]:
    """Uploads in parts that were never completed; they cost money, and no listing of objects shows them."""
    bucket, _, prefix = store.root.partition("/")
    try:
        with translate_storage_errors(store.uri):
            answer = store.fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=f"{prefix}/" if prefix else "")
    # A subclass of StageError: a store that is away must not pass for one that cannot list uploads.
    except TransientError:
        raise
    except StageError as error:  # an endpoint, or a permission, that does not know them
        log_warning(f"uploads in parts cannot be listed, and are left: {error}")
        return
    # One answer lists up to 1,000 of them; the next gc gets the rest.
    for upload in answer.get("Uploads") or []:
        if upload["Initiated"] < marks.cutoff:
            what = {"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
            with translate_storage_errors(store.uri):
                parts = store.fs.call_s3("list_parts", **what).get("Parts") or []
            size = sum(part["Size"] for part in parts)
            name = upload["Key"].removeprefix(prefix).lstrip("/")
            yield Orphan("parts of uploads", name, size, partial(_abort_upload, store, name, what))


def _abort_upload(store: Store, name: str, what: dict[str, str]) -> bool:
    """Abort an upload unless its key is held: then it is slow, not dead."""
    stage, key, *_ = [*name.split("/"), "", ""]
    with try_hold_key(store.scratch, store.leases, stage, key) as free:
        if free:
            with translate_storage_errors(store.uri):
                store.fs.call_s3("abort_multipart_upload", **what)
        return free


def _stale_copies(store: Store, marks: MarkedStore) -> Iterator[Orphan]:
    """Copies ``STAGE/KEY`` of artifacts that are removed, or about to be."""
    if not store.local_copies.is_dir():
        return
    with translate_storage_errors(str(store.local_copies)):
        before = disk_now(store.local_copies) - (marks.taken_at - marks.cutoff)
        kept = {(stored.stage, stored.key) for stored in marks.artifacts if stored.key in marks.kept}
        for folder in sorted(store.local_copies.glob("*/*/")):
            size, newest = _folder_size(folder)
            if (folder.parent.name, folder.name) not in kept and newest < before:
                name = f"{folder.parent.name}/{folder.name}"
                yield Orphan("copies on this machine", name, size, partial(_remove_copy, store, folder), folder.name)


def _remove_copy(store: Store, folder: Path) -> bool:
    # Looked up again: a run may have made the artifact since the listing, and be reading this copy.
    if store.read_text(folder.parent.name, folder.name, MANIFEST) is not None:
        return False
    with translate_storage_errors(str(folder)):
        shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()
