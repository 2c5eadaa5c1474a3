"""One writer per key of a store: a file lock on this machine and, on S3, a lease among all machines."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from zscir.store.file_locks import file_lock, try_file_lock
from zscir.store.leases import LeaseManager


@contextmanager
def hold_key(work_root: Path, leases: LeaseManager | None, stage: str, key: str) -> Iterator[None]:
    """Hold a key of the store whose work folders are in ``work_root``; wait while another process holds it."""
    # The file lock first: processes of one machine then wait for each other without a request to S3, and a lease that
    # names this very lock was left by a process that is gone. On the way out the lease is given back first.
    with file_lock(work_root / stage / key, f"{stage} {key[:12]}") as lock, ExitStack() as stack:
        if leases is not None:
            stack.enter_context(leases.hold(stage, key, lock))
        yield


@contextmanager
def try_hold_key(work_root: Path, leases: LeaseManager | None, stage: str, key: str) -> Iterator[bool]:
    """As ``hold_key``, without waiting: False when another process holds the key now."""
    with try_file_lock(work_root / stage / key) as lock, ExitStack() as stack:
        free = lock is not None
        if lock is not None and leases is not None:
            free = stack.enter_context(leases.hold_if_free(stage, key, lock))
        yield free
