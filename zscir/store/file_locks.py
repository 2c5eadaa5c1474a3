"""File locks: one process of this machine works in a work folder, and those that wait can say which.

The operating system frees the lock of a process that dies. On a network disk that several machines share this holds
if the disk passes ``flock`` on (NFS 4, CephFS, Lustre with ``flock`` do); where it does not, one machine at a time must
work on a store in that folder. Stores on S3 have leases instead: see ``leases.py``.
"""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from zscir.runtime.progress import log_info

BOOT_ID_FILE = Path("/proc/sys/kernel/random/boot_id")


@contextmanager
def file_lock(folder: Path, what: str) -> Iterator[str]:
    """Hold the lock of a work folder; ``what`` is being made there, for the log line of a process that has to wait.

    Yields the id of this very lock: whoever held a lock of the same id before is gone. It is empty where the system
    gives none.
    """
    from filelock import FileLock, Timeout

    lock, holder = FileLock(f"{folder}.lock"), Path(f"{folder}.holder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log_info(f"{what}: {_read_lock_holder(holder)} is making this; waiting")
        lock.acquire()
    try:
        holder.write_text(f"{platform.node()} (process {os.getpid()}, since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC)")
        yield lock_file_id(Path(lock.lock_file))
    finally:
        # Before the release: afterwards this would remove the note of the next holder.
        holder.unlink(missing_ok=True)
        lock.release()


@contextmanager
def try_file_lock(folder: Path) -> Iterator[str | None]:
    """As ``file_lock``, without waiting: None when another process holds the lock now."""
    from filelock import FileLock, Timeout

    lock = FileLock(f"{folder}.lock")
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield None
        return
    try:
        yield lock_file_id(Path(lock.lock_file))
    finally:
        lock.release()


def lock_file_id(lock_file: Path) -> str:
    """The boot of this machine and the file's number on its disk: no other file anywhere has both."""
    try:
        found = lock_file.stat()
        return f"{BOOT_ID_FILE.read_text().strip()}:{found.st_dev}:{found.st_ino}"
    except OSError:
        return ""


def _read_lock_holder(holder: Path) -> str:
    try:
        return holder.read_text(errors="replace") or "another process"
    except OSError:
        return "another process"
