"""Captions become the exact query strings of a named text protocol (the literature's evaluation code)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zscir.benchmarks.query import Query
from zscir.runtime.errors import RequestError

TextMaker = Callable[[Query], list[str]]
STRIPPED = ".?, "


def query_texts(benchmark: str, protocol: str, queries: Sequence[Query]) -> list[list[str]]:
    """Per query the strings of ``protocol``; two where the features of both caption orders are averaged."""
    makers = TEXT_PROTOCOLS[benchmark]
    if protocol not in makers:
        raise RequestError(f"no text protocol '{protocol}' for {benchmark}; it has {', '.join(sorted(makers))}")
    return [makers[protocol](query) for query in queries]


def _two_captions(template: str, *, strip: bool, swap: bool) -> TextMaker:
    """FashionIQ, one order: ``{0}`` and ``{1}`` are the first and second caption."""

    def make(query: Query) -> list[str]:
        first, second = (caption.strip(STRIPPED) if strip else caption for caption in query.captions)
        return [template.format(second, first) if swap else template.format(first, second)]

    return make


def _both_orders(template: str, *, strip: bool) -> TextMaker:
    forward, backward = (
        _two_captions(template, strip=strip, swap=False),
        _two_captions(template, strip=strip, swap=True),
    )
    return lambda query: forward(query) + backward(query)


def _clip4cir(query: Query) -> list[str]:
    first, second = (caption.strip(STRIPPED) for caption in query.captions)
    return [f"{first.capitalize()} and {second}"]


def _one_caption(template: str) -> TextMaker:
    return lambda query: [template.format(query.captions[0], query.shared_concept)]


_PLAIN = {name: _one_caption("{0}") for name in ("clip4cir", "cirevl", "pli", "raw")}
_SEARLE = "a photo of $ that {0}"

TEXT_PROTOCOLS: dict[str, dict[str, TextMaker]] = {
    "fashioniq": {
        "searle": _both_orders("a photo of $ that {0} and {1}", strip=True),
        "pic2word": _two_captions("a photo of * , {0} and {1}", strip=False, swap=True),
        "clip4cir": _clip4cir,
        "cirevl": _two_captions("{0} and {1}", strip=True, swap=False),
        "pli": _both_orders("{0} and {1}", strip=False),
        "tscir": _two_captions("a photo of * , that {0} and {1}", strip=False, swap=True),
        "tscir_training": _two_captions("a photo of * that {0} and {1}", strip=False, swap=True),
        "raw": _two_captions("{0} and {1}", strip=False, swap=False),
    },
    "cirr": {
        **_PLAIN,
        "searle": _one_caption(_SEARLE),
        "pic2word": _one_caption("a photo of * , {0}"),
        "tscir": _one_caption("a photo of * , that {0}"),
        "tscir_training": _one_caption("a photo of * that {0}"),
    },
    "circo": {
        **_PLAIN,
        "searle": _one_caption(_SEARLE),
        "pic2word": _one_caption("a photo of * , {0}"),
        "tscir": _one_caption("a photo of * that {0}"),
        "tscir_training": _one_caption("a photo of * that {0}"),
        "shared_concept": _one_caption("find {1} but {0}"),  # MagicLens: another, easier input; never beside the others
    },
    "genecis": {
        **_PLAIN,
        "searle": _one_caption(_SEARLE),
        "pic2word": _one_caption(_SEARLE),  # the published Pic2Word numbers are LinCIR's, with LinCIR's string
        "tscir": _one_caption("a photo of * that {0}"),
        "tscir_training": _one_caption("a photo of * that {0}"),
    },
}
