"""Upload a finished folder to S3, its manifest last; a process that lost the key to another writes nothing more.

Every file is created where nothing is. What is in the way was left by an earlier attempt (or is this upload's own, if
the answer got lost): it is removed first, after checking that the lease is still ours. So a process that was suspended
for longer than its lease finds the files of the new holder in its way, and stops.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from zscir.runtime.errors import StageError
from zscir.store.conditional_writes import PreconditionFailed, create_object, etag_of, remove_object
from zscir.store.leases import Lease
from zscir.store.retrying_fs import RetryingFileSystem

MAX_UPLOAD_TRIES = 5  # one for leftovers of an earlier attempt, a few for answers that got lost


def upload_folder(
    fs: RetryingFileSystem, folder: Path, names: Sequence[str], last_name: str, target: str, lease: Lease | None
) -> None:
    """Upload ``names`` of ``folder`` and then the file ``last_name`` to ``target``.

    LeaseLost when another process took the key over: what it has committed is not changed, and what it commits later
    replaces all of this. Without a lease (an endpoint without conditional writes) the last writer wins,
    file by file.
    """
    if lease is None:
        if fs.exists(f"{target}/{last_name}"):
            fs.rm_file(f"{target}/{last_name}")  # a damaged artifact must not stay open to readers meanwhile
        for name in [*names, last_name]:
            fs.put_file(str(folder / name), f"{target}/{name}")
        return
    lease.check()
    # The manifest goes first and comes last: in between there is no artifact, rather than a damaged one.
    _remove_own_object(fs, f"{target}/{last_name}", lease)
    for name in [*names, last_name]:
        _put_file(fs, folder / name, f"{target}/{name}", lease)
    lease.check()  # if this process was suspended before the last request, the new holder replaces all of it


def _put_file(fs: RetryingFileSystem, local: Path, path: str, lease: Lease) -> None:
    for _ in range(MAX_UPLOAD_TRIES):
        lease.check()
        with suppress(PreconditionFailed):
            return create_object(fs, str(local), path)
        _remove_own_object(fs, path, lease)
    raise StageError(f"{path}: another process keeps writing there without holding the key; try again")


def _remove_own_object(fs: RetryingFileSystem, path: str, lease: Lease) -> None:
    """Remove the object at ``path``, if it is still the one that was there while the key was ours."""
    # The ETag before the check: while the key is ours nobody else writes here, and what a later holder writes has
    # another ETag, which the removal refuses.
    etag = etag_of(fs, path)
    if etag is not None:
        lease.check()
        with suppress(PreconditionFailed):
            remove_object(fs, path, etag)
