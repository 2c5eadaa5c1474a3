from datetime import UTC, datetime

import pytest

from zscir.report.formatting import (
    breakable_name,
    format_number,
    format_percent,
    format_points,
    format_seconds,
    format_share,
    format_size,
    format_time,
    shorten_text,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "\u2013"),
        (0.0, "0.0 s"),
        (0.01, "< 0.1 s"),
        (3.14, "3.1 s"),
        (59.4, "59 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
    ],
)
def test_durations_read_as_a_person_says_them(value: float | None, text: str) -> None:
    assert format_seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (200 * 1024**2, "200 MiB"),
        (5 * 1024**4, "5.0 TiB"),
        (None, "\u2013"),
    ],
)
def test_sizes_are_powers_of_1024(value: int | None, text: str) -> None:
    assert format_size(value) == text


def test_numbers_have_thousands_separators() -> None:
    assert [format_number(1234567), format_number(12.345), format_number(None)] == ["1,234,567", "12.35", "\u2013"]


def test_a_small_share_is_not_rounded_to_nothing() -> None:
    assert [format_share(1, 10), format_share(1, 100_000), format_share(0, 5), format_share(3, 0)] == [
        "10.0 %",
        "< 0.1 %",
        "0.0 %",
        "\u2013",
    ]


def test_scores_have_two_decimals() -> None:
    assert [format_percent(12.3456), format_percent(None)] == ["12.35", "\u2013"]


def test_a_moment_is_utc() -> None:
    assert format_time(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)) == "2026-01-02 03:04:05 UTC"


def test_long_text_is_cut_and_put_on_one_line() -> None:
    assert shorten_text("a\n  b\tc") == "a b c"
    assert shorten_text("x" * 300, 10) == "x" * 9 + "\u2026"
    assert shorten_text(None) == ""


def test_names_may_break_after_underscores_and_are_escaped() -> None:
    assert breakable_name("a_<b>_c") == "a_<wbr>&lt;b&gt;_<wbr>c"


def test_a_difference_has_its_sign() -> None:
    assert [format_points(1.234), format_points(-2), format_points(-0.0)] == ["+1.23", "-2.00", "+0.00"]
