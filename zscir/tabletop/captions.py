"""Write a caption of a scene, as the web has them: true, but often not the whole truth."""

from random import Random

from zscir.tabletop.scenes import Scene, SceneObject

NOUNS = {"sphere": ("sphere", "ball")}
ADJECTIVES = {"big": ("big", "large"), "small": ("small", "little"), "spotted": ("spotted", "dotted")}
COUNT_WORDS = {1: "one", 2: "two", 3: "three", 4: "four"}
GROUND_PHRASES = {
    "wooden table": ("on a wooden table", "on the wooden table"),
    "grass": ("on grass", "on the grass"),
    "snow": ("on snow", "in the snow"),
    "sand": ("on sand", "on the sand"),
    "tiled floor": ("on a tiled floor", "on the tiled floor"),
}
PLACE_PHRASES = {
    place: (f"at the {place}", f"in the {place} corner")
    for place in ("top left", "top right", "bottom left", "bottom right")
}
# Relative. "tags" and "listing" are how image hosts and shops write captions.
_CAPTION_FORM_WEIGHTS = {"sentence": 40, "photo": 20, "tags": 14, "partial": 14, "count": 10, "listing": 6}


def word_for(rng: Random, value: str) -> str:
    """A word for an attribute's value: usually its own name, sometimes a synonym."""
    words = NOUNS.get(value) or ADJECTIVES.get(value) or (value,)
    return words[0] if rng.random() < 0.75 else rng.choice(words)


def article(phrase: str) -> str:
    """``phrase`` with "a" or "an" before it."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def join_phrases(phrases: list[str]) -> str:
    """Phrases as an English list."""
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def describe_object(rng: Random, thing: SceneObject, detail: float) -> str:
    """Words for ``thing`` without an article; ``detail`` is the chance that size and texture are named."""
    words = []
    if rng.random() < detail:
        words.append(word_for(rng, thing.size))
    # "Plain" is what a caption leaves out most.
    if rng.random() < (detail if thing.texture != "plain" else detail * 0.4):
        words.append(word_for(rng, thing.texture))
    if rng.random() < 0.6 + 0.4 * detail:
        words.append(thing.colour)
    return " ".join([*words, word_for(rng, thing.shape)])


def caption_of(rng: Random, scene: Scene) -> str:
    """One caption of ``scene``."""
    form = rng.choices(list(_CAPTION_FORM_WEIGHTS), list(_CAPTION_FORM_WEIGHTS.values()))[0]
    detail = rng.choice((1.0, 0.9, 0.5, 0.2))
    things = list(scene.things)
    rng.shuffle(things)
    if form == "tags":
        return ", ".join([*(describe_object(rng, thing, detail) for thing in things), scene.ground])
    if form == "partial":
        return _partial(rng, scene, things, detail)
    if form == "listing":
        return _listing(rng, scene, things[0])
    listed = join_phrases([_object_phrase(rng, thing, detail) for thing in things])
    if form == "count" and len(things) > 1:
        return f"{COUNT_WORDS[len(things)]} {rng.choice(('objects', 'things'))} {_ground(rng, scene)}: {listed}"
    where = f" {_ground(rng, scene)}" if rng.random() < 0.85 else ""
    if form == "photo":
        return f"{rng.choice(('a photo of', 'a picture of', 'there is', 'close-up of'))} {listed}{where}"
    return f"{listed}{where}" if rng.random() < 0.7 else f"{(listed + where).capitalize()}."


def _object_phrase(rng: Random, thing: SceneObject, detail: float) -> str:
    place = f" {rng.choice(PLACE_PHRASES[thing.place])}" if rng.random() < 0.22 * detail else ""
    return article(describe_object(rng, thing, detail)) + place


def _ground(rng: Random, scene: Scene) -> str:
    return rng.choice(GROUND_PHRASES[scene.ground])


def _partial(rng: Random, scene: Scene, things: list[SceneObject], detail: float) -> str:
    """A caption that leaves things out, or leaves out the ground."""
    chosen = things[: max(1, len(things) - 1)]
    listed = join_phrases([article(describe_object(rng, thing, detail)) for thing in chosen])
    return f"{listed} {_ground(rng, scene)}" if rng.random() < 0.5 else listed


def _listing(rng: Random, scene: Scene, thing: SceneObject) -> str:
    """The first thing as a shop lists it; the words for the attributes' names occur nowhere else."""
    rows = [f"{thing.colour} color", f"{word_for(rng, thing.texture)} pattern"]
    entries = [f"{word_for(rng, thing.shape)} shape", *rng.sample(rows, rng.choice((1, 2)))]
    return f"{', '.join(rng.sample(entries, len(entries)))}, {scene.ground}"
