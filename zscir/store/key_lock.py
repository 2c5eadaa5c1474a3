"""Holding: of all processes and machines that want one key of a store, one has it (a file lock; on S3 a lease, too)."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from zscir.store.file_locks import file_lock, try_file_lock
from zscir.store.leases import LeaseManager


@contextmanager
def hold_key(scratch: Path, leases: LeaseManager | None, stage: str, key: str) -> Iterator[None]:
    """Hold a key of the store whose work folders lie in ``scratch``; wait while somebody else does."""
    with file_lock(scratch / stage / key, f"{stage} {key[:12]}") as lock, ExitStack() as stack:
        if leases is not None:
            stack.enter_context(leases.hold(stage, key, lock))
        yield


@contextmanager
def try_hold_key(scratch: Path, leases: LeaseManager | None, stage: str, key: str) -> Iterator[bool]:
    """As ``hold_key``, without waiting: False when somebody holds the key at this moment."""
    with try_file_lock(scratch / stage / key) as lock, ExitStack() as stack:
        free = lock is not None
        if lock is not None and leases is not None:
            free = stack.enter_context(leases.hold_if_free(stage, key, lock))
        yield free
