"""Partitions: which ones lie between two words, which one is over, and what they make of a file's name."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zscir.pipeline.partitions import (
    MAX_PARTITIONS,
    Partition,
    fill_template,
    last_complete_partition,
    partitions_between,
)
from zscir.runtime.errors import RequestError

DAYS = st.dates(date(1990, 1, 1), date(2090, 1, 1))


def names(*words):
    return [partition.name for partition in partitions_between(*words)]


def test_both_ends_are_included():
    assert names("2026-02-27", "2026-03-01") == ["date=2026-02-27", "date=2026-02-28", "date=2026-03-01"]
    assert names("2026-11-04", "2026-11-04") == ["date=2026-11-04"]
    assert names("8", "11") == ["shard=8", "shard=9", "shard=10", "shard=11"]


def test_weeks_months_years_and_hours_step_as_a_calendar_does():
    assert names("2026-12-28", "2027-01-11", "week") == ["date=2026-12-28", "date=2027-01-04", "date=2027-01-11"]
    assert names("2026-12-01", "2027-03-01", "month") == [
        "date=2026-12-01", "date=2027-01-01", "date=2027-02-01", "date=2027-03-01",
    ]  # fmt: skip
    assert names("2024-01-01", "2026-01-01", "year") == ["date=2024-01-01", "date=2025-01-01", "date=2026-01-01"]
    assert names("2026-11-04T22", "2026-11-05T00", "hour") == [
        "date=2026-11-04T22:00:00", "date=2026-11-04T23:00:00", "date=2026-11-05T00:00:00",
    ]  # fmt: skip


@given(DAYS, st.integers(0, 400))
def test_every_day_comes_once_and_in_order(first, more):
    found = partitions_between(first.isoformat(), (first + timedelta(days=more)).isoformat())
    assert [partition.value for partition in found] == [first + timedelta(days=number) for number in range(more + 1)]


WRONG = {
    "the later one first": (("2026-11-05", "2026-11-04"), "nothing lies between"),
    "shards backwards": (("5", "4"), "nothing lies between"),
    "no date": (("yesterday", "2026-11-04"), "--from yesterday: write a date as 2026-11-04"),
    "no date at the end": (("2026-11-04", "04.11.2026"), "--to 04.11.2026: write a date"),
    "a shard and a date": (("3", "2026-11-04"), "--from 3: write a date"),
    "an unknown length": (("2026-11-04", "2026-11-04", "fortnight"), "choose one of hour, day, week, month, year"),
    "a day as a month": (("2026-11-04", "2026-12-04", "month"), "no first day of a month"),
    "a month as a year": (("2026-11-01", "2027-11-01", "year"), "no first day of a year"),
    "an hour as a day": (("2026-11-04T05", "2026-11-05"), "no start of a day"),
    "half an hour": (("2026-11-04T05:30", "2026-11-04T07", "hour"), "no start of an hour"),
    "an offset": (("2026-11-04T05+01:00", "2026-11-04T07", "hour"), "leave the offset out"),
    "too many": (("0", str(MAX_PARTITIONS)), "more than 100,000 partitions"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_span_is_reported_with_what_is_allowed(case):
    words, refusal = WRONG[case]
    with pytest.raises(RequestError) as error:
        partitions_between(*words)
    assert refusal in str(error.value)


@pytest.mark.parametrize(
    ("every", "at", "timezone", "expected"),
    [
        ("day", "2026-11-05T03:00", "UTC", "date=2026-11-04"),
        ("day", "2026-11-05T00:00", "UTC", "date=2026-11-04"),
        ("day", "2026-03-29T22:30", "Europe/Berlin", "date=2026-03-29"),  # half past midnight there, the 30th
        ("day", "2026-11-05T03:00", "America/Los_Angeles", "date=2026-11-03"),
        ("hour", "2026-11-05T00:20", "UTC", "date=2026-11-04T23:00:00"),
        ("week", "2026-11-04T03:00", "UTC", "date=2026-10-26"),  # a Wednesday; the last whole week began on a Monday
        ("week", "2026-11-02T00:00", "UTC", "date=2026-10-26"),
        ("month", "2026-01-31T03:00", "UTC", "date=2025-12-01"),
        ("year", "2026-01-01T00:00", "UTC", "date=2025-01-01"),
    ],
)
def test_the_last_whole_partition_is_the_one_that_ended_before_the_scheduled_time(every, at, timezone, expected):
    assert last_complete_partition(every, datetime.fromisoformat(at).replace(tzinfo=UTC), timezone).name == expected


@given(st.integers(946_684_800, 2_840_140_800), st.sampled_from(["UTC", "Asia/Tokyo", "America/Lima"]))
def test_a_day_is_taken_when_it_is_over_and_not_a_day_later(seconds, timezone):
    aware = datetime.fromtimestamp(seconds, UTC)
    today = aware.astimezone(ZoneInfo(timezone)).date()
    assert last_complete_partition("day", aware, timezone).value == today - timedelta(days=1)


def test_a_time_zone_that_does_not_exist_is_reported():
    with pytest.raises(RequestError, match="Europe/Berlim"):
        last_complete_partition("day", datetime(2026, 11, 5, tzinfo=UTC), "Europe/Berlim")


def test_a_name_is_filled_with_the_value_as_its_format_says():
    values = {"date": date(2026, 11, 4), "shard": 7}
    assert fill_template("lists/{date}/*.parquet", values, "p") == "lists/2026-11-04/*.parquet"
    assert fill_template("{date:%Y/%m}/{date:%d}.csv", values, "p") == "2026/11/04.csv"
    assert fill_template("part-{shard:05d}.parquet", values, "p") == "part-00007.parquet"


def test_nothing_but_a_plain_name_in_braces_is_a_field():
    for text in ("a{}b", "{date.year}", "{date[0]}", "{ date }", "{{date.year}}", "no braces"):
        assert fill_template(text, {"date": date(2026, 11, 4)}, "p") == text


def test_a_field_without_a_value_says_how_to_give_one():
    with pytest.raises(RequestError, match=r"p: 'lists/\{date\}' has partitions.*--set partition.date=VALUE"):
        fill_template("lists/{date}", {"shard": 3}, "p")


def test_a_value_that_does_not_fit_its_format_is_reported():
    with pytest.raises(RequestError, match=r"'eu' does not fit \{shard:05d\}"):
        fill_template("{shard:05d}", {"shard": "eu"}, "p")


def test_the_set_option_of_a_partition_is_read_back_as_the_same_value():
    from zscir.pipeline.pipeline_file import parse_change

    for partition in (
        Partition("date", date(2026, 11, 4)),
        Partition("shard", 7),
        partitions_between("2026-11-04T05", "2026-11-04T05", "hour")[0],
    ):
        assert parse_change(partition.set_option) == (["partition", partition.field], partition.value)
