"""Conditional writes to S3: create an object only where none is, or replace it only if it has not changed.

``If-None-Match: *`` writes where nothing is, ``If-Match: ETAG`` over the version that was read; the endpoint answers
412 when another writer was quicker.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from zscir.store.retrying_fs import RetryingFileSystem, error_response

CONFLICT_STATUSES = (409, 412)  # 409: another conditional write of the same object is under way at this moment
MISSING_CODES = {"NoSuchKey", "404"}  # an answer to HEAD has no body, so botocore has only its status to report


class PreconditionFailed(Exception):
    """The object is not, or no longer, what the condition says: another process wrote or removed it."""


class ConditionsUnsupported(Exception):
    """The endpoint does not implement conditional writes."""


@dataclass(frozen=True)
class ObjectVersion:
    """An object as it was at one moment."""

    etag: str
    text: str


def read_object(fs: RetryingFileSystem, path: str) -> ObjectVersion | None:
    """A small object and its ETag, or None when there is none."""
    bucket, key, _ = fs.split_path(path)

    async def get() -> ObjectVersion:
        # Not ``cat_file``: text and ETag must come from one answer, or another writer could come in between.
        answer = await fs._call_s3("get_object", Bucket=bucket, Key=key)
        try:
            return ObjectVersion(str(answer["ETag"]), (await answer["Body"].read()).decode(errors="replace"))
        finally:
            answer["Body"].close()

    try:
        found: ObjectVersion = _s3_request(fs, get)
    except FileNotFoundError as error:
        # s3fs raises FileNotFoundError for a missing bucket too, and that is a mistake in the store's address.
        if error_response(error)[1] in MISSING_CODES:
            return None
        raise
    return found


def write_object(fs: RetryingFileSystem, path: str, data: bytes, etag: str | None) -> str:
    """Write over the object with this ETag, or where nothing is (None); return the new ETag.

    Raises PreconditionFailed when the condition does not hold, ConditionsUnsupported when the endpoint refuses it.
    """
    bucket, key, _ = fs.split_path(path)
    condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}
    with _translate_conflicts():
        return str(_s3_request(fs, fs._call_s3, "put_object", Bucket=bucket, Key=key, Body=data, **condition)["ETag"])


def remove_object(fs: RetryingFileSystem, path: str, etag: str) -> None:
    """Remove the object with this ETag; PreconditionFailed when it is another one by now.

    An endpoint without conditional removal (many have the writes only) removes whatever is there.
    """
    bucket, key, _ = fs.split_path(path)
    try:
        with _translate_conflicts():
            _s3_request(fs, fs._call_s3, "delete_object", Bucket=bucket, Key=key, IfMatch=etag)
    except ConditionsUnsupported:
        fs.rm_file(path)


def create_object(fs: RetryingFileSystem, local: str, path: str) -> None:
    """Upload a file where nothing is, else PreconditionFailed. Large files go in parts, the condition with the last."""
    with _translate_conflicts():
        # s3fs uploads in parts from 100 MiB on: then it sends the condition with CompleteMultipartUpload.
        fs.put_file(local, path, mode="create")


def etag_of(fs: RetryingFileSystem, path: str) -> str | None:
    """The ETag of an object of any size, or None when there is none."""
    bucket, key, _ = fs.split_path(path)
    try:
        return str(_s3_request(fs, fs._call_s3, "head_object", Bucket=bucket, Key=key)["ETag"])
    except FileNotFoundError:
        return None


def supports_conditions(fs: RetryingFileSystem, path: str, etag: str, data: bytes) -> bool:
    """Whether the endpoint keeps to conditions, tried on an object of ours that has this ETag and these bytes.

    An endpoint that ignores the headers would write what is there already.
    """
    # Both are tried: they are features of their own, and S3 had If-None-Match months before If-Match.
    for condition in (None, '"00000000000000000000000000000000"'):
        try:
            write_object(fs, path, data, condition)
        except PreconditionFailed:
            continue
        except ConditionsUnsupported:
            return False
        return False
    return True


@contextmanager
def _translate_conflicts() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        status, code = error_response(error)
        # If-Match on an object that is gone gets 404. A missing bucket has another code, and stays an error.
        if status in CONFLICT_STATUSES or code in MISSING_CODES:
            raise PreconditionFailed(str(error)) from error
        if status == 501 or code == "NotImplemented":
            raise ConditionsUnsupported(str(error)) from error
        raise


def _s3_request(fs: RetryingFileSystem, request: Callable[..., Any], *args: Any, **parameters: Any) -> Any:
    """The answer to one of s3fs's own requests, which live on its own event loop."""
    from fsspec.asyn import sync

    return fs.call_with_backoff(lambda: sync(fs.loop, request, *args, **parameters))
