"""Draw scenes, one to four things on a ground, from a seed and a name: the same on every machine.

A quarter of all possible scenes, chosen by a hash of the scene itself, is *held out*: the web list never shows
one and the benchmarks show nothing else, so no benchmark scene is a training scene at any scale.
"""

from dataclasses import dataclass, replace
from hashlib import blake2b, sha256
from random import Random

SHAPES = ("sphere", "cube", "cone", "star", "ring", "heart", "cross")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "black")
TEXTURES = ("plain", "striped", "spotted")
OBJECT_SIZES = ("small", "big")
GROUNDS = ("wooden table", "grass", "snow", "sand", "tiled floor")
SCENE_PLACES = ("top left", "top right", "bottom left", "bottom right")

HELD_OUT_ONE_IN = 4
_COUNTS = (1, 2, 3, 4)
_COUNT_WEIGHTS = (40, 38, 15, 7)


@dataclass(frozen=True, order=True)
class SceneObject:
    """One object of a scene; ``place`` is the quarter of the picture in which it lies."""

    place: str
    shape: str
    colour: str
    texture: str
    size: str

    @property
    def kind(self) -> tuple[str, str]:
        """(colour, shape): no two things of a scene share it, so a text can always name one of them."""
        return (self.colour, self.shape)


@dataclass(frozen=True)
class Scene:
    """A ground and its things, sorted by place."""

    ground: str
    things: tuple[SceneObject, ...]

    @property
    def key(self) -> str:
        """One text per scene; equal scenes and only they share it."""
        described = [f"{t.size} {t.texture} {t.colour} {t.shape} {t.place}" for t in self.things]
        return "; ".join([self.ground, *described])

    @property
    def unplaced(self) -> tuple[str, tuple[tuple[str, str, str, str], ...]]:
        """What is in the scene, wherever it lies."""
        return self.ground, tuple(sorted((t.shape, t.colour, t.texture, t.size) for t in self.things))


def derive_rng(seed: int, *names: str | int) -> Random:
    """A generator of its own for (seed, names); streams of different names are independent.

    Names are part of what is drawn: another name gives another world.
    """
    # SHA-256 rather than hash(), which differs between processes.
    text = "\n".join(str(part) for part in (seed, *names))
    return Random(int.from_bytes(sha256(text.encode()).digest()[:16], "big"))


def make_scene(ground: str, things: list[SceneObject] | tuple[SceneObject, ...]) -> Scene:
    """The scene of these things in canonical order."""
    return Scene(ground, tuple(sorted(things)))


def held_out(scene: Scene) -> bool:
    """Whether only benchmarks may show this scene."""
    return blake2b(scene.key.encode(), digest_size=4).digest()[0] % HELD_OUT_ONE_IN == 0


def is_sound(scene: Scene) -> bool:
    """One to four things, each in a place of its own and each nameable by colour and shape."""
    places = {thing.place for thing in scene.things}
    kinds = {thing.kind for thing in scene.things}
    return 1 <= len(scene.things) == len(places) == len(kinds)


def draw_object(rng: Random, place: str, texture: str | None = None) -> SceneObject:
    """Any thing at ``place``; half of the things are plain."""
    drawn = texture or rng.choices(TEXTURES, (50, 25, 25))[0]
    return SceneObject(place, rng.choice(SHAPES), rng.choice(COLOURS), drawn, rng.choice(OBJECT_SIZES))


def draw_scene(rng: Random, for_benchmarks: bool, counts: tuple[int, ...] = _COUNTS) -> Scene:
    """A scene of the held-out part or of the other part; in half of the scenes all things share one texture."""
    weights = [_COUNT_WEIGHTS[count - 1] for count in counts]
    while True:  # a quarter of all scenes is held out: four draws on average, or 4 / 3
        places = rng.sample(SCENE_PLACES, rng.choices(counts, weights)[0])
        texture = rng.choices(TEXTURES, (50, 25, 25))[0] if rng.random() < 0.5 else None
        scene = make_scene(rng.choice(GROUNDS), [draw_object(rng, place, texture) for place in places])
        if is_sound(scene) and held_out(scene) == for_benchmarks:
            return scene


def without_object(scene: Scene, thing: SceneObject) -> Scene:
    """The scene with one thing less."""
    return make_scene(scene.ground, [other for other in scene.things if other != thing])


def with_object(scene: Scene, thing: SceneObject, **changes: str) -> Scene:
    """The scene in which ``thing`` has other attributes."""
    return make_scene(scene.ground, [replace(t, **changes) if t == thing else t for t in scene.things])
