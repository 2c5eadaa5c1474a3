"""Wording: an edit becomes a sentence of the kind that annotators of a benchmark write; several for each edit.

Three manners: ``asking`` ("take the ring away", as in CIRR), ``brief`` (the same where two wishes go into one
sentence) and ``terse`` ("is red and not blue", as in FashionIQ).
"""

from random import Random

from zscir.tabletop.captions import COUNT_WORDS, GROUND_PHRASES, PLACE_PHRASES, article, join_phrases, word_for
from zscir.tabletop.edits import EDITED_ATTRIBUTE, SceneEdit
from zscir.tabletop.scenes import Scene, SceneObject

# {the}: the thing as it was, no longer than needed to tell it from the others, or "it". {noun}: the same without
# article, never "it". {a_new}: the new thing in full.
# {was} and {is_}: the attribute's old and new value. {it}: "it" for a lone thing, "them" for several.
SENTENCES: dict[str, dict[str, tuple[str, ...]]] = {
    "asking": {
        "recolour": (
            "make {the} {is_}",
            "{the} should be {is_} now",
            "same picture but with {the} in {is_}",
            "paint {the} {is_}",
            "I want {is_} for {the}, not {was}",
            "show {the} in {is_} instead of {was}",
        ),
        "reshape": (
            "swap {the} for {a_new}",
            "{a_new} in place of {the}",
            "put {a_new} where {the} was",
            "no more {noun}, {a_new} is there instead",
            "have {a_new} rather than the {noun}",
        ),
        "retexture": (
            "make {the} {is_}",
            "{the} should look {is_} rather than {was}",
            "same picture, only that {the} is {is_}",
            "give me a {is_} {noun} instead of a {was} one",
        ),
        "resize": (
            "make {the} {is_}",
            "same but with a {is_} {noun}",
            "I need {the} to be {is_}, not {was}",
            "a {is_} {noun} instead of the {was} one",
        ),
        "move": ("move {the} to the {place}", "put {the} in the {place} corner", "{the} sits at the {place} now"),
        "add": (
            "add {a_new}{at}",
            "there is also {a_new}{at}",
            "put {a_new}{at} with {it}",
            "one more object: {a_new}{at}",
            "with {a_new} as well{at}",
            "the same, and {a_new}{at} joins {it}",
        ),
        "remove": (
            "remove {the}",
            "take {the} away",
            "the same without {the}",
            "get rid of {the}",
            "leave only {rest}",
            "just {rest}, no {noun}",
        ),
        "ground": (
            "put {it} {on_ground}",
            "same {objects} but {on_ground}",
            "move everything {on_ground}",
            "I want to see {it} {on_ground} instead",
            "take the picture {on_ground}, not {on_old}",
        ),
        "recolour all": ("make everything {is_}", "the same objects, all {is_}", "all {count} of them in {is_}"),
        "retexture all": ("the same objects but {is_}", "make them all {is_}", "everything is {is_} now"),
    },
    "brief": {
        "recolour": ("make the {noun} {is_}", "paint the {noun} {is_}", "turn the {noun} {is_}"),
        "reshape": ("swap the {noun} for {a_new}", "put {a_new} where the {noun} was"),
        "retexture": ("make the {noun} {is_}", "have the {noun} {is_}"),
        "resize": ("make the {noun} {is_}", "have the {noun} {is_}"),
        "move": ("move the {noun} to the {place}", "put the {noun} in the {place} corner"),
        "add": ("add {a_new}{at}", "put {a_new} there too{at}"),
        "remove": ("remove the {noun}", "take the {noun} away"),
        "ground": ("put everything {on_ground}", "move it all {on_ground}"),
        "recolour all": ("make everything {is_}",),
        "retexture all": ("make everything {is_}",),
    },
    "terse": {
        "recolour": ("is {is_}", "{is_} instead of {was}", "is {is_} and not {was}", "more {is_}", "in {is_}"),
        "reshape": ("is {a_new_shape}", "{a_new_shape}, not {a_shape}", "is shaped like {a_new_shape}"),
        "retexture": ("is {is_}", "{is_} and not {was}", "has a {is_} look", "{is_}"),
        "resize": ("is {is_}", "is a {is_} one", "{is_} not {was}"),
        "move": ("is at the {place}", "sits in the {place} corner"),
        "add": ("has {a_new} too", "comes with {a_new}", "also {a_new}"),
        "remove": ("has no {noun}", "without {the}", "{the} is gone"),
        "ground": ("is {on_ground}", "lies {on_ground}", "{on_ground} instead"),
        "recolour all": ("is all {is_}", "everything {is_}"),
        "retexture all": ("is all {is_}", "everything {is_}"),
    },
}


