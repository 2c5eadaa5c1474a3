"""Edits: a scene becomes a nearby scene by one change that a person could ask for in a sentence."""

from dataclasses import dataclass, replace
from random import Random

from zscir.tabletop.scenes import (
    COLOURS,
    GROUNDS,
    OBJECT_SIZES,
    SCENE_PLACES,
    SHAPES,
    TEXTURES,
    Scene,
    SceneObject,
    draw_object,
    held_out,
    is_sound,
    make_scene,
    with_object,
    without_object,
)

EDIT_WEIGHTS = {
    "recolour": 18,
    "reshape": 14,
    "retexture": 10,
    "resize": 8,
    "move": 6,
    "add": 16,
    "remove": 10,
    "ground": 12,
    "recolour all": 3,
    "retexture all": 3,
}
_VALUES = {"colour": COLOURS, "shape": SHAPES, "texture": TEXTURES, "size": OBJECT_SIZES, "place": SCENE_PLACES}
# The edits that change one attribute of one thing, and the attribute.
EDITED_ATTRIBUTE = {"recolour": "colour", "reshape": "shape", "retexture": "texture", "resize": "size", "move": "place"}


@dataclass(frozen=True)
class SceneEdit:
    """``before`` becomes ``after``. ``old`` and ``new`` are the thing concerned where the edit is about one thing."""

    kind: str
    before: Scene
    after: Scene
    old: SceneObject | None = None
    new: SceneObject | None = None


def draw_edit(rng: Random, scene: Scene, kinds: tuple[str, ...] = tuple(EDIT_WEIGHTS)) -> SceneEdit | None:
    """One edit of ``scene`` of a drawn kind, or None where that kind does not apply or makes an unsound scene."""
    kind = rng.choices(kinds, [EDIT_WEIGHTS[name] for name in kinds])[0]
    edit = _apply(rng, scene, kind)
    return edit if edit is not None and is_sound(edit.after) and edit.after != scene else None


def draw_edit_into(
    rng: Random, scene: Scene, for_benchmarks: bool, kinds: tuple[str, ...] = tuple(EDIT_WEIGHTS), tries: int = 40
) -> SceneEdit | None:
    """The first of ``tries`` drawn edits whose result lies in the wanted part of the world."""
    for _ in range(tries):
        edit = draw_edit(rng, scene, kinds)
        if edit is not None and held_out(edit.after) == for_benchmarks:
            return edit
    return None


def _apply(rng: Random, scene: Scene, kind: str) -> SceneEdit | None:
    if kind in EDITED_ATTRIBUTE:
        return _change_one(rng, scene, kind, EDITED_ATTRIBUTE[kind])
    if kind == "add":
        return _add(rng, scene)
    if kind == "remove":
        return _remove(rng, scene)
    if kind == "ground":
        ground = rng.choice([name for name in GROUNDS if name != scene.ground])
        return SceneEdit(kind, scene, make_scene(ground, scene.things))
    return _change_all(rng, scene, kind)


def _change_one(rng: Random, scene: Scene, kind: str, attribute: str) -> SceneEdit:
    old = rng.choice(scene.things)
    taken = {thing.place for thing in scene.things} if attribute == "place" else {getattr(old, attribute)}
    free = [value for value in _VALUES[attribute] if value not in taken]
    if not free:
        return SceneEdit(kind, scene, scene)
    value = rng.choice(free)
    new = replace(old, **{attribute: value})
    return SceneEdit(kind, scene, with_object(scene, old, **{attribute: value}), old, new)


def _add(rng: Random, scene: Scene) -> SceneEdit | None:
    free = [place for place in SCENE_PLACES if place not in {thing.place for thing in scene.things}]
    if not free:
        return None
    new = draw_object(rng, rng.choice(free))
    return SceneEdit("add", scene, make_scene(scene.ground, (*scene.things, new)), None, new)


def _remove(rng: Random, scene: Scene) -> SceneEdit | None:
    if len(scene.things) == 1:
        return None
    old = rng.choice(scene.things)
    return SceneEdit("remove", scene, without_object(scene, old), old, None)


def _change_all(rng: Random, scene: Scene, kind: str) -> SceneEdit | None:
    if len(scene.things) == 1:
        return None
    attribute = "colour" if kind == "recolour all" else "texture"
    value = rng.choice(_VALUES[attribute])
    if any(getattr(thing, attribute) == value for thing in scene.things):
        return None
    return SceneEdit(
        kind, scene, make_scene(scene.ground, [replace(thing, **{attribute: value}) for thing in scene.things])
    )


def inverse_edit(edit: SceneEdit) -> SceneEdit:
    """The edit that leads back; the kinds that change all things have none (ValueError)."""
    if edit.kind in ("recolour all", "retexture all"):
        raise ValueError(f"'{edit.kind}' has no one edit that leads back")
    kind = {"add": "remove", "remove": "add"}.get(edit.kind, edit.kind)
    return SceneEdit(kind, edit.after, edit.before, edit.new, edit.old)


def repeat_edit(edit: SceneEdit, scene: Scene) -> SceneEdit | None:
    """The same change of another scene, or None where that does not apply; a thing is known by its place there."""
    if edit.kind == "ground":
        result = SceneEdit(edit.kind, scene, make_scene(edit.after.ground, scene.things))
    elif edit.kind == "add" and edit.new is not None:
        result = SceneEdit(edit.kind, scene, make_scene(scene.ground, (*scene.things, edit.new)), None, edit.new)
    elif edit.old is not None:
        here = [thing for thing in scene.things if thing.place == edit.old.place]
        if not here or (len(scene.things) == 1 and edit.new is None):
            return None
        result = _repeat_on(edit, scene, here[0])
    else:
        return None
    return result if is_sound(result.after) and result.after != scene else None


def _repeat_on(edit: SceneEdit, scene: Scene, thing: SceneObject) -> SceneEdit:
    if edit.new is None:
        return SceneEdit(edit.kind, scene, without_object(scene, thing), thing, None)
    name = EDITED_ATTRIBUTE[edit.kind]
    value = getattr(edit.new, name)
    new = replace(thing, **{name: value})
    return SceneEdit(edit.kind, scene, with_object(scene, thing, **{name: value}), thing, new)


def near_miss_edit(rng: Random, edit: SceneEdit, for_benchmarks: bool, tries: int = 40) -> SceneEdit | None:
    """A near miss: an edit of the same scene and kind with another result."""
    for _ in range(tries):
        other = draw_edit_into(rng, edit.before, for_benchmarks, (edit.kind,), tries=4)
        if other is not None and other.after.unplaced != edit.after.unplaced:
            return other
    return None
