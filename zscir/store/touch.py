"""Claims: an artifact that a run is about to reuse becomes one that no gc takes away while the run may need it.

An artifact's date is that of its manifest, by the store's own clock. A run may count on what is dated within ``FRESH``;
anything older it dates anew, while it holds the artifact's key. So whatever a run uses is dated no earlier than its
beginning less ``FRESH``, without a list of what it uses. What a gc makes of that stands in ``reclaiming``.
"""

import os
import time
from datetime import timedelta

from zscir.runtime.progress import warn
from zscir.store.artifacts import MANIFEST, Artifact
from zscir.store.conditional_writes import Changed, NoConditions, read, write
from zscir.store.key_lock import held
from zscir.store.storage_errors import problems
from zscir.store.store import Store
from zscir.store.store_clock import times_of

FRESH = timedelta(minutes=15)
SHORTEST = timedelta(hours=1)  # no gc may be asked for less: FRESH, and clocks that differ by three quarters of an hour


def claim(store: Store, artifact: Artifact) -> bool:
    """Whether the artifact is there for this run; False when it is gone, or another has taken its place."""
    stage, key = artifact.stage, artifact.key
    age = _age(store, stage, key)
    if age is not None and timedelta(0) <= age < FRESH:
        return True
    with held(store.scratch, store.leases, stage, key):
        found = store.look(stage, key).artifact
        return found is not None and found.digest == artifact.digest and _date_anew(store, stage, key)


def _age(store: Store, stage: str, key: str) -> timedelta | None:
    if store.remote:
        times = times_of(store, stage, key, MANIFEST)
        return None if times is None else times[1] - times[0]
    try:
        return timedelta(seconds=time.time() - os.stat(store.address(stage, key, MANIFEST)).st_mtime)
    except OSError:
        return None


def _date_anew(store: Store, stage: str, key: str) -> bool:
    """Give the manifest the date of now, and the bytes that it has; only who holds the key may."""
    path = store.address(stage, key, MANIFEST)
    with problems(store.uri):
        if not store.remote:
            return _touch(path)
        lease = store.leases.of(stage, key) if store.leases is not None else None
        if lease is not None:
            lease.check()
        seen = read(store.fs, path)
        if seen is None:
            return False
        try:
            write(store.fs, path, seen.text.encode(), seen.etag)
        except Changed:
            return False
        except NoConditions:
            store.fs.pipe_file(path, seen.text.encode())
        return True


def _touch(path: str) -> bool:
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    except PermissionError:  # somebody else's file on a shared disk; what lies there is still good
        warn(f"{path}: no permission to date it anew, so a gc may take it away while this run needs it")
    return True
