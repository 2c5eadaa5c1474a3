from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from zscir.tabletop.benchmark_content import BenchmarkImage, image_bytes, object_boxes
from zscir.tabletop.outlines import outline_of
from zscir.tabletop.render import RGB_OF_COLOUR, picture_of, size_of
from zscir.tabletop.scenes import COLOURS, GROUNDS, SCENE_PLACES, SHAPES, SceneObject, derive_rng, make_scene


def picture(scene, width=96, height=96, seed=0):
    image, placed = picture_of(derive_rng(seed, "picture"), scene, width, height)
    return np.asarray(image).astype(int), placed


@pytest.mark.parametrize("place", SCENE_PLACES)
def test_a_thing_lies_in_the_quarter_that_its_place_names(place):
    pixels, (placed,) = picture(make_scene("snow", [SceneObject(place, "heart", "red", "plain", "big")]))
    red = (pixels[..., 0] > 150) & (pixels[..., 1] < 90) & (pixels[..., 2] < 90)
    rows, columns = np.nonzero(red)
    assert (rows.mean() < 48) == place.startswith("top")
    assert (columns.mean() < 48) == place.endswith("left")
    x, y, width, height = placed.box
    assert x - 1 <= columns.min() <= columns.max() <= x + width + 1
    assert y - 1 <= rows.min() <= rows.max() <= y + height + 1


@pytest.mark.parametrize("colour", COLOURS)
def test_a_plain_thing_has_its_colour(colour):
    pixels, (placed,) = picture(make_scene("snow", [SceneObject("top left", "cross", colour, "plain", "big")]))
    centre = pixels[round(placed.y), round(placed.x)]
    distances = {name: np.abs(centre - rgb).sum() for name, rgb in RGB_OF_COLOUR.items()}
    assert min(distances, key=distances.get) == colour


def test_big_things_cover_about_two_and_a_half_times_what_small_ones_do():
    def area(size):
        pixels, _ = picture(make_scene("snow", [SceneObject("top left", "sphere", "red", "plain", size)]))
        return ((pixels[..., 0] > 140) & (pixels[..., 1] < 90)).sum()

    assert 1.8 < area("big") / area("small") < 3.5


def test_textures_differ_in_how_much_of_the_colour_they_leave():
    def red(texture):
        pixels, _ = picture(make_scene("grass", [SceneObject("top left", "cube", "red", texture, "big")]))
        return ((pixels[..., 0] > 100) & (pixels[..., 1] < 90) & (pixels[..., 2] < 90)).sum()

    assert red("plain") > 1.15 * red("striped")
    assert red("plain") > 1.15 * red("spotted")


def test_grounds_look_different():
    means = {}
    for ground in GROUNDS:
        pixels, _ = picture(make_scene(ground, [SceneObject("top left", "cube", "red", "plain", "small")]))
        means[ground] = pixels[60:].mean((0, 1))
    for a in GROUNDS:
        assert all(np.abs(means[a] - means[b]).sum() > 30 for b in GROUNDS if b != a)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_outline_stays_in_the_unit_circle_by_and_large(shape):
    points = np.array([point for polygon in outline_of(shape) for point in polygon])
    assert np.hypot(*points.T).max() <= 1.25
    assert np.abs(points).max() > 0.8


def test_sides_vary_around_the_wanted_size():
    sizes = [size_of(derive_rng(n, "size"), 96) for n in range(200)]
    sides = [side for size in sizes for side in size]
    assert 80 <= min(sides) < 90
    assert 118 < max(sides) <= 126
    assert sum(width != height for width, height in sizes) > 150


def test_boxes_are_those_of_the_picture_that_is_written():
    thing = SceneObject("bottom right", "sphere", "red", "plain", "big")
    benchmark_image = BenchmarkImage("1", "vg/1.jpg", make_scene("snow", [thing]))
    image = Image.open(BytesIO(image_bytes(7, 96, "genecis", benchmark_image)))
    (placed,), size = object_boxes(7, 96, "genecis", benchmark_image)
    assert image.size == size
    pixels = np.asarray(image.convert("RGB")).astype(int)
    rows, columns = np.nonzero((pixels[..., 0] > 150) & (pixels[..., 1] < 90))
    assert abs(columns.mean() - placed.x) < 2
    assert abs(rows.mean() - placed.y) < 2


def test_the_member_name_says_the_format():
    scene = make_scene("snow", [SceneObject("top left", "cube", "red", "plain", "big")])
    assert image_bytes(0, 64, "cirr", BenchmarkImage("a", "a.png", scene)).startswith(b"\x89PNG")
    assert image_bytes(0, 64, "cirr", BenchmarkImage("a", "a.jpg", scene)).startswith(b"\xff\xd8\xff")
