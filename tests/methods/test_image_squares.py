import io

import numpy as np
import pytest
import torch
from PIL import Image

from zscir.methods.augment import augmented_view, crop_boxes
from zscir.methods.image_squares import decode_to_square, resize_to_square
from zscir.methods.specs import ModelPixelSpec
from zscir.methods.towers import normalise_pixels
from zscir.runtime.errors import StageError


def image(width: int, height: int) -> Image.Image:
    across = np.tile(np.linspace(0, 255, width, dtype=np.uint8), (height, 1))
    return Image.fromarray(np.stack([across] * 3, axis=2))


@pytest.mark.parametrize("size", [(30, 20), (20, 30), (7, 9), (16, 16), (1, 4000), (4000, 1)])
@pytest.mark.parametrize("fit", ["crop", "pad", "warp"])
def test_any_image_becomes_the_square_of_its_spec(size: tuple[int, int], fit: str) -> None:
    made = resize_to_square(image(*size), ModelPixelSpec.parse({"size_px": 16, "fit": fit}, "test"))
    assert made.shape == (16, 16, 3)
    assert made.dtype == np.uint8


def test_cropping_keeps_the_centre_and_warping_keeps_the_sides() -> None:
    wide = image(64, 16)
    cropped, warped = (
        resize_to_square(wide, ModelPixelSpec(size_px=16, fit=fit))[8, :, 0].astype(int) for fit in ("crop", "warp")
    )
    assert (cropped[0], cropped[-1]) == (wide.getpixel((24, 0))[0], wide.getpixel((39, 0))[0])
    assert warped[0] < 10
    assert warped[-1] > 245


def test_padding_is_black_and_only_for_long_images() -> None:
    white = Image.new("RGB", (40, 20), (255, 255, 255))
    padded = resize_to_square(white, ModelPixelSpec(size_px=20, fit="pad", pad_ratio=1.25))
    assert padded[0, 10, 0] < 30
    assert padded[10, 10, 0] == 255
    near_square = Image.new("RGB", (22, 20), (255, 255, 255))
    assert resize_to_square(near_square, ModelPixelSpec(size_px=20, fit="pad")).min() == 255


def test_bytes_that_are_no_image_are_an_error_that_says_where() -> None:
    with pytest.raises(StageError, match=r"00000\.tar: reference of triplet t1"):
        decode_to_square(b"<html>", ModelPixelSpec(size_px=16), "00000.tar: reference of triplet t1")


def test_an_image_that_unfolds_too_far_is_refused() -> None:
    stream = io.BytesIO()
    Image.new("1", (9000, 9000)).save(stream, "PNG")
    with pytest.raises(StageError, match="pixels"):
        decode_to_square(stream.getvalue(), ModelPixelSpec(size_px=16), "here")


def test_pixels_are_normalised_as_the_weights_expect() -> None:
    spec = ModelPixelSpec(size_px=8, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))
    out = normalise_pixels(torch.full((1, 3, 8, 8), 255, dtype=torch.uint8), spec)
    assert out[0, :, 0, 0].tolist() == [1.0, 3.0, 1.0]


def test_crop_boxes_stay_inside_and_have_the_area_of_the_spec() -> None:
    boxes = crop_boxes(list(range(2000)), 0.8)
    low, high = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    assert low.min() > -1e-9
    assert high.max() < 1 + 1e-9
    areas = boxes[:, 2] * boxes[:, 3]
    assert areas.max() <= 1 + 1e-9
    assert np.median(areas) > 0.75


def test_a_view_depends_on_the_image_not_on_the_batch() -> None:
    pixels = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    together = augmented_view(pixels, "a", 1, 2, ["x", "y", "z"], 0.8, 0.5)
    alone = augmented_view(pixels[1:2], "a", 1, 2, ["y"], 0.8, 0.5)
    assert torch.allclose(together[1:2], alone, atol=1e-4)
    assert not torch.allclose(together, augmented_view(pixels, "b", 1, 2, ["x", "y", "z"], 0.8, 0.5), atol=1)


def test_a_whole_view_is_the_image_and_a_certain_flip_mirrors_it() -> None:
    pixels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    assert torch.equal(augmented_view(pixels, "a", 0, 0, ["x", "y"], 1.0, 0.0), pixels.float())
    assert torch.allclose(
        augmented_view(pixels, "a", 0, 0, ["x", "y"], 1.0 - 1e-9, 1.0), pixels.float().flip(3), atol=60
    )
