from datetime import UTC, datetime

import pytest

from zscir.data.download.headers import back_off_s, refusing_directive, retry_after_s, user_agent


@pytest.mark.parametrize(
    ("headers", "directive"),
    [
        (["noai"], "noai"), (["noimageai"], "noimageai"), (["noindex, nofollow"], "noindex"), (["NoAI "], "noai"),
        (["all"], None), ([], None), (["nofollow"], None), (["googlebot: noindex"], None),
        (["zscir: noai"], "noai"), (["googlebot: noindex", "noai"], "noai"),
        (["unavailable_after: 25 Jun 2030 15:00:00 PST"], None), (["max-image-preview:none"], None), (["none"], "none"),
        (["noarchive, noai, nosnippet"], "noai"),
    ],
)  # fmt: skip
def test_x_robots_tag_speaks_to_us_when_it_names_nobody_or_us(headers: list[str], directive: str | None) -> None:
    assert refusing_directive(headers) == directive


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0), (" 0 ", 0.0), ("", None), (None, None), ("soon", None), ("-5", None), ("1.5", None),
        ("Fri, 01 Jan 2027 00:01:00 GMT", 60.0), ("Thu, 31 Dec 2026 00:00:00 GMT", 0.0), ("9" * 400, 999999999.0),
    ],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after_s(value, datetime(2027, 1, 1, tzinfo=UTC)) == seconds


def test_back_off_doubles_and_is_spread() -> None:
    for attempt, full in ((1, 0.5), (2, 1.0), (3, 2.0)):
        waits = {back_off_s(attempt, 0.5) for _ in range(50)}
        assert len(waits) > 10
        assert full / 2 <= min(waits) <= max(waits) <= full


def test_the_user_agent_is_honest_and_cannot_be_broken_by_the_contact(monkeypatch: pytest.MonkeyPatch) -> None:
    assert user_agent().startswith("zscir/")
    assert user_agent().endswith("contact: not given)")
    monkeypatch.setenv("ZSCIR_CONTACT", "data@example.org")
    assert "contact: data@example.org" in user_agent()
    monkeypatch.setenv("ZSCIR_CONTACT", "a\r\nX-Evil: 1")
    assert "Evil" not in user_agent()
