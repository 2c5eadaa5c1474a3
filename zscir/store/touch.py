"""Refresh an artifact's date before a run reuses it, so that a concurrent gc keeps it.

An artifact's date is that of its manifest, by the store's own clock. A run counts on an artifact dated
within ``TOUCH_AFTER``; an older one it dates anew, while it holds the key. So whatever a run uses is dated
no earlier than its start minus ``TOUCH_AFTER``, without a list of what it uses. ``maintenance.delete`` relies on it.
"""

import os
import time
from datetime import timedelta

from zscir.runtime.progress import log_warning
from zscir.store.artifacts import MANIFEST, Artifact
from zscir.store.conditional_writes import ConditionsUnsupported, PreconditionFailed, read_object, write_object
from zscir.store.key_lock import hold_key
from zscir.store.storage_errors import translate_storage_errors
from zscir.store.store import Store
from zscir.store.store_clock import file_time_and_now

# On S3 a touch is a write under a lease: at most one per artifact in a quarter of an hour.
TOUCH_AFTER = timedelta(minutes=15)
# No gc may use a shorter age: TOUCH_AFTER, and clocks that differ by three quarters of an hour.
MIN_GC_AGE = timedelta(hours=1)


def touch_artifact(store: Store, artifact: Artifact) -> bool:
    """Keep an artifact for this run; False when it is gone, or another one has replaced it."""
    stage, key = artifact.stage, artifact.key
    age = _manifest_age(store, stage, key)
    # A date in the future may come from a clock that was set back; how long it protects is unknown.
    if age is not None and timedelta(0) <= age < TOUCH_AFTER:
        return True
    with hold_key(store.scratch, store.leases, stage, key):
        found = store.lookup(stage, key).artifact
        return found is not None and found.digest == artifact.digest and _rewrite_manifest(store, stage, key)


def _manifest_age(store: Store, stage: str, key: str) -> timedelta | None:
    if store.remote:
        times = file_time_and_now(store, stage, key, MANIFEST)
        return None if times is None else times[1] - times[0]
    try:
        # This machine's clock against the disk's: MIN_GC_AGE has room for the difference, and no probe file is written.
        return timedelta(seconds=time.time() - os.stat(store.address(stage, key, MANIFEST)).st_mtime)
    except OSError:
        return None


def _rewrite_manifest(store: Store, stage: str, key: str) -> bool:
    """Rewrite the manifest with the same bytes and a new date. The caller must hold the key."""
    path = store.address(stage, key, MANIFEST)
    with translate_storage_errors(store.uri):
        if not store.remote:
            return _touch_file(path)
        lease = store.leases.held(stage, key) if store.leases is not None else None
        if lease is not None:
            lease.check()
        current = read_object(store.fs, path)
        if current is None:
            return False
        try:
            # S3 has no touch: only a write changes a date, and a copy of an object onto itself is refused.
            write_object(store.fs, path, current.text.encode(), current.etag)
        except PreconditionFailed:
            return False
        except ConditionsUnsupported:
            store.fs.pipe_file(path, current.text.encode())
        return True


def _touch_file(path: str) -> bool:
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    except PermissionError:  # another user's file on a shared disk; the artifact is still whole
        log_warning(f"{path}: no permission to date it anew, so a gc may take it away while this run needs it")
    return True
