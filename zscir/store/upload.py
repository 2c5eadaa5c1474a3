"""Uploads: a finished folder becomes objects on S3, its manifest last; who lost the key to another writes nothing more.

Every file is put where nothing is. What lies in the way is left from an earlier attempt (or is this upload's own, if
the answer got lost) and is taken away first, after a look whether the key is still ours: a process that slept through
its lease finds the other's files in its way, and stops.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from zscir.runtime.errors import StageError
from zscir.store.conditional_writes import PreconditionFailed, create_object, etag_of, remove_object
from zscir.store.leases import Lease
from zscir.store.retrying_fs import RetryingFileSystem

MAX_UPLOAD_TRIES = 5


def upload_folder(
    fs: RetryingFileSystem, folder: Path, names: Sequence[str], closing: str, target: str, lease: Lease | None
) -> None:
    """Put ``names`` of ``folder`` and then the file ``closing`` under ``target``.

    LeaseLost when another process took the key over: what it has committed is not changed, and what it commits later
    takes the place of all that is here. Without a lease (an endpoint that knows no conditions) the last writer wins,
    file by file.
    """
    if lease is None:
        if fs.exists(f"{target}/{closing}"):
            fs.rm_file(f"{target}/{closing}")  # a damaged artifact must not stay open to readers meanwhile
        for name in [*names, closing]:
            fs.put_file(str(folder / name), f"{target}/{name}")
        return
    lease.check()
    _remove_own_object(fs, f"{target}/{closing}", lease)
    for name in [*names, closing]:
        _put_file(fs, folder / name, f"{target}/{name}", lease)
    lease.check()  # who slept just before the last request: the new holder will replace all of it


def _put_file(fs: RetryingFileSystem, local: Path, path: str, lease: Lease) -> None:
    for _ in range(MAX_UPLOAD_TRIES):
        lease.check()
        with suppress(PreconditionFailed):
            return create_object(fs, str(local), path)
        _remove_own_object(fs, path, lease)
    raise StageError(f"{path}: something is written there again and again by nobody who holds the key; try again")


def _remove_own_object(fs: RetryingFileSystem, path: str, lease: Lease) -> None:
    """Remove what lies there, if it is what lay there while the key was ours."""
    etag = etag_of(fs, path)
    if etag is not None:
        lease.check()
        with suppress(PreconditionFailed):
            remove_object(fs, path, etag)
