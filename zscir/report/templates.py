"""Templates: values become HTML, each of them escaped; an unknown name is an error."""

from pathlib import Path

import jinja2
from markupsafe import Markup

from zscir.report import formatting

FOLDER = Path(__file__).parent
FILTERS = (
    formatting.number, formatting.seconds, formatting.size, formatting.when, formatting.percent, formatting.points,
    formatting.share, formatting.cut, formatting.breakable,
)  # fmt: skip


def environment() -> jinja2.Environment:
    """The templates beside this module."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    made.filters.update({one.__name__: one for one in FILTERS})
    return made


def style_sheet(more: str = "") -> Markup:
    """The style of every page, and what is ``more``: rules of our own making, never words from outside."""
    text = (FOLDER / "style.css").read_text(encoding="utf-8")
    return Markup(f"{text}{more}")  # noqa: S704 - our own file
