"""Draw the tile of a ground's texture, once per process and always the same."""

from collections.abc import Callable
from functools import cache
from random import Random

from PIL import Image, ImageDraw

from zscir.tabletop.scenes import derive_rng

TILE_PX = 256  # more than the longest side of a picture of 96 px, drawn at twice its size
Rgb = tuple[int, int, int]


@cache
def tile_of(ground: str) -> Image.Image:
    """The RGB tile of ``ground``; repeat it in both directions to cover any canvas."""
    base, draw = _GROUNDS[ground]
    tile = Image.new("RGB", (TILE_PX, TILE_PX), base)
    # Seed 0 in every world: grounds differ by name alone.
    draw(derive_rng(0, "ground", ground), ImageDraw.Draw(tile), base)
    return tile


def _nearby(rng: Random, base: Rgb, spread: int) -> Rgb:
    shift = rng.randint(-spread, spread)
    return tuple(max(0, min(255, value + shift)) for value in base)  # type: ignore[return-value]  # a tuple of unknown length


def _planks(rng: Random, pen: ImageDraw.ImageDraw, base: Rgb) -> None:
    for top in range(0, TILE_PX, 32):
        pen.rectangle((0, top, TILE_PX, top + 31), fill=_nearby(rng, base, 14))
        for _ in range(6):
            y = top + rng.randint(4, 28)
            pen.line((rng.randint(0, 128), y, rng.randint(128, TILE_PX), y), fill=_nearby(rng, (150, 100, 58), 12))
        pen.line((0, top, TILE_PX, top), fill=(95, 58, 30), width=3)


def _blades(rng: Random, pen: ImageDraw.ImageDraw, base: Rgb) -> None:
    for _ in range(2600):
        x, y = rng.randint(0, TILE_PX), rng.randint(0, TILE_PX)
        pen.line((x, y, x + rng.randint(-4, 4), y - rng.randint(5, 12)), fill=_nearby(rng, base, 34), width=2)


def _soft_drifts(rng: Random, pen: ImageDraw.ImageDraw, base: Rgb) -> None:
    for _ in range(60):
        x, y, r = rng.randint(0, TILE_PX), rng.randint(0, TILE_PX), rng.randint(6, 22)
        pen.ellipse((x - r, y - r // 2, x + r, y + r // 2), fill=_nearby(rng, base, 6))


def _grains(rng: Random, pen: ImageDraw.ImageDraw, base: Rgb) -> None:
    for _ in range(3200):
        x, y = rng.randint(0, TILE_PX), rng.randint(0, TILE_PX)
        pen.rectangle((x, y, x + 1, y + 1), fill=_nearby(rng, base, 38))


def _tiles(rng: Random, pen: ImageDraw.ImageDraw, base: Rgb) -> None:
    for row in range(8):
        for column in range(8):
            tone = base if (row + column) % 2 else (112, 128, 148)
            box = (column * 32, row * 32, column * 32 + 31, row * 32 + 31)
            pen.rectangle(box, fill=_nearby(rng, tone, 5))


_GROUNDS: dict[str, tuple[Rgb, Callable[[Random, ImageDraw.ImageDraw, Rgb], None]]] = {
    "wooden table": ((172, 118, 70), _planks),
    "grass": ((150, 196, 104), _blades),
    "snow": ((240, 244, 250), _soft_drifts),
    "sand": ((230, 208, 150), _grains),
    "tiled floor": ((196, 206, 216), _tiles),
}
