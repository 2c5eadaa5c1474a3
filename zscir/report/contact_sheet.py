"""Contact sheets: cards of pictures and text, as the page's templates show them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from zscir.report.thumbnails import Thumbnail

MAX_STEPS = 6  # steps of one stage that a page shows
_T = TypeVar("_T")


@dataclass(frozen=True)
class FramedPicture:
    """A picture in a frame: ``frame`` is empty, ``reference`` or ``right``."""

    picture: Thumbnail
    label: str = ""
    frame: str = ""


@dataclass(frozen=True)
class Card:
    """Pictures and the text that belongs to them; ``detail`` is the small print, ``mark`` success, failure or empty."""

    pictures: tuple[FramedPicture, ...]
    text: str
    detail: str = ""
    mark: str = ""


@dataclass(frozen=True)
class FoldedCards:
    """Cards of one evaluation, which a reader may fold away."""

    title: str
    about: str
    open: bool
    cards: tuple[Card, ...]


@dataclass(frozen=True)
class ContactSheet:
    """Cards under a title. ``kind`` is how they are laid out: pairs, masked, triplets or retrieval."""

    kind: str
    title: str
    about: str
    cards: tuple[Card, ...] = ()
    folds: tuple[FoldedCards, ...] = ()


def divide_cards(steps: Sequence[_T], max_cards: int) -> list[tuple[_T, int]]:
    """At most six steps, each with its share of ``max_cards`` cards (at least two)."""
    chosen = steps[:MAX_STEPS]
    return [(step, max(2, max_cards // len(chosen))) for step in chosen]
