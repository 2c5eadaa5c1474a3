"""Format numbers, times, sizes and names for people to read."""

from datetime import datetime
from typing import Any

from markupsafe import Markup

EMPTY_VALUE = "\u2013"


def format_number(value: Any) -> str:
    """An integer with thousands separators, a float with two decimals, a dash for nothing."""
    if value is None:
        return EMPTY_VALUE
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def format_seconds(value: float | None) -> str:
    """A duration: ``< 0.1 s``, ``0.4 s``, ``12 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if value is None:
        return EMPTY_VALUE
    if 0 < value < 0.05:
        return "< 0.1 s"
    if value < 10:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def format_size(value: int | None) -> str:
    """Bytes in powers of 1024: ``512 B``, ``3.4 MiB``."""
    if value is None:
        return EMPTY_VALUE
    amount, unit = float(value), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if amount < 1024 or unit == "TiB":
            break
        amount /= 1024
    return f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"


def format_time(value: datetime | None) -> str:
    """A moment, UTC."""
    return EMPTY_VALUE if value is None else f"{value:%Y-%m-%d %H:%M:%S} UTC"


def format_percent(value: float | None) -> str:
    """A score in percent with two decimals, as the literature prints it."""
    return EMPTY_VALUE if value is None else f"{value:.2f}"


def format_points(value: float) -> str:
    """A difference of two scores, always with its sign."""
    return f"{value + 0.0:+.2f}"


def format_share(part: float, whole: float) -> str:
    """``part`` of ``whole`` in percent; tiny shares are not rounded to nothing."""
    if not whole:
        return EMPTY_VALUE
    value = 100 * part / whole
    return "< 0.1 %" if 0 < value < 0.1 else f"{value:.1f} %"


def breakable_name(name: str) -> Markup:
    """A name that may be broken after each underscore; everything else in it is escaped."""
    return Markup("_<wbr>").join(name.split("_"))


def shorten_text(text: str | None, max_chars: int = 160) -> str:
    """At most ``max_chars`` characters of ``text`` on one line."""
    flat = " ".join((text or "").split())
    return flat if len(flat) <= max_chars else flat[: max_chars - 1].rstrip() + "…"
