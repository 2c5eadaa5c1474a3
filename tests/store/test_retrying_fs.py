import logging
import time

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    ParamValidationError,
    ReadTimeoutError,
)
from s3fs.errors import translate_boto_error

from zscir.store.retrying_fs import RetryingFileSystem, call_with_backoff, error_response, is_store_unreachable


def answer(status, code):
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject")


AWAY = [
    EndpointConnectionError(endpoint_url="http://x"), ConnectTimeoutError(endpoint_url="http://x"),
    ReadTimeoutError(endpoint_url="http://x"), ConnectionResetError(), TimeoutError(),
    answer(503, "SlowDown"), answer(500, "InternalError"), answer(429, "Throttled"), answer(400, "RequestTimeout"),
]  # fmt: skip
THERE = [
    answer(404, "NoSuchKey"), answer(403, "AccessDenied"), answer(412, "PreconditionFailed"),
    answer(501, "NotImplemented"), NoCredentialsError(), ParamValidationError(report="x"), FileNotFoundError(),
    PermissionError(), OSError(28, "No space left on device"), ValueError(),
]  # fmt: skip


@pytest.mark.parametrize("error", AWAY, ids=str)
def test_a_store_that_cannot_be_reached_or_is_busy_is_away(error):
    assert is_store_unreachable(error)
    if isinstance(error, ClientError):
        assert is_store_unreachable(translate_boto_error(error))


@pytest.mark.parametrize("error", THERE, ids=str)
def test_a_store_that_refuses_is_not_unreachable(error):
    assert not is_store_unreachable(error)
    if isinstance(error, ClientError):
        assert not is_store_unreachable(translate_boto_error(error))


def test_an_answer_is_known_through_what_s3fs_makes_of_it():
    assert error_response(translate_boto_error(answer(412, "PreconditionFailed"))) == (412, "PreconditionFailed")
    assert error_response(ConnectionResetError()) == (0, "")


class Flaky:
    def __init__(self, errors):
        self.errors = list(errors)
        self.calls = 0
        self.name = "flaky"

    def cat_file(self, path):
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return path.encode()


def test_a_call_is_made_again_until_it_is_answered_and_logged_once(caplog):
    caplog.set_level(logging.INFO, "zscir")
    flaky = Flaky([ConnectionResetError("gone"), answer(503, "SlowDown")])
    patient = RetryingFileSystem(flaky, 30.0)
    assert patient.cat_file("a") == b"a"
    assert (flaky.calls, patient.name) == (3, "flaky")
    assert caplog.text.count("the store cannot be reached (ConnectionResetError: gone); trying for up to 30 s") == 1


def test_what_is_no_absence_is_raised_at_once():
    flaky = Flaky([PermissionError("no")])
    with pytest.raises(PermissionError):
        RetryingFileSystem(flaky, 30.0).cat_file("a")
    assert flaky.calls == 1


def test_patience_ends_and_the_last_error_is_raised():
    def away():
        raise ConnectionResetError

    started = time.monotonic()
    with pytest.raises(ConnectionResetError):
        call_with_backoff(away, 0.5)
    assert time.monotonic() - started >= 0.5


def test_without_patience_a_call_is_made_once():
    flaky = Flaky([ConnectionResetError()])
    with pytest.raises(ConnectionResetError):
        RetryingFileSystem(flaky, 0.0).cat_file("a")
    assert flaky.calls == 1
