"""Render a scene as an image, with a little jitter, and say where its things lie.

Everything is drawn at twice the size and halved once, which smooths all edges at little cost.
"""

from dataclasses import dataclass
from functools import cache
from io import BytesIO
from math import cos, sin
from random import Random

from PIL import Image, ImageDraw

from zscir.tabletop.grounds import TILE_PX, tile_of
from zscir.tabletop.outlines import Polygon, inner_lines_of, outline_of, shades_of
from zscir.tabletop.scenes import Scene, SceneObject

_Rgb = tuple[int, int, int]
SUPERSAMPLING = 2
RGB_OF_COLOUR: dict[str, _Rgb] = {
    "red": (214, 28, 32),
    "orange": (245, 130, 20),
    "yellow": (250, 222, 40),
    "green": (24, 140, 50),
    "blue": (30, 70, 215),
    "purple": (125, 45, 160),
    "pink": (250, 140, 190),
    "black": (28, 28, 30),
}
_LIGHT_MARK, _DARK_MARK = (250, 250, 245), (35, 30, 40)
# Light stripes would not show on these.
_DARK_MARKED = ("yellow", "pink", "orange")
_RADIUS_OF_SIZE = {"small": 0.135, "big": 0.215}  # of the shorter side
_CENTRE_OF_PLACE = {
    "top left": (0.26, 0.26),
    "top right": (0.74, 0.26),
    "bottom left": (0.26, 0.74),
    "bottom right": (0.74, 0.74),
}


@dataclass(frozen=True)
class PlacedObject:
    """A thing with the centre, radius and tilt (pixels, radians) at which it is drawn."""

    thing: SceneObject
    x: float
    y: float
    radius: float
    tilt: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        """(x, y, width, height) in pixels."""
        return (self.x - self.radius, self.y - self.radius, 2 * self.radius, 2 * self.radius)


def size_of(rng: Random, size_px: int) -> tuple[int, int]:
    """A width and a height near ``size_px``; pictures of the web are seldom square."""
    return round(size_px * rng.uniform(0.85, 1.3)), round(size_px * rng.uniform(0.85, 1.3))


def layout_of(rng: Random, scene: Scene, width: int, height: int) -> list[PlacedObject]:
    """Where each thing lies, with a little jitter of centre, radius and tilt."""
    return [_place(rng, thing, width, height) for thing in scene.things]


def _place(rng: Random, thing: SceneObject, width: int, height: int) -> PlacedObject:
    centre_x, centre_y = _CENTRE_OF_PLACE[thing.place]
    shorter = min(width, height)
    return PlacedObject(
        thing,
        x=centre_x * width + rng.uniform(-0.03, 0.03) * shorter,
        y=centre_y * height + rng.uniform(-0.03, 0.03) * shorter,
        radius=_RADIUS_OF_SIZE[thing.size] * shorter * rng.uniform(0.93, 1.07),
        tilt=rng.uniform(-0.15, 0.15),
    )


def picture_of(rng: Random, scene: Scene, width: int, height: int) -> tuple[Image.Image, list[PlacedObject]]:
    """The RGB picture of ``scene`` and where its things lie."""
    placed = layout_of(rng, scene, width, height)
    canvas = _ground(rng, scene.ground, width * SUPERSAMPLING, height * SUPERSAMPLING)
    for placed_object in placed:
        _draw(canvas, placed_object, rng.uniform(0.9, 1.08))
    return canvas.reduce(SUPERSAMPLING), placed


def jpeg_of(rng: Random, scene: Scene, width: int, height: int) -> bytes:
    """The picture of ``scene`` as a JPEG."""
    return encode_picture(picture_of(rng, scene, width, height)[0], "JPEG")


def encode_picture(image: Image.Image, file_format: str) -> bytes:
    """``image`` as the bytes of a "JPEG" or a "PNG" file."""
    buffer = BytesIO()
    options = {"quality": 88} if file_format == "JPEG" else {"compress_level": 3}
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def _ground(rng: Random, ground: str, width: int, height: int) -> Image.Image:
    left, top = rng.randrange(TILE_PX), rng.randrange(TILE_PX)  # each picture shows another part of the tile
    tile = tile_of(ground)
    canvas = Image.new("RGB", (width, height))
    for x in range(-left, width, TILE_PX):
        for y in range(-top, height, TILE_PX):
            canvas.paste(tile, (x, y))
    return canvas


