import errno
import re
from pathlib import Path

import aiohttp
import pytest

import zscir.data.download
from zscir.data.download.failures import (
    PERMANENT_ERRORS,
    TRANSIENT_ERRORS,
    FetchFailure,
    failure_from_client_error,
    failure_from_status,
    transient_error_classes,
)

SOURCES = Path(zscir.data.download.__file__).parent


def test_every_class_that_the_code_names_is_in_one_of_the_two_tables() -> None:
    text = (
        "".join(path.read_text() for path in SOURCES.glob("*.py"))
        + (SOURCES.parent / "images" / "decode.py").read_text()
    )
    named = set(re.findall(r"(?:Failure|BadImage)\(\s*\"([a-z_]+)\"", text))
    named |= set(re.findall(r"\"error_class\": \"([a-z_]+)\"", text))
    assert {"timeout", "too_many_pixels", "robots_txt", "chunk_deadline"} <= named
    assert named <= TRANSIENT_ERRORS.keys() | PERMANENT_ERRORS.keys()
    assert not TRANSIENT_ERRORS.keys() & PERMANENT_ERRORS.keys()


@pytest.mark.parametrize("status", [404, 410, 403, 401, 400, 402, 406, 451, 414, 501, 505, 304, 204])
def test_a_permanent_status_is_not_retried(status: int) -> None:
    assert not failure_from_status(status, None).transient


@pytest.mark.parametrize("status", [429, 503, 500, 502, 504, 408, 425, 520, 524])
def test_a_transient_status_is_retried(status: int) -> None:
    failure = failure_from_status(status, 3.0)
    assert failure.transient
    assert (failure.error_class, failure.http_status, failure.retry_after_s) == (f"http_{status}", status, 3.0)
    assert failure.error_class in transient_error_classes()


def test_patch_rounds_retry_what_may_pass() -> None:
    again = transient_error_classes()
    assert {"timeout", "connect", "incomplete", "dns_unanswered", "host_busy", "host_down", "chunk_deadline"} <= again
    assert {"engine", "http_429", "http_503", "robots_unreachable"} <= again
    assert not again & {"dns", "tls", "http_404", "http_410", "http_403", "not_image", "bad_image", "robots_tag"}
    assert not again & PERMANENT_ERRORS.keys()


@pytest.mark.parametrize(
    ("error", "error_class"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), "connect"),
        (OSError(errno.EHOSTUNREACH, "x"), "connect"),
        (ConnectionResetError(errno.ECONNRESET, "x"), "incomplete"),
        (aiohttp.ServerDisconnectedError(), "incomplete"),
        (aiohttp.ClientPayloadError(), "incomplete"),
        (aiohttp.InvalidURL("http://:x/"), "bad_url"),
        (PermissionError("127.0.0.1 is loopback"), "forbidden_address"),
        (aiohttp.ClientError(), "bad_answer"),
        (FetchFailure("dns", "no such host"), "dns"),
    ],
)
def test_what_the_client_raises_has_a_class(error: Exception, error_class: str) -> None:
    assert failure_from_client_error(error).error_class == error_class
