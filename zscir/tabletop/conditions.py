"""Draw the conditions of CIRCO queries: a change of a reference scene, which several scenes of a gallery may meet.

A condition says which things must be there (by some of their attributes), what must not, and on what ground; all else
is free. It carries the two texts of a CIRCO query and the semantic aspects that they touch.
"""

from dataclasses import dataclass, replace
from random import Random

from zscir.tabletop.captions import COUNT_WORDS, GROUND_PHRASES, article, join_phrases, word_for
from zscir.tabletop.edits import draw_edit
from zscir.tabletop.scenes import (
    COLOURS,
    GROUNDS,
    OBJECT_SIZES,
    SCENE_PLACES,
    TEXTURES,
    Scene,
    SceneObject,
    draw_object,
    held_out,
    is_sound,
    make_scene,
)
from zscir.tabletop.wording import kind_name

# Attributes and values that one thing must have; always with colour and shape.
ObjectPattern = tuple[tuple[str, str], ...]
ASPECT_OF_CHANGE = {
    "ground": "spatial_relations_background",
    "add": "addition",
    "add on ground": "addition",
    "retexture": "direct_addressing",
    "recolour": "compare_change",
    "resize": "comparative_statement",
    "move": "viewpoint",
    "count": "cardinality",
    "without": "negation",
}
# What one can say about two things, and about a lone one; "without" must leave something.
_ATTRIBUTE_CHANGES = ("retexture", "recolour", "resize", "move")
# A change that stands twice is drawn twice as often.
_CHANGES_BY_COUNT = {
    1: ("ground", "add", "add on ground", "count", *_ATTRIBUTE_CHANGES, *_ATTRIBUTE_CHANGES),
    2: ("ground", "add", "add on ground", "count", "without", "without"),
}
_APPEARANCE = ("shape", "colour", "texture")


@dataclass(frozen=True)
class TargetCondition:
    """What a scene must show, and how a person says so."""

    parts: tuple[ObjectPattern, ...]
    ground: str | None
    count: int | None
    absent: str | None
    caption: str
    concept: str
    aspects: tuple[str, ...]

    def is_met_by(self, scene: Scene) -> bool:
        """Whether ``scene`` shows all that is required."""
        return (
            self.ground in (None, scene.ground)
            and self.count in (None, len(scene.things))
            and all(thing.shape != self.absent for thing in scene.things)
            and all(any(_matches(thing, part) for thing in scene.things) for part in self.parts)
        )


def _matches(thing: SceneObject, part: ObjectPattern) -> bool:
    return all(getattr(thing, name) == value for name, value in part)


def _pattern_of(thing: SceneObject, *names: str) -> ObjectPattern:
    return tuple((name, getattr(thing, name)) for name in names)


def draw_condition(rng: Random, reference: Scene) -> TargetCondition | None:
    """A condition that ``reference``, of one or two things, does not meet itself; None where the drawn change fails."""
    change = rng.choice(_CHANGES_BY_COUNT[len(reference.things)])
    kept = tuple(_pattern_of(thing, *_APPEARANCE) for thing in reference.things)
    concept = join_phrases([article(kind_name(thing)) for thing in reference.things])
    plain = TargetCondition(kept, None, None, None, "", concept, (ASPECT_OF_CHANGE[change],))
    if change in ("ground", "add", "add on ground", "count"):
        condition = _about_scene(rng, reference, change, plain)
    elif change == "without":
        condition = _without(rng, reference, plain)
    else:
        condition = _about_thing(rng, reference, reference.things[0], change, plain)
    return condition if condition is not None and not condition.is_met_by(reference) else None


def _about_scene(rng: Random, reference: Scene, change: str, condition: TargetCondition) -> TargetCondition | None:
    """Other ground, one more thing, both, or a number of things."""
    them = "them" if len(reference.things) > 1 else "it"
    ground = rng.choice([name for name in GROUNDS if name != reference.ground])
    lies = f"{rng.choice(('is', 'lies', 'was photographed'))} {rng.choice(GROUND_PHRASES[ground])}"
    extra = draw_object(rng, SCENE_PLACES[0])
    has = f"has {article(_describe(rng, extra))} next to {them}"
    parts = (*condition.parts, _pattern_of(extra, "shape", "colour"))
    if change == "ground":
        old = f" instead of {rng.choice(GROUND_PHRASES[reference.ground])}" if rng.random() < 0.4 else ""
        return replace(condition, ground=ground, caption=lies + old)
    if extra.kind in {thing.kind for thing in reference.things} and change != "count":
        return None
    if change == "add":
        return replace(
            condition, parts=parts, caption=rng.choice((has, f"also shows {article(_describe(rng, extra))}"))
        )
    if change == "add on ground":
        caption = rng.choice((f"{lies} and {has}", f"{has} and {lies}"))
        aspects = ("addition", "spatial_relations_background", "statement_with_conjunction")
        return replace(condition, parts=parts, ground=ground, caption=caption, aspects=aspects)
    count = len(reference.things) + rng.choice((1, 2))
    ground = reference.ground
    caption = f"shows {COUNT_WORDS[count]} objects {rng.choice(GROUND_PHRASES[ground])}"
    # Four places hold four things.
    return replace(condition, count=count, ground=ground, caption=caption) if count <= 4 else None


