"""Phrase changes as short requests in a user's words: an order, a "the same but" and a statement."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random

from zscir.llm import lexicon as lex
from zscir.llm.answer import EditType
from zscir.llm.caption_diff import CaptionChange
from zscir.llm.caption_parser import with_indefinite_article

MIN_REQUEST_WORDS, MAX_REQUEST_WORDS, MAX_REQUEST_CHARS = 3, 20, 160  # the limits of the answer schema and its filter
_TRIES = 12  # drawn phrasings that may break them before a style is given up
# A phrasing that stands twice is drawn twice as often, here and in the wordings below.
_FRAMES = {
    "order": ("{}", "{}", "{}, please", "please {}", "{}, keep the rest"),
    "clause": (
        "the same but {}",
        "same scene but {}",
        "like this, {}",
        "the same thing, {}",
        "similar, but {}",
        "this one {}",
    ),
    "statement": ("{}", "{}", "now {}", "this time {}", "I want this, but {}"),
}
_EDIT_TYPES: dict[str, EditType] = {
    "count": "cardinality",
    "add": "addition",
    "remove": "negation",
    "setting": "spatial & background",
    "position": "spatial & background",
    "replace": "compare & change",
    "all": "direct addressing",
}


def paraphrase_changes(changes: tuple[CaptionChange, ...], is_only_object: bool, rng: Random) -> list[str]:
    """Three requests of different style in drawn order; fewer where a style does not fit into 3 to 20 words.

    ``is_only_object``: the reference shows one object, so that "it" is clear.
    """
    styles = list(_FRAMES)
    rng.shuffle(styles)
    return [text for text in (_request(style, changes, is_only_object, rng) for style in styles) if text]


def edit_type_of(changes: tuple[CaptionChange, ...]) -> EditType:
    """The kind of edit that the changes make up."""
    if len(changes) > 1:
        return "conjunction"  # CIRR's name for two requests in one sentence
    if changes[0].attribute == "size":
        return "comparative"
    return _EDIT_TYPES.get(changes[0].kind, "direct addressing")


def _request(style: str, changes: tuple[CaptionChange, ...], is_only_object: bool, rng: Random) -> str:
    for _ in range(_TRIES):
        clauses = [
            rng.choice(WORDINGS[change.kind](change, _the_subject(change, is_only_object, rng))[style])
            for change in changes
        ]
        text = " ".join(rng.choice(_FRAMES[style]).format(english_list(clauses)).split())
        if (
            MIN_REQUEST_WORDS <= len(text.split()) <= MAX_REQUEST_WORDS
            and len(text) <= MAX_REQUEST_CHARS
            and not _repeats_words(text)
        ):
            return text
    return ""


def _repeats_words(text: str) -> bool:
    """Whether a frame and a wording both say "now", "but", "instead" and the like."""
    marks = (" now ", " this time", "but ", " instead ", " rest")
    return any(f" {text} ".count(mark) > 1 for mark in marks) or ("now " in text and "this time" in text)


def english_list(parts: Iterable[str]) -> str:
    """Parts as an English list."""
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


def _the_subject(change: CaptionChange, is_only_object: bool, rng: Random) -> str:
    return (
        "it"
        if is_only_object and not change.plural and change.attribute != "material" and rng.random() < 0.4
        else f"the {change.subject}"
    )


Wording = dict[str, list[str]]


def _attribute(change: CaptionChange, the: str) -> Wording:
    new, verb = " and ".join(change.new.split()), "are" if change.plural else "is"
    shown = (
        f"{change.new} {change.subject}" if change.plural else with_indefinite_article(f"{change.new} {change.subject}")
    )
    orders = [f"make {the} {new}"]
    statements = [f"{the} {verb} {new}", f"{the} should be {new}"]
    if change.attribute == "colour":
        orders += [f"turn {the} {new}", f"change {the} to {new}"]
    if change.attribute == "size":
        orders.append(f"make {the} {_compared(new)}")
        statements.append(f"{the} should be {_compared(new)}")
    if change.old:
        orders.append(f"make {the} {new} instead of {change.old}")
        statements.append(f"{the} {verb} {new}, not {change.old}")
    return {"order": orders, "clause": [f"with {shown}", f"with the {change.subject} {new}"], "statement": statements}


def _compared(size: str) -> str:
    """ "small" as a comparison: "smaller"."""
    return " ".join(lex.COMPARATIVES.get(lex.SYNONYMS.get(word, word), word) for word in size.split())


def _all(change: CaptionChange, the: str) -> Wording:
    new = change.new
    return {
        "order": [f"make everything {new}", f"make them all {new}", f"turn all of them {new}"],
        "clause": [
            f"with everything {new}",
            f"all in {new}" if change.attribute == "colour" else f"with all of them {new}",
        ],
        "statement": [f"everything is {new}", f"all of them are {new}", f"they should all be {new}"],
    }


def _position(change: CaptionChange, the: str) -> Wording:
    where = f"{'on' if change.new in ('left', 'right') else 'at'} the {change.new}"
    verb = "are" if change.plural else "is"
    return {
        "order": [f"move {the} to the {change.new}", f"put {the} {where}"],
        "clause": [f"with the {change.subject} {where}", f"with the {change.subject} moved to the {change.new}"],
        "statement": [f"{the} {verb} {where}", f"{the} should be {where}"],
    }


def _action(change: CaptionChange, the: str) -> Wording:
    verb = "are" if change.plural else "is"
    orders = [f"have {the} {change.new}", f"show {the} {change.new}"]
    statements = [f"{the} {verb} {change.new}", f"{the} should be {change.new}"]
    if change.old:
        orders.append(f"have {the} {change.new} instead of {change.old}")
        statements.append(f"{the} {verb} {change.new}, not {change.old}")
    return {"order": orders, "clause": [f"with the {change.subject} {change.new}"], "statement": statements}


def _count(change: CaptionChange, the: str) -> Wording:
    verb = "are" if change.plural else "is"
    only = "" if change.plural else "only "
    return {
        "order": [f"show {only}{change.new}", f"make it {change.new}", f"make it {change.new}, not {change.old}"],
        "clause": [f"with {only}{change.new}", f"with {change.new} instead of {change.old}"],
        "statement": [f"there {verb} {only}{change.new}", f"{change.new} instead of {change.old}"],
    }


def _replace(change: CaptionChange, the: str) -> Wording:
    old, new = f"the {change.old}", change.new
    return {
        "order": [
            f"replace {old} with {new}",
            f"swap {old} for {new}",
            f"change {old} into {new}",
            f"use {new} instead of {old}",
        ],
        "clause": [f"with {new} instead of {old}", f"with {new} in place of {old}", f"with {new}, not {old}"],
        "statement": [
            f"{new} instead of {old}",
            f"{new} where {old} {'were' if change.plural else 'was'}",
            f"it has {new}, not {old}",
        ],
    }


def _add(change: CaptionChange, the: str) -> Wording:
    new, verb = change.new, "are" if change.plural else "is"
    return {
        "order": [f"add {new}", f"include {new} too", f"put in {new}", f"put {new} there as well"],
        "clause": [f"with {new} added", f"with {new} as well", f"with {new} too"],
        "statement": [f"there {verb} {new} too", f"it also has {new}", f"{new} {verb} there as well"],
    }


def _remove(change: CaptionChange, the: str) -> Wording:
    old, verb = change.old, "are" if change.plural else "is"
    return {
        "order": [f"remove the {old}", f"take the {old} away", f"drop the {old}", f"leave out the {old}"],
        "clause": [f"without the {old}", f"with no {old}", f"with the {old} gone"],
        "statement": [f"the {old} {verb} gone", f"no {old} this time", f"there {verb} no {old} any more"],
    }


def _setting(change: CaptionChange, the: str) -> Wording:
    new, place = change.new, change.new.partition(" ")[2]
    orders = [f"put it {new}", f"show it {new}", f"have it {new}"]
    statements = [f"it is {new}", f"it should be {new}", f"everything is {new}"]
    clauses = [new, new]
    if change.old:
        orders.append(f"change the {change.subject} to {place}")
        clauses.append(f"{new} instead of {change.old}")
        statements.append(f"it is {new}, not {change.old}")
    return {"order": orders, "clause": clauses, "statement": statements}


WORDINGS: dict[str, Callable[[CaptionChange, str], Wording]] = {
    "attribute": _attribute,
    "all": _all,
    "position": _position,
    "action": _action,
    "count": _count,
    "replace": _replace,
    "add": _add,
    "remove": _remove,
    "setting": _setting,
}