def _draw(canvas: Image.Image, placed: PlacedObject, brightness: float) -> None:
    """Paint one thing: its shadow, then its marked and shaded surface through the outline, then its lines."""
    radius = placed.radius * SUPERSAMPLING
    half = int(radius * 1.15) + 2  # outlines may leave the unit circle by a few percent
    left, top = round(placed.x * SUPERSAMPLING) - half, round(placed.y * SUPERSAMPLING) - half
    shape = placed.thing.shape
    mask = _mask(tuple(_turned(polygon, radius, placed.tilt, half) for polygon in outline_of(shape)), 2 * half)
    canvas.paste((60, 60, 60), (left + SUPERSAMPLING, top + 2 * SUPERSAMPLING), mask.point(_SHADOW_STRENGTH))
    surface = _surface(placed.thing, brightness, radius, 2 * half)
    for polygon, brightness_delta in shades_of(shape):
        _shade(surface, _turned(polygon, radius, placed.tilt, half), brightness_delta)
    canvas.paste(surface, (left, top), mask)
    pen = ImageDraw.Draw(canvas)
    for polygon in (*outline_of(shape), *inner_lines_of(shape)):
        points = [(x + left, y + top) for x, y in _turned(polygon, radius, placed.tilt, half)]
        closed = points if len(points) == 2 else [*points, points[0]]
        pen.line(closed, fill=(20, 18, 22), width=max(2, round(radius * 0.07)))


_SHADOW_STRENGTH = [value * 2 // 5 for value in range(256)]


def _turned(polygon: Polygon, radius: float, tilt: float, half: int) -> Polygon:
    a, b = radius * cos(tilt), radius * sin(tilt)
    return tuple((half + x * a - y * b, half + x * b + y * a) for x, y in polygon)


def _mask(polygons: tuple[Polygon, ...], side: int) -> Image.Image:
    mask = Image.new("L", (side, side))
    pen = ImageDraw.Draw(mask)
    for number, polygon in enumerate(polygons):
        pen.polygon(polygon, fill=0 if number else 255)
    return mask


def _surface(thing: SceneObject, brightness: float, radius: float, side: int) -> Image.Image:
    base = RGB_OF_COLOUR[thing.colour]
    colour = tuple(min(255, round(value * brightness)) for value in base)
    surface = Image.new("RGB", (side, side), colour)
    if thing.texture != "plain":
        mark = _DARK_MARK if thing.colour in _DARK_MARKED else _LIGHT_MARK
        surface.paste(mark, (0, 0), _marks(thing.texture, round(radius), side))
    return surface


@cache
def _marks(texture: str, radius: int, side: int) -> Image.Image:
    """A mask of slanted stripes or of rows of spots, scaled with the thing."""
    mask = Image.new("L", (side, side))
    pen = ImageDraw.Draw(mask)
    if texture == "striped":
        step, width = max(8, round(radius * 0.62)), max(3, round(radius * 0.26))
        for x in range(-side, side, step):
            pen.line([(x, side), (x + side, 0)], fill=255, width=width)
        return mask
    step, dot = max(8, round(radius * 0.58)), max(2, round(radius * 0.18))
    for row, y in enumerate(range(side // 2 % step, side, step)):
        for x in range(side // 2 % step - (row % 2) * step // 2, side + step, step):
            pen.ellipse((x - dot, y - dot, x + dot, y + dot), fill=255)
    return mask


def _shade(surface: Image.Image, polygon: Polygon, brightness_delta: int) -> None:
    mask = Image.new("L", surface.size)
    ImageDraw.Draw(mask).polygon(polygon, fill=abs(brightness_delta))
    surface.paste((255, 255, 255) if brightness_delta > 0 else (0, 0, 0), (0, 0), mask)
