from typing import Any

import pytest

from zscir.data.download.fetch_spec import FetchSpec
from zscir.runtime.errors import RequestError


def test_fields_that_are_not_set_move_no_key() -> None:
    assert list(FetchSpec().literals()) == [
        "deadline_s", "retries", "backoff_s", "max_retry_after_s", "max_redirects", "max_bytes", "max_pixels",
        "per_host", "allow_hosts",
    ]  # fmt: skip


def test_a_chunk_has_an_hour_or_what_the_rate_of_one_host_needs() -> None:
    assert FetchSpec().chunk_s(10_000) == 3600.0
    assert FetchSpec(max_per_s=2.0).chunk_s(10_000) == 3600.0 + 5000.0
    assert FetchSpec(max_per_s=2.0, chunk_deadline_s=60.0).chunk_s(10_000) == 60.0


def test_a_url_may_not_wait_at_all() -> None:
    assert FetchSpec().wait_s() == 60.0
    assert FetchSpec(max_wait_s=0.0).wait_s() == 0.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_per_s": 0}, {"max_wait_s": -1}, {"breaker_failures": 0}, {"breaker_s": 0}, {"chunk_deadline_s": 0},
        {"robots_txt": "yes"}, {"allow_hosts": ["127.0.0.1"]}, {"allow_hosts": ["a:0"]}, {"per_host": 0},
    ],
)  # fmt: skip
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        FetchSpec.parse(wrong, "test")
