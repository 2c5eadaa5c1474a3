"""Leftovers: what killed processes left in a store and on this machine becomes a list of things that may go, and goes.

- Under a key: files without a manifest (an upload or a removal that was cut off, what ``verify --quarantine`` closed).
- Work folders and trash of this machine, unless a process holds their lock.
- On S3: leases that nobody renews, parts of uploads that were never put together.
- Copies on this machine of artifacts that the store does not have any more.

All of it must be older than what the policy says. A lease is removed by a conditional write: who renews it keeps it.
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
DEAD_LEASE_TERMS = 10  # of a lease, without a sign of life
_TRASH = re.compile(r"\.trash-([0-9a-f]{64})-\d+")


@dataclass(frozen=True)
class Orphan:
    """One thing that may go: of which kind, its name and bytes, and how; ``remove_object`` says whether it went.

    ``key`` is that of the files which others may need, since they were lent.
    """

    kind: str
    name: str
    bytes: int
    remove: Callable[[], bool]
    key: str = ""


def find_orphans(store: Store, marked: MarkedStore) -> list[Orphan]:
    """Everything of the kinds above that is old enough."""
    found = [*_without_manifest(store, marked), *_work_folders(store, marked)]
    if store.remote:
        found += [*_dead_leases(store, marked), *_unfinished_uploads(store, marked), *_stale_copies(store, marked)]
    return found


def _without_manifest(store: Store, marked: MarkedStore) -> Iterator[Orphan]:
    """But for what is kept: a whole that is kept reads the files that are lent to it, whether or not their own artifact
    is closed."""
    for heap in marked.heaps:
        if heap.dated is None and heap.newest < marked.cutoff and heap.key not in marked.kept:
            name, remove = f"{heap.stage}/{heap.key}", partial(_remove_unclosed, store, marked, heap)
            yield Orphan("files without a manifest", name, heap.size, remove, heap.key)


def _remove_unclosed(store: Store, marked: MarkedStore, heap: StoredArtifact) -> bool:
    with try_hold_key(store.scratch, store.leases, heap.stage, heap.key) as free:
        now = StoredArtifact(heap.stage, heap.key, list_objects(store, heap.stage, heap.key)) if free else heap
        if not free or MANIFEST in now.files or now.newest >= marked.cutoff:
            return False
        remove_stored_artifact(store, now)
        return True


def _work_folders(store: Store, marked: MarkedStore) -> Iterator[Orphan]:
    """Work folders ``STAGE/KEY`` and trash ``.trash-KEY-PID``; the clock is that of the disk on which they lie."""
    if not store.scratch.is_dir():
        return
    with translate_storage_errors(str(store.scratch)):
        before = disk_now(store.scratch) - (marked.at - marked.cutoff)
        for folder in sorted(store.scratch.glob("[!.]*/*/")):
            size, newest = _folder_size(folder)
            if newest < before:
                name = f"{folder.parent.name}/{folder.name}"
                yield Orphan("work folders", name, size, partial(_remove_work, folder, before))
        for folder in sorted(store.scratch.glob(".trash-*/")):
            size, _ = _folder_size(folder)
            if _TRASH.fullmatch(folder.name):
                yield Orphan("work folders", folder.name, size, partial(_remove_trash, store.scratch, folder))


def _folder_size(folder: Path) -> tuple[int, datetime]:
    """Bytes below a folder, and the date of what changed last there; a date to come where something changes now."""
    size, newest = 0, 0.0
    try:
        for path in itertools.chain([folder], folder.rglob("*")):
            seen = path.lstat()
            size += seen.st_size if not path.is_dir() else 0
            newest = max(newest, seen.st_mtime)
    except (FileNotFoundError, NotADirectoryError):  # it was listed and is gone: its process is at work
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
    """Trash is swept by whoever holds its key, and its name does not say of which stage: all locks of that key."""
    key = folder.name.split("-")[1]
    with ExitStack() as stack, translate_storage_errors(str(folder)):
        locks = [stack.enter_context(try_file_lock(path.with_suffix(""))) for path in scratch.glob(f"*/{key}.lock")]
        if None in locks or not folder.is_dir():
            return False
        shutil.rmtree(folder)
        return True


def _dead_leases(store: Store, marked: MarkedStore) -> Iterator[Orphan]:
    for name, one in list_objects(store, LEASE_FOLDER).items():
        path = store.address(LEASE_FOLDER, name)
        with translate_storage_errors(store.uri):
            seen = read_object(store.fs, path)
        if seen is not None and one.at < min(
            marked.cutoff, marked.at - timedelta(seconds=DEAD_LEASE_TERMS * lease_term_s(seen))
        ):
            yield Orphan(LEASE_KIND, name, one.size, partial(_remove_lease, store, path, seen.etag))


def _remove_lease(store: Store, path: str, etag: str) -> bool:
    with translate_storage_errors(store.uri), suppress(PreconditionFailed):
        remove_object(store.fs, path, etag)
        return True
    return False


def _unfinished_uploads(store: Store, marked: MarkedStore) -> Iterator[Orphan]:
    """Uploads in parts that were begun and not ended; they cost money, and no listing of objects shows them."""
    bucket, _, prefix = store.root.partition("/")
    try:
        with translate_storage_errors(store.uri):
            answer = store.fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=f"{prefix}/" if prefix else "")
    except TransientError:
        raise
    except StageError as error:  # an endpoint, or a permission, that does not know them
        log_warning(f"uploads in parts cannot be listed, and are left: {error}")
        return
    for one in answer.get("Uploads") or []:
        if one["Initiated"] < marked.cutoff:
            what = {"Bucket": bucket, "Key": one["Key"], "UploadId": one["UploadId"]}
            with translate_storage_errors(store.uri):
                parts = store.fs.call_s3("list_parts", **what).get("Parts") or []
            size = sum(part["Size"] for part in parts)
            name = one["Key"].removeprefix(prefix).lstrip("/")
            yield Orphan("parts of uploads", name, size, partial(_abort_upload, store, name, what))


def _abort_upload(store: Store, name: str, what: dict[str, str]) -> bool:
    """An upload that is slow, and not dead, has its key held."""
    stage, key, *_ = [*name.split("/"), "", ""]
    with try_hold_key(store.scratch, store.leases, stage, key) as free:
        if free:
            with translate_storage_errors(store.uri):
                store.fs.call_s3("abort_multipart_upload", **what)
        return free


def _stale_copies(store: Store, marked: MarkedStore) -> Iterator[Orphan]:
    """Copies ``STAGE/KEY`` of artifacts that are gone, or about to go."""
    if not store.local_copies.is_dir():
        return
    with translate_storage_errors(str(store.local_copies)):
        before = disk_now(store.local_copies) - (marked.at - marked.cutoff)
        there = {(one.stage, one.key) for one in marked.heaps if one.key in marked.kept}
        for folder in sorted(store.local_copies.glob("*/*/")):
            size, newest = _folder_size(folder)
            if (folder.parent.name, folder.name) not in there and newest < before:
                name = f"{folder.parent.name}/{folder.name}"
                yield Orphan("copies on this machine", name, size, partial(_remove_copy, store, folder), folder.name)


def _remove_copy(store: Store, folder: Path) -> bool:
    if store.read_text(folder.parent.name, folder.name, MANIFEST) is not None:
        return False
    with translate_storage_errors(str(folder)):
        shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()