def sentence_of(rng: Random, edit: SceneEdit, manner: str, tell_place: bool = False) -> str:
    """One sentence that asks for ``edit``; ``tell_place`` makes an addition say where."""
    template = rng.choice(SENTENCES[manner][edit.kind])
    said = template.format(**_fields(rng, edit, tell_place))
    # In a scene of several things, "is red" must say what is.
    named = edit.old if edit.kind in EDITED_ATTRIBUTE and len(edit.before.things) > 1 else None
    if manner == "terse" and named is not None:
        return f"the {shortest_name(rng, edit.before, named)} {_as_clause(said)}"
    return said


def _as_clause(said: str) -> str:
    return said if said.startswith(("is ", "has ", "sits ")) else f"is {said}"


def shortest_name(rng: Random, scene: Scene, thing: SceneObject) -> str:
    """The shortest words that name ``thing`` in ``scene``; now and then with its colour though not needed."""
    alike = [other for other in scene.things if other.shape == thing.shape]
    noun = word_for(rng, thing.shape)
    return f"{thing.colour} {noun}" if len(alike) > 1 or rng.random() < 0.35 else noun


def full_name(rng: Random, thing: SceneObject) -> str:
    """All attributes of ``thing``; an untold texture is plain."""
    texture = [] if thing.texture == "plain" else [word_for(rng, thing.texture)]
    return " ".join([word_for(rng, thing.size), *texture, thing.colour, word_for(rng, thing.shape)])


def kind_name(thing: SceneObject) -> str:
    """Texture (unless plain), colour and shape, without synonyms."""
    return " ".join([*([thing.texture] if thing.texture != "plain" else []), thing.colour, thing.shape])


def _fields(rng: Random, edit: SceneEdit, tell_place: bool) -> dict[str, str]:
    """What a template may mention; every field is there, the unfit ones are empty."""
    before = edit.before
    several = len(before.things) > 1
    fields = dict.fromkeys(("the", "noun", "rest", "a_shape", "a_new", "a_new_shape", "was", "is_", "place", "at"), "")
    fields["it"] = "them" if several else "it"
    fields["objects"] = "objects" if several else "object"
    fields["count"] = COUNT_WORDS[len(before.things)]
    if edit.kind == "remove":
        fields["rest"] = join_phrases([f"the {shortest_name(rng, before, t)}" for t in edit.after.things])
    fields["on_ground"] = rng.choice(GROUND_PHRASES[edit.after.ground])
    fields["on_old"] = rng.choice(GROUND_PHRASES[before.ground])
    if edit.old is not None:
        fields["noun"] = shortest_name(rng, before, edit.old)
        # Of a lone thing people say "it": then only the picture tells what it is.
        fields["the"] = f"the {fields['noun']}" if several or rng.random() < 0.4 else "it"
        fields["a_shape"] = article(edit.old.shape)
    if edit.new is not None:
        fields["a_new"] = article(full_name(rng, edit.new))
        fields["a_new_shape"] = article(word_for(rng, edit.new.shape))
        fields["place"] = edit.new.place
        told = tell_place or rng.random() < 0.3
        fields["at"] = f" {rng.choice(PLACE_PHRASES[edit.new.place])}" if told else ""
    _values(rng, edit, fields)
    return fields


def _values(rng: Random, edit: SceneEdit, fields: dict[str, str]) -> None:
    if edit.kind in EDITED_ATTRIBUTE and edit.old is not None and edit.new is not None:
        fields["was"] = word_for(rng, getattr(edit.old, EDITED_ATTRIBUTE[edit.kind]))
        fields["is_"] = word_for(rng, getattr(edit.new, EDITED_ATTRIBUTE[edit.kind]))
    if edit.kind in ("recolour all", "retexture all"):
        attribute = "colour" if edit.kind == "recolour all" else "texture"
        fields["is_"] = word_for(rng, getattr(edit.after.things[0], attribute))
