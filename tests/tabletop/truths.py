"""Read what texts claim about scenes: a small parser written apart from the code under test."""

import re

from zscir.tabletop.scenes import COLOURS, OBJECT_SIZES, SCENE_PLACES, SHAPES, TEXTURES, Scene

SYNONYMS = {"ball": "sphere", "large": "big", "little": "small", "dotted": "spotted"}
COUNTS = {"one": 1, "two": 2, "three": 3, "four": 4}
PHRASE = re.compile(
    rf"(?:(?P<size>{'|'.join(OBJECT_SIZES)}) )?(?:(?P<texture>{'|'.join(TEXTURES)}) )?"
    rf"(?:(?P<colour>{'|'.join(COLOURS)}) )?"
    rf"(?P<shape>{'|'.join(SHAPES)})\b(?: (?:at|in) the (?P<place>{'|'.join(SCENE_PLACES)}))?"
)
GROUNDS = {
    "wooden table": "wooden table",
    "tiled floor": "tiled floor",
    "grass": "grass",
    "snow": "snow",
    "sand": "sand",
}


def canonical(text: str) -> str:
    """Lower case, with synonyms resolved."""
    return re.sub(r"[a-z]+", lambda found: SYNONYMS.get(found[0], found[0]), text.lower())


def phrases(text: str) -> list[dict[str, str]]:
    """The attributes given to each thing in ``text``."""
    return [
        {name: value for name, value in found.groupdict().items() if value}
        for found in PHRASE.finditer(canonical(text))
    ]


def grounds(text: str) -> list[str]:
    """The grounds named in ``text``, in order."""
    canonical_text = canonical(text)
    return sorted((name for name in GROUNDS if name in canonical_text), key=canonical_text.index)


def shows(scene: Scene, phrase: dict[str, str]) -> bool:
    """Whether some thing of ``scene`` is as ``phrase`` says."""
    return any(all(getattr(thing, k) == v for k, v in phrase.items()) for thing in scene.things)