def _describe(rng: Random, thing: SceneObject) -> str:
    return f"{thing.colour} {word_for(rng, thing.shape)}"


def _without(rng: Random, reference: Scene, condition: TargetCondition) -> TargetCondition | None:
    """All but one of the things, and nothing of that one's shape."""
    gone = rng.choice(reference.things)
    rest = [thing for thing in reference.things if thing != gone]
    if gone.shape in {thing.shape for thing in rest}:
        return None
    caption = rng.choice(("has no {noun}", "does not have the {noun}", "is shown without the {noun}"))
    return replace(
        condition,
        parts=tuple(_pattern_of(thing, *_APPEARANCE) for thing in rest),
        absent=gone.shape,
        caption=caption.format(noun=word_for(rng, gone.shape)),
        concept=join_phrases([article(kind_name(thing)) for thing in rest]),
    )


_CHANGED_ATTRIBUTE = {
    "retexture": ("texture", TEXTURES),
    "recolour": ("colour", COLOURS),
    "resize": ("size", OBJECT_SIZES),
    "move": ("place", SCENE_PLACES),
}


def _about_thing(
    rng: Random, reference: Scene, thing: SceneObject, change: str, condition: TargetCondition
) -> TargetCondition:
    """A lone thing looks otherwise or lies elsewhere; its ground stays."""
    name, values = _CHANGED_ATTRIBUTE[change]
    old = getattr(thing, name)
    new = rng.choice([value for value in values if value != old])
    described = thing if name == "size" or name == "place" else replace(thing, **{name: new})
    part = tuple({**dict(_pattern_of(described, *_APPEARANCE)), name: new}.items())
    word, was = word_for(rng, new), word_for(rng, old)
    caption = {
        "retexture": rng.choice((f"is {word}", f"has a {word} look")),
        "recolour": rng.choice((f"is {word} instead of {was}", f"has the color {word}, not {was}")),
        "resize": rng.choice((f"is {word} rather than {was}", f"is a {word} one compared to this {was} one")),
        "move": rng.choice((f"is at the {new}", f"is seen in the {new} corner")),
    }[change]
    # What the two pictures share is what the change leaves alone.
    words = {"colour": thing.colour, "texture": "" if thing.texture == "plain" else thing.texture, name: ""}
    shared = " ".join(word for word in (words["texture"], words["colour"], thing.shape) if word)
    concept = f"{article(shared)} {GROUND_PHRASES[reference.ground][0]}"
    return replace(condition, parts=(part,), ground=reference.ground, caption=caption, concept=concept)


def draw_matching_scene(rng: Random, condition: TargetCondition, ground: str, tries: int = 300) -> Scene | None:
    """A held-out scene that meets ``condition``; a free ground is most often ``ground``."""
    for _ in range(tries):
        count = condition.count or min(4, len(condition.parts) + rng.choice((0, 0, 0, 1)))
        places = rng.sample(SCENE_PLACES, count)
        things = [draw_object(rng, place) for place in places]
        for n, part in enumerate(condition.parts):
            things[n] = replace(things[n], **dict(part))
        here = condition.ground or (ground if rng.random() < 0.6 else rng.choice(GROUNDS))
        scene = make_scene(here, things)
        if is_sound(scene) and held_out(scene) and condition.is_met_by(scene):
            return scene
    return None


def draw_near_miss(rng: Random, condition: TargetCondition, reference: Scene, tries: int = 100) -> Scene | None:
    """A held-out scene that fails ``condition`` narrowly: like the reference, or like an answer but for one edit."""
    for _ in range(tries):
        start = reference if rng.random() < 0.4 else draw_matching_scene(rng, condition, reference.ground)
        edit = None if start is None else draw_edit(rng, start)
        if edit is not None and held_out(edit.after) and not condition.is_met_by(edit.after):
            return edit.after
    return None
