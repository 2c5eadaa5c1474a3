"""Read the time by a store's own clock, so that no age compares the clocks of two machines.

The clock of a store on S3 is the ``Date`` header of its answers; that of a shared disk is the time it gives a new file.
"""

import tempfile
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from errno import EACCES, EPERM, EROFS
from pathlib import Path

from zscir.runtime.errors import StageError
from zscir.store.storage_errors import translate_storage_errors
from zscir.store.store import Store


def store_now(store: Store) -> datetime:
    """The time by the store's own clock; StageError where it cannot be read (a disk without permission to write)."""
    if not store.remote:
        return _now_on_disk(store)
    with translate_storage_errors(store.uri):
        bucket, _, prefix = store.root.partition("/")
        answer = store.fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1)
        # HTTP obliges servers with a clock to send Date; without one this machine's clock is the best there is.
        return _response_date(answer) or datetime.now(UTC)


def file_time_and_now(store: Store, *parts: str) -> tuple[datetime, datetime] | None:
    """When a file of the store was written and what time it is now, both by the store's clock.

    None when there is none, or when the store's clock cannot be read: on a shared disk that takes the right to write.
    """
    path = store.address(*parts)
    if not store.remote:
        return _times_on_disk(Path(path))
    bucket, key, _ = store.fs.split_path(path)
    with translate_storage_errors(store.uri):
        try:
            # One answer has both times, so nothing passes between them.
            answer = store.fs.call_s3("head_object", Bucket=bucket, Key=key)
        except FileNotFoundError:
            return None
    now = _response_date(answer)
    return (answer["LastModified"], now) if now else None


def disk_now(folder: Path) -> datetime:
    """The time that the disk of ``folder`` gives a file written now; OSError where none can be."""
    # A dot name: other processes may be reading this folder now, and must not take it for a file of the store.
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".now-") as probe:
        return datetime.fromtimestamp(Path(probe.name).stat().st_mtime, UTC)


def _now_on_disk(store: Store) -> datetime:
    with translate_storage_errors(store.uri):
        try:
            return disk_now(Path(store.root))
        except OSError as error:
            if error.errno not in (EACCES, EPERM, EROFS):
                raise
            raise StageError(
                f"store {store.uri}: its time is read from a file that is written for a moment, and none can "
                f"be ({error.strerror}); run this as a user who may write there"
            ) from None


def _times_on_disk(path: Path) -> tuple[datetime, datetime] | None:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC), disk_now(path.parent)
    except OSError:
        return None


def _response_date(answer: dict[str, dict[str, dict[str, str]]]) -> datetime | None:
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    return parsedate_to_datetime(date) if date else None
