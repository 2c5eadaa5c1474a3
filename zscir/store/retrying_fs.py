"""Retry object-store calls with jittered exponential backoff until a deadline."""

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

from zscir.runtime.progress import log_info

if TYPE_CHECKING:
    from tenacity import RetryCallState

T = TypeVar("T")
FIRST_STORE_WAIT_S = 0.2  # botocore and s3fs have tried a few times before this layer sees an error
MAX_STORE_WAIT_S = 10.0  # a run goes on at most so long after the store is back
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
    "builtins.TimeoutError",  # asyncio's too, and with it fsspec's FSTimeoutError
    "http.client.IncompleteRead",
    "socket.gaierror",  # no DNS; an OSError, but no ConnectionError
}


def error_response(error: BaseException) -> tuple[int, str]:
    """HTTP status and S3 error code of the store's answer; (0, "") when it did not answer."""
    for candidate in (error, error.__cause__):  # s3fs raises an OSError from botocore's ClientError
        response = getattr(candidate, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return int(status), str(response.get("Error", {}).get("Code", ""))
    return 0, ""


def is_store_unreachable(error: BaseException) -> bool:
    """Whether the store could not be reached or was too busy, so that the same call may succeed later."""
    status, code = error_response(error)
    # The store was reached: what it answered decides, whatever exception s3fs made of it.
    if status:
        return status in BUSY_STATUSES or code in BUSY_CODES
    kinds = [*type(error).__mro__, *(type(error.__cause__).__mro__ if error.__cause__ is not None else ())]
    return any(f"{kind.__module__}.{kind.__name__}" in UNREACHABLE_ERRORS for kind in kinds)


def call_with_backoff(call: Callable[[], T], max_wait_s: float) -> T:
    """The result of ``call``, which must be safe to do twice.

    While the store cannot be reached it is called again, after growing, random pauses, for at most ``max_wait_s``
    seconds. The last error is raised.
    """
    from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_exponential, wait_random_exponential

    # Half of each pause is fixed and half is random, so that many processes do not come back at the same moment.
    half = {"multiplier": FIRST_STORE_WAIT_S / 2, "max": MAX_STORE_WAIT_S / 2}
    pause = wait_exponential(**half) + wait_random_exponential(**half)

    def pause_s(state: "RetryCallState") -> float:
        elapsed_s = state.seconds_since_start or 0.0
        return min(pause(state), max(0.0, max_wait_s - elapsed_s))  # the last call is made at the deadline

    def log_first(state: "RetryCallState") -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        if state.attempt_number == 1:
            name = type(error).__name__
            log_info(f"the store cannot be reached ({name}: {error}); trying for up to {max_wait_s:.0f} s")

    retrying = Retrying(
        retry=retry_if_exception(is_store_unreachable),
        stop=stop_after_delay(max_wait_s),
        wait=pause_s,
        before_sleep=log_first,
        reraise=True,
    )
    return retrying(call)


class RetryingFileSystem:
    """An fsspec file system whose calls are repeated while the store cannot be reached; the rest is its own."""

    def __init__(self, fs: Any, max_wait_s: float) -> None:
        self._fs = fs
        self._max_wait_s = max_wait_s

    def call_with_backoff(self, call: Callable[[], T]) -> T:
        """The result of ``call``, repeated as the file system's own calls are."""
        return call_with_backoff(call, self._max_wait_s)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._fs, name)
        # s3fs's underscored methods are coroutines, which a call only creates: there is nothing to retry yet.
        if name.startswith("_") or not callable(found):
            return found

        @wraps(found)
        def call(*args: Any, **kwargs: Any) -> Any:
            return self.call_with_backoff(lambda: found(*args, **kwargs))

        return call
