"""Failures: everything that can go wrong with one URL becomes a class, a text and whether to try again.

Texts hold no port, time or memory address of this run: they are written into artifacts.
"""

import errno
import os
import ssl

import aiohttp

# Answers after which the same request may well succeed.
TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}
BROKE_OFF = (errno.ECONNRESET, errno.EPIPE)


class Failure(Exception):
    """Why a URL gave no image. ``transient`` ones may be tried again, after ``retry_after_s`` if the host said so."""

    def __init__(
        self, error_class: str, error: str, transient: bool = False,
        http_status: int | None = None, retry_after_s: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(error)
        self.error_class = error_class
        self.error = error
        self.transient = transient
        self.http_status = http_status
        self.retry_after_s = retry_after_s


def from_status(status: int, retry_after_s: float | None) -> Failure:
    """The failure that an HTTP status other than 2xx is."""
    return Failure(f"http_{status}", f"HTTP status {status}", status in TRANSIENT_STATUS, status, retry_after_s)


def from_client(error: Exception) -> Failure:
    """The failure behind an exception of the HTTP client or of the socket."""
    inner = _root(error)
    if isinstance(inner, Failure):
        return inner
    if isinstance(inner, PermissionError) and inner.errno is None:
        return Failure("forbidden_address", str(inner))
    if isinstance(inner, ssl.SSLError | ssl.CertificateError):
        return Failure("tls", f"TLS: {getattr(inner, 'verify_message', '') or inner.reason or 'failed'}")
    if isinstance(error, aiohttp.ClientPayloadError | aiohttp.ServerDisconnectedError) or _number(inner) in BROKE_OFF:
        # One class without a status: whether the reset overtakes the first bytes of the answer is a matter of chance.
        return Failure("incomplete", "the connection ended before the whole answer was there", transient=True)
    if isinstance(error, aiohttp.InvalidURL):
        return Failure("bad_url", "the client cannot ask this URL")
    if _number(inner) is not None:
        return Failure("connect", os.strerror(_number(inner) or 0), transient=True)
    return Failure("bad_answer", f"not a valid HTTP answer ({type(error).__name__})")


def _root(error: Exception) -> BaseException:
    """aiohttp wraps what happened in its own errors; look at the innermost that says more."""
    inner: BaseException = error
    while True:
        cause = getattr(inner, "os_error", None) or getattr(inner, "certificate_error", None) or inner.__cause__
        if cause is None or cause is inner:
            return inner
        inner = cause


def _number(error: BaseException) -> int | None:
    return error.errno if isinstance(error, OSError) else None
