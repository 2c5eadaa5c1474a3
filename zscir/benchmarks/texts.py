"""Templates of the text protocols: captions become the exact query strings of the literature's evaluation code."""

from __future__ import annotations

from zscir.benchmarks.info import TextMaker
from zscir.benchmarks.query import Query

STRIPPED = ".?, "
SEARLE_TEXT = "a photo of $ that {0}"


def one_caption(template: str) -> TextMaker:
    """One string per query: ``{0}`` is its caption, ``{1}`` what reference and targets share (CIRCO)."""
    return lambda query: [template.format(query.captions[0], query.shared_concept)]


def two_captions(template: str, *, strip: bool, swap: bool) -> TextMaker:
    """FashionIQ, one order: ``{0}`` and ``{1}`` are the first and second caption."""

    def make(query: Query) -> list[str]:
        first, second = (caption.strip(STRIPPED) if strip else caption for caption in query.captions)
        return [template.format(second, first) if swap else template.format(first, second)]

    return make


def both_orders(template: str, *, strip: bool) -> TextMaker:
    """FashionIQ, both orders of its captions; the features of the two strings are averaged."""
    forward = two_captions(template, strip=strip, swap=False)
    backward = two_captions(template, strip=strip, swap=True)
    return lambda query: forward(query) + backward(query)


def clip4cir_captions(query: Query) -> list[str]:
    """FashionIQ as CLIP4Cir joins its captions: only the first begins with a capital."""
    first, second = (caption.strip(STRIPPED) for caption in query.captions)
    return [f"{first.capitalize()} and {second}"]


# Protocols that ask by the bare caption where there is only one.
BARE_CAPTION = {name: one_caption("{0}") for name in ("clip4cir", "cirevl", "pli", "raw")}
