"""User-Agent, Retry-After and X-Robots-Tag: the HTTP headers of a polite downloader, and its back-off."""

import os
import random
from collections.abc import Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from zscir import __version__

ROBOTS_AGENT = "zscir"
# "none" is "noindex, nofollow"; "noai" and "noimageai" are in no standard, but img2dataset honours them too.
NO_USE_DIRECTIVES = {"noai", "noimageai", "noindex", "noimageindex", "none"}


def user_agent() -> str:
    """The User-Agent header. ``ZSCIR_CONTACT`` is a mail address or a page of the person who runs this."""
    contact = os.environ.get("ZSCIR_CONTACT", "").strip()
    if not (contact and contact.isascii() and contact.isprintable()):
        contact = "not given"
    return f"{ROBOTS_AGENT}/{__version__} (image dataset builder; contact: {contact})"


def back_off_s(attempt: int, first_s: float) -> float:
    """Seconds before the retry that follows ``attempt`` (1, 2, ...): doubling, with a jitter of half of it."""
    return first_s * 2.0 ** (attempt - 1) * random.uniform(0.5, 1.0)


def retry_after_s(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds in a Retry-After header (a number or an HTTP date, RFC 9110 10.2.3); None when it is neither."""
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])  # 30 years are enough
    try:
        when = parsedate_to_datetime(text)
    except (TypeError, ValueError, IndexError):
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - (now or datetime.now(UTC))).total_seconds())


def refusing_directive(headers: Iterable[str]) -> str | None:
    """The directive among X-Robots-Tag headers that forbids the use of an image, or None.

    A header may start with the name of one robot; then it counts only if that is ours.
    """
    for header in headers:
        agent, colon, rest = header.partition(":")
        named = bool(colon) and "," not in agent and agent.strip().lower() != "unavailable_after"
        if named and agent.strip().lower() != ROBOTS_AGENT:
            continue
        for directive in (rest if named else header).split(","):
            if directive.strip().lower() in NO_USE_DIRECTIVES:
                return directive.strip().lower()
    return None
