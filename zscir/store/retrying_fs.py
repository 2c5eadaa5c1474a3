"""Patience: a call to a store that is away for a while becomes the same call again, until it answers or time is up."""

import random
import time
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from zscir.runtime.progress import log_info

T = TypeVar("T")
FIRST_STORE_WAIT_S = 0.2
MAX_STORE_WAIT_S = 10.0
BUSY_STATUSES = (429, 500, 502, 503, 504)
BUSY_CODES = {"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable"}
# By name: the libraries below fsspec are imported by nobody but fsspec.
UNREACHABLE_ERRORS = {
    "botocore.exceptions.HTTPClientError",
    "botocore.exceptions.ConnectionError",
    "botocore.parsers.ResponseParserError",
    "aiohttp.client_exceptions.ClientConnectionError",
    "aiohttp.client_exceptions.ClientPayloadError",
    "builtins.ConnectionError",
    "builtins.TimeoutError",
    "http.client.IncompleteRead",
    "socket.gaierror",
}


def error_response(error: BaseException) -> tuple[int, str]:
    """HTTP status and S3 error code of what the store answered; (0, "") when it did not answer."""
    for one in (error, error.__cause__):
        response = getattr(one, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return int(status), str(response.get("Error", {}).get("Code", ""))
    return 0, ""


def is_store_unreachable(error: BaseException) -> bool:
    """Whether the store could not be reached or was too busy, so that the same call may succeed later."""
    status, code = error_response(error)
    if status:
        return status in BUSY_STATUSES or code in BUSY_CODES
    kinds = [kind for one in (error, error.__cause__) if one is not None for kind in type(one).__mro__]
    return any(f"{kind.__module__}.{kind.__name__}" in UNREACHABLE_ERRORS for kind in kinds)


def call_with_backoff(call: Callable[[], T], patience_s: float) -> T:
    """What ``call`` gives; while the store is away it is called again, with growing, random pauses, for at most
    ``patience_s`` seconds. The last error is raised. ``call`` must be one that may be done twice.
    """
    deadline = time.monotonic() + patience_s
    wait_s = FIRST_STORE_WAIT_S
    told = False
    while True:
        try:
            return call()
        except Exception as error:
            if not is_store_unreachable(error) or time.monotonic() >= deadline:
                raise
            if not told:
                log_info(f"the store is away ({type(error).__name__}: {error}); trying for up to {patience_s:.0f} s")
                told = True
        time.sleep(min(wait_s * random.uniform(0.5, 1.5), max(0.0, deadline - time.monotonic())))
        wait_s = min(2 * wait_s, MAX_STORE_WAIT_S)


class RetryingFileSystem:
    """A file system of fsspec whose calls are patient; all else is the file system's own."""

    def __init__(self, fs: Any, patience_s: float) -> None:
        self._fs = fs
        self._patience_s = patience_s

    def until_answered(self, call: Callable[[], T]) -> T:
        """What ``call`` gives, patiently."""
        return call_with_backoff(call, self._patience_s)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._fs, name)
        if name.startswith("_") or not callable(found):
            return found

        @wraps(found)
        def call(*args: Any, **kwargs: Any) -> Any:
            return self.until_answered(lambda: found(*args, **kwargs))

        return call
