"""Draw the queries of GeneCIS's two object tasks: a scene and the name of a shape, over whole pictures.

``focus_object`` looks for the very thing of that shape in other company, ``change_object`` for the same scene with a
thing of that shape added.
"""

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

from zscir.tabletop.edits import draw_edit_into
from zscir.tabletop.scenes import (
    SCENE_PLACES,
    SHAPES,
    Scene,
    SceneObject,
    draw_object,
    draw_scene,
    held_out,
    is_sound,
    make_scene,
)

ObjectTaskEntry = dict[str, Any]
SceneTest = Callable[[Scene], bool]
COCO_IDS = range(1_000, 1_000_000)
OBJECT_GALLERY_SIZE = 14  # distractors; the target makes the official 15
SCENES_PER_QUERY = 2 + OBJECT_GALLERY_SIZE


class ScenePool:
    """The scenes that object tasks show, and their ids; queries share scenes where they can."""

    def __init__(self, rng: Random, queries: int) -> None:
        self.id_of: dict[Scene, int] = {}
        self._ids = iter(rng.sample(COCO_IDS, 2 * queries * SCENES_PER_QUERY))

    def gallery_entry(self, scene: Scene) -> ObjectTaskEntry:
        """As the annotations name it; a new scene gets an id."""
        if scene not in self.id_of:
            self.id_of[scene] = next(self._ids)
        return {"val_image_id": self.id_of[scene]}

    def query(
        self,
        rng: Random,
        condition: str,
        reference: Scene,
        target: Scene,
        near_distractors: list[Scene | None],
        is_target: SceneTest,
    ) -> ObjectTaskEntry:
        """A query whose gallery holds ``near_distractors`` and other scenes, none of which is a target."""
        possible = dict.fromkeys(scene for scene in near_distractors if scene is not None and not is_target(scene))
        distractors = [scene for scene in possible if scene not in (reference, target)]
        known = list(self.id_of)
        while len(distractors) < OBJECT_GALLERY_SIZE:
            # Most of the others are known scenes, as soon as there are enough: galleries overlap as real ones do.
            reuse = len(known) > 4 * OBJECT_GALLERY_SIZE and rng.random() < 0.8
            scene = rng.choice(known) if reuse else draw_scene(rng, True)
            if scene not in (reference, target, *distractors) and not is_target(scene):
                distractors.append(scene)
        rng.shuffle(distractors)
        return {
            "condition": condition,
            "gallery": [self.gallery_entry(scene) for scene in distractors],
            "reference": self.gallery_entry(reference),
            "target": self.gallery_entry(target),
        }


def focus_object(rng: Random, scene_pool: ScenePool) -> ObjectTaskEntry:
    """The target shows the reference's thing of the named shape, with all else different."""
    while True:
        reference = draw_scene(rng, True, (2, 3))
        thing = rng.choice(reference.things)
        if [other.shape for other in reference.things].count(thing.shape) == 1:
            query = _focus_on(rng, scene_pool, reference, thing)
            if query is not None:
                return query


def _focus_on(rng: Random, scene_pool: ScenePool, reference: Scene, thing: SceneObject) -> ObjectTaskEntry | None:
    company = [other for other in reference.things if other != thing]

    def elsewhere(scene: Scene) -> bool:
        return scene.ground != reference.ground and not _shows_any(scene, company)

    target = _scene_with(rng, [thing], elsewhere)
    if target is None:
        return None
    alike = [_scene_with(rng, company, _any_scene, reference.ground) for _ in range(3)]
    namesakes = [replace(draw_object(rng, thing.place), shape=thing.shape) for _ in range(3)]
    close = [*alike, *(_scene_with(rng, [namesake], _any_scene) for namesake in namesakes)]
    return scene_pool.query(rng, thing.shape, reference, target, close, lambda scene: _shows_any(scene, [thing]))


def change_object(rng: Random, scene_pool: ScenePool) -> ObjectTaskEntry:
    """The target is the reference's scene with a thing of the named shape more."""
    while True:
        reference = draw_scene(rng, True, (1, 2, 3))
        absent = [shape for shape in SHAPES if shape not in {thing.shape for thing in reference.things}]
        shape = absent.pop(rng.randrange(len(absent)))
        target = _with_more(rng, reference, shape)
        if target is None:
            continue
        close = [_edited(rng, reference), _edited(rng, reference), _with_more(rng, reference, rng.choice(absent))]
        close += [_edited(rng, target) for _ in range(5)]
        close += [
            _scene_with(rng, [replace(draw_object(rng, SCENE_PLACES[0]), shape=shape)], _any_scene) for _ in range(2)
        ]
        return scene_pool.query(rng, shape, reference, target, close, _adds(reference, shape))


def _edited(rng: Random, scene: Scene) -> Scene | None:
    edit = draw_edit_into(rng, scene, True, ("recolour", "reshape", "retexture", "remove"))
    return None if edit is None else edit.after


def _any_scene(_scene: Scene) -> bool:
    return True


def _adds(reference: Scene, shape: str) -> SceneTest:
    """Whether a scene shows a thing of ``shape`` beside all that the reference shows."""

    def is_target(scene: Scene) -> bool:
        looks = {(thing.kind, thing.texture) for thing in scene.things}
        kept = all((thing.kind, thing.texture) in looks for thing in reference.things)
        return kept and any(thing.shape == shape for thing in scene.things)

    return is_target


def _shows_any(scene: Scene, things: list[SceneObject]) -> bool:
    """Whether a thing of the same colour and shape as one of ``things`` is in the scene."""
    return bool({thing.kind for thing in scene.things} & {thing.kind for thing in things})


def _scene_with(rng: Random, things: list[SceneObject], fits: SceneTest, ground: str | None = None) -> Scene | None:
    """A held-out scene that shows ``things`` (size and place may differ) and perhaps more."""
    for _ in range(60):
        base = draw_scene(rng, True)
        extra = list(base.things)[: rng.choice((0, 1, 1, 2))]
        count = min(len(SCENE_PLACES), len(things) + len(extra))
        places = rng.sample(SCENE_PLACES, count)
        drawn = [replace(thing, place=place) for thing, place in zip([*things, *extra], places, strict=False)]
        scene = make_scene(ground or base.ground, drawn)
        if is_sound(scene) and held_out(scene) and fits(scene):
            return scene
    return None


def _with_more(rng: Random, scene: Scene, shape: str) -> Scene | None:
    """The scene with one thing of ``shape`` more, or None where no such scene is held out."""
    free = [place for place in SCENE_PLACES if place not in {thing.place for thing in scene.things}]
    for _ in range(60):
        more = replace(draw_object(rng, rng.choice(free)), shape=shape)
        result = make_scene(scene.ground, (*scene.things, more))
        if is_sound(result) and held_out(result):
            return result
    return None
