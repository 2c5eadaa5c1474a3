from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from zscir.benchmarks.preprocess import crop_box, preprocess_image, preprocess_to_array, region_crop, target_pad
from zscir.runtime.errors import RequestError


def test_padding_is_that_of_the_public_code_for_all_golden_sizes(shared: Path, golden: Callable[[str], Any]) -> None:
    for case in golden("image_preprocessing")["pads"]:
        across, down = case["pad_lr_tb"]
        padded = target_pad(Image.new("RGB", tuple(case["in"]), "white"))
        assert list(padded.size) == case["out"]
        ink = padded.getbbox()
        assert ink == (across, down, across + case["in"][0], down + case["in"][1])


def test_pixels_are_those_of_the_public_code(golden: Callable[[str], Any]) -> None:
    for case in golden("image_preprocessing")["pixels"]:
        width, height = case["in"]
        noise = np.random.default_rng(case["seed"]).integers(0, 256, (height, width, 3), dtype=np.uint8)
        found = preprocess_to_array(Image.fromarray(noise), "targetpad", 32)
        assert list(found.shape) == case["out_shape"]
        assert found.dtype == np.float32
        np.testing.assert_allclose(found[:, 0, 0], case["corner"], atol=1e-5)
        np.testing.assert_allclose(found[:, 16, 16], case["centre"], atol=1e-5)
        assert found.astype(np.float64).sum() == pytest.approx(case["sum"], abs=1e-2)
        assert np.abs(found.astype(np.float64)).sum() == pytest.approx(case["abs_sum"], abs=1e-2)


def test_genecis_crops_grow_to_the_left_and_top_as_in_the_official_code(golden: Callable[[str], Any]) -> None:
    for case in golden("image_preprocessing")["genecis_crops"]:
        size = tuple(case["image"])
        assert crop_box(size, tuple(case["bbox_xywh"])) == pytest.approx(tuple(case["crop_box"]))
        square = region_crop(Image.new("RGB", size, "white"), tuple(case["bbox_xywh"]), "t")
        assert square.size == (case["square_side"],) * 2


def test_a_crop_is_centred_on_black() -> None:
    square = region_crop(Image.new("RGB", (400, 300), "white"), (100, 80, 60, 40), "t")
    assert square.getbbox() == (0, 17, 102, 85)  # 102 x 68 on 102 x 102


def test_a_box_outside_its_image_is_an_error() -> None:
    with pytest.raises(RequestError, match=r"vg/1.jpg: box .* outside the image of 40 x 30"):
        region_crop(Image.new("RGB", (40, 30)), (300, 10, 5, 5), "vg/1.jpg")


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "1"])
@pytest.mark.parametrize("size", [(50, 20), (20, 50), (33, 33)])
def test_every_kind_of_image_becomes_an_rgb_square(mode: str, size: tuple[int, int]) -> None:
    for name in ("targetpad", "clip"):
        image = preprocess_image(Image.new("RGB", size, "red").convert(mode), name, 16)
        assert (image.mode, image.size) == ("RGB", (16, 16))


def test_clip_crops_where_targetpad_pads() -> None:
    stripes = Image.new("RGB", (90, 30), "white")
    assert np.asarray(preprocess_image(stripes, "clip", 30)).min() == 255
    assert np.asarray(preprocess_image(stripes, "targetpad", 30))[0].max() == 0


def test_an_unknown_preprocessing_is_refused() -> None:
    with pytest.raises(RequestError, match="no preprocessing 'pad'; there are targetpad, clip"):
        preprocess_image(Image.new("RGB", (3, 3)), "pad", 8)
