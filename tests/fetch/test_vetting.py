from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.faults.hostile_server import IMAGES, picture, saved, two_halves
from zscir.fetch.failures import Failure
from zscir.fetch.vetting import Vetted, inspect, is_plain, vet
from zscir.images import HARD_MAX_PIXELS, decode


def vetted(data: bytes, max_pixels: int = HARD_MAX_PIXELS) -> Vetted:
    return vet(data, inspect(data, max_pixels), max_pixels)


def as_opencv_sees(data: bytes) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels.dtype == np.uint8
    return pixels[..., None].repeat(3, axis=2) if pixels.ndim == 2 else pixels[..., ::-1]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_plain_images_pass_untouched(kind: str) -> None:
    data = saved(picture(), kind)
    assert vetted(data).body == data


@pytest.mark.parametrize(
    "name",
    ["cmyk.jpg", "grey.jpg", "16bit.png", "palette.png", "alpha.png", "rotated.jpg", "webp.webp", "avif.avif",
     "animated.gif", "animated.webp"],
)  # fmt: skip
def test_opencv_sees_what_a_browser_shows(name: str) -> None:
    data = IMAGES[name]()
    got = vetted(data)
    shown = decode(data)
    assert (got.width, got.height) == shown.size
    assert np.abs(as_opencv_sees(got.body).astype(int) - np.asarray(shown).astype(int)).max() <= 3


def test_a_large_odd_image_goes_on_as_a_fine_jpeg() -> None:
    data = saved(picture(0, 2400, 1800).convert("CMYK"), "JPEG")
    body = vetted(data).body
    assert Image.open(BytesIO(body)).format == "JPEG"
    assert np.abs(as_opencv_sees(body).astype(int) - np.asarray(decode(data)).astype(int)).mean() < 2


@pytest.mark.parametrize(
    ("name", "reason"),
    [("html.jpg", "not_image"), ("svg.svg", "not_image"), ("huge.png", "too_many_pixels"), ("empty.jpg", "empty")],
)
def test_what_is_no_picture_fails_with_a_reason(name: str, reason: str) -> None:
    with pytest.raises(Failure) as failed:
        inspect(IMAGES[name](), HARD_MAX_PIXELS)
    assert (failed.value.error_class, failed.value.http_status) == (reason, 200)


def test_an_odd_image_that_is_cut_off_fails_here() -> None:
    data = saved(two_halves(400, 300).convert("CMYK"), "JPEG")[:-2000]
    with pytest.raises(Failure) as failed:
        vetted(data)
    assert failed.value.error_class == "bad_image"


def test_a_sixteen_bit_png_is_not_plain_though_pillow_calls_it_rgb() -> None:
    deep = cv2.imencode(".png", np.full((4, 4, 3), 0x8000, dtype=np.uint16))[1].tobytes()
    assert not is_plain(deep, inspect(deep, HARD_MAX_PIXELS))
    assert np.asarray(as_opencv_sees(vetted(deep).body))[0, 0].tolist() == [0x80] * 3
