"""Jinja templates of the pages: every value is escaped, and an unknown name is an error."""

from pathlib import Path

import jinja2
from markupsafe import Markup

from zscir.report import formatting

TEMPLATES_FOLDER = Path(__file__).parent
# The templates' names for them: some names are taken by filters of Jinja's own, such as ``truncate`` and ``format``.
FILTERS = {
    "number": formatting.format_number,
    "seconds": formatting.format_seconds,
    "size": formatting.format_size,
    "when": formatting.format_time,
    "percent": formatting.format_percent,
    "points": formatting.format_points,
    "share": formatting.format_share,
    "cut": formatting.shorten_text,
    "breakable": formatting.breakable_name,
}


def environment() -> jinja2.Environment:
    """The templates beside this module."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(FILTERS)
    return made


def style_sheet(more: str = "") -> Markup:
    """The style of every page, followed by ``more``: rules of our own making, never text from outside."""
    text = (TEMPLATES_FOLDER / "style.css").read_text(encoding="utf-8")
    return Markup(f"{text}{more}")  # noqa: S704 - our own file and our own rules
