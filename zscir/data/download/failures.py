"""The error classes of a download: what can go wrong with one URL, and whether a retry may help.

Error texts hold no port, time or memory address of this run: they are written into artifacts.
"""

import errno
import os
import ssl

# Statuses after which the same request may well succeed. 509 and 520 to 524 are of hosting companies, in no RFC.
TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504, 509, 520, 521, 522, 523, 524}
CONNECTION_LOST_ERRNOS = (errno.ECONNRESET, errno.EPIPE)

# Worth another attempt, now or in a patch round.
TRANSIENT_ERRORS = {
    "timeout": "not done within the URL's deadline",
    "connect": "no connection: refused, unreachable",
    "incomplete": "the connection ended before the whole answer was there",
    "bad_answer": "not a valid HTTP answer, such as what is left on a connection of an answer longer than it said",
    "dns_unanswered": "the name server did not answer",
    "host_busy": "not asked: its host answered others with 429 or 503 and did not recover in time",
    "host_down": "not asked: its host let one connection after another fail",
    "robots_unreachable": "not asked: robots.txt could not be had, which means no (RFC 9309)",
    "chunk_deadline": "its chunk's time was over",
    "engine": "img2dataset lost this URL",
}
# Permanent: never requested again.
PERMANENT_ERRORS = {
    "dns": "no such host",
    "tls": "the certificate or the protocol is not acceptable",
    "bad_url": "not an http or https URL that can be asked",
    "bad_encoding": "a content encoding that was not asked for, or one that is broken",
    "forbidden_address": "a private, loopback, link-local, multicast or metadata address",
    "too_many_redirects": "more redirects than the spec allows",
    "too_large": "more bytes than the spec allows",
    "too_many_pixels": "more pixels than the spec allows",
    "empty": "an empty body",
    "not_image": "not in a known image format",
    "bad_image": "an image that cannot be decoded",
    "unreadable": "not to be read, where the image lies in a local folder or tar",
    "robots_tag": "an X-Robots-Tag asks not to use it",
    "robots_txt": "robots.txt asks not to fetch it",
}  # and http_NNN for every status that is not in TRANSIENT_STATUS


def transient_error_classes() -> frozenset[str]:
    """The error classes that a later attempt may cure; every other one (`http_404`, `not_image`, ...) is permanent."""
    return frozenset(TRANSIENT_ERRORS) | {_class_of(status) for status in TRANSIENT_STATUS}


class FetchFailure(Exception):
    """Why a URL gave no image; ``retry_after_s`` is the host's Retry-After."""

    def __init__(
        self, error_class: str, error: str, http_status: int | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(error)
        self.error_class = error_class
        self.error = error
        self.http_status = http_status
        self.retry_after_s = retry_after_s

    @property
    def transient(self) -> bool:
        """Whether the same request may succeed later."""
        return self.error_class in transient_error_classes()


def failure_from_status(status: int, retry_after_s: float | None) -> FetchFailure:
    """The failure for an HTTP status other than 200."""
    return FetchFailure(_class_of(status), f"HTTP status {status}", status, retry_after_s)


def failure_from_client_error(error: Exception) -> FetchFailure:
    """The failure behind an exception of the HTTP client or of the socket."""
    import aiohttp  # slow: it loads all trusted certificates, and most importers only want the classes

    inner = _root_cause(error)
    if isinstance(inner, FetchFailure):
        return inner
    if isinstance(inner, PermissionError) and inner.errno is None:
        return FetchFailure("forbidden_address", str(inner))
    if isinstance(inner, ssl.SSLError | ssl.CertificateError):
        return FetchFailure("tls", f"TLS: {getattr(inner, 'verify_message', '') or inner.reason or 'failed'}")
    if (
        isinstance(error, aiohttp.ClientPayloadError | aiohttp.ServerDisconnectedError)
        or _errno(inner) in CONNECTION_LOST_ERRNOS
    ):
        # One class and no status: whether the reset overtakes the first bytes of the answer is a matter of chance.
        return FetchFailure("incomplete", "the connection ended before the whole answer was there")
    if isinstance(error, aiohttp.InvalidURL):
        return FetchFailure("bad_url", "the client cannot ask this URL")
    if _errno(inner) is not None:
        return FetchFailure("connect", os.strerror(_errno(inner) or 0))
    return FetchFailure("bad_answer", f"not a valid HTTP answer ({type(error).__name__})")


def _class_of(status: int) -> str:
    return f"http_{status}"


def _root_cause(error: Exception) -> BaseException:
    """The innermost error: aiohttp wraps what the socket or TLS raised in its own errors."""
    inner: BaseException = error
    while True:
        cause = getattr(inner, "os_error", None) or getattr(inner, "certificate_error", None) or inner.__cause__
        if cause is None or cause is inner:
            return inner
        inner = cause


def _errno(error: BaseException) -> int | None:
    return error.errno if isinstance(error, OSError) else None
