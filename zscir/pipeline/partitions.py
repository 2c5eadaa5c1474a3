"""Partitions: fill the ``{date}`` or ``{shard}`` in the files that a pipeline reads, once for each date or shard.

``urls = "lists/{date}/*.parquet"``, ``"lists/{date:%Y/%m}.csv"`` and ``"lists/part-{shard:05d}.parquet"`` are such
files; after the colon stands what Python's ``format`` takes. A partition enters keys by its files alone: the same
files under another date are reused. ``--set partition.date=2026-11-04`` gives one to any command;
``zscir backfill`` runs many, one after another.
"""

import re
from calendar import monthrange
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Literal, get_args
from zoneinfo import ZoneInfo

from zscir.runtime.errors import RequestError

PARTITION_TABLE = "partition"
PartitionLength = Literal["hour", "day", "week", "month", "year"]
MAX_PARTITIONS = 100_000  # the hours of 11 years; more is a typing error in a date
_FIELD = re.compile(r"\{(\w+)(?::([^{}]+))?\}")
_LENGTHS = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(weeks=1)}


@dataclass(frozen=True)
class Partition:
    """One slice of a source: the value of its ``{date}`` or ``{shard}``."""

    field: str
    value: date | int

    @property
    def name(self) -> str:
        """``date=2026-11-04``, ``shard=7``: what a person calls it."""
        return f"{self.field}={self.value.isoformat() if isinstance(self.value, date) else self.value}"

    @property
    def set_option(self) -> str:
        """The ``--set`` change that selects it."""
        return f"{PARTITION_TABLE}.{self.name}"


def fill_template(text: str, values: Mapping[str, Any], where: str) -> str:
    """``text`` with its fields filled; RequestError when one has no value or does not fit its format."""

    def fill(match: re.Match[str]) -> str:
        name, form = match[1], match[2] or ""
        if name not in values:
            raise RequestError(
                f"{where}: '{text}' has partitions; say which: --set {PARTITION_TABLE}.{name}=VALUE, or zscir backfill"
            )
        try:
            return format(values[name], form)
        except (ValueError, TypeError) as error:
            raise RequestError(f"{where}: '{text}': {values[name]!r} does not fit {match[0]}: {error}") from None

    return _FIELD.sub(fill, text)


def partitions_between(first: str, last: str, every: str = "day") -> list[Partition]:
    """The partitions from ``first`` to ``last``, both included: whole numbers are shards, anything else is a date."""
    # So 2026 is a shard: the year is written 2026-01-01, with --every year.
    if first.isdecimal() and last.isdecimal():
        found = [Partition("shard", number) for number in range(int(first), int(last) + 1)][: MAX_PARTITIONS + 1]
    else:
        start, end = _moment(first, "--from", every), _moment(last, "--to", every)
        found = []
        # One more than allowed is enough to refuse: "0001-01-01" for 2026-01-01 must not fill the memory first.
        while start <= end and len(found) <= MAX_PARTITIONS:
            found.append(Partition("date", start if every == "hour" else start.date()))
            start = _next(start, every)
    if not found:
        raise RequestError(f"--from {first} --to {last}: nothing lies between; give the earlier one first")
    if len(found) > MAX_PARTITIONS:
        raise RequestError(f"--from {first} --to {last}: more than {MAX_PARTITIONS:,} partitions; give a shorter span")
    return found


def last_complete_partition(every: PartitionLength, at: datetime, timezone: str) -> Partition:
    """The newest partition that is over at ``at`` (aware): what a nightly schedule takes is yesterday."""
    # Truncated to the hour in the zone's own time, and without a zone from here on: partitions have names, not moments.
    now = at.astimezone(_zone(timezone)).replace(minute=0, second=0, microsecond=0, tzinfo=None)
    if every == "hour":
        return Partition("date", now - _LENGTHS["hour"])
    today = now.date()
    return Partition(
        "date",
        {
            "day": today - timedelta(days=1),
            "week": today - timedelta(days=today.weekday() + 7),
            "month": (today.replace(day=1) - timedelta(days=1)).replace(day=1),
            "year": date(today.year - 1, 1, 1),
        }[every],
    )


def parse_partition_length(text: str) -> PartitionLength:
    """``text`` as a length of partitions; RequestError when it is none."""
    found: PartitionLength | None = next((length for length in get_args(PartitionLength) if length == text), None)
    if found is None:
        raise RequestError(f"'{text}' is no length of partitions; choose one of {', '.join(get_args(PartitionLength))}")
    return found


def _moment(text: str, option: str, every: str) -> datetime:
    parse_partition_length(every)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise RequestError(
            f"{option} {text}: write a date as 2026-11-04, an hour as 2026-11-04T05, a shard as 7"
        ) from None
    if moment.tzinfo is not None:
        raise RequestError(f"{option} {text}: partitions have names, not time zones; leave the offset out")
    if moment != moment.replace(minute=0, second=0, microsecond=0) or (every != "hour" and moment.hour):
        raise RequestError(f"{option} {text}: no start of {'an hour' if every == 'hour' else 'a day'}")
    if (every in ("month", "year") and moment.day != 1) or (every == "year" and moment.month != 1):
        raise RequestError(f"{option} {text}: no first day of a {every}")
    return moment


def _next(start: datetime, every: str) -> datetime:
    if every in _LENGTHS:
        return start + _LENGTHS[every]
    if every == "year":
        return start.replace(year=start.year + 1)
    # From the first of a month, which _moment demands: 31 January has no counterpart in February.
    return start + timedelta(days=monthrange(start.year, start.month)[1])


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown; not a name, such as ../UTC; a folder of the time zone database
        raise RequestError(f"time zone '{name}' is not known; write it as Europe/Berlin or UTC") from None
