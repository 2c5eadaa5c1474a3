import contextlib
import random
from io import BytesIO

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.faults.hostile_images import IMAGES, many_scans, picture, saved, two_halves
from zscir.data.download.failures import FetchFailure
from zscir.data.download.validate_image import SCAN_MARKER, ValidImage, is_plain_image, validate_header, validated_image
from zscir.data.images.decode import HARD_MAX_PIXELS, decode_image


def vetted(data: bytes, max_pixels: int = HARD_MAX_PIXELS) -> ValidImage:
    return validated_image(data, validate_header(data, max_pixels), max_pixels)


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
    shown = decode_image(data)
    assert (got.width, got.height) == shown.size
    assert np.abs(as_opencv_sees(got.body).astype(int) - np.asarray(shown).astype(int)).max() <= 3


def test_a_large_odd_image_goes_on_as_a_fine_jpeg() -> None:
    data = saved(picture(0, 2400, 1800).convert("CMYK"), "JPEG")
    body = vetted(data).body
    assert Image.open(BytesIO(body)).format == "JPEG"
    assert np.abs(as_opencv_sees(body).astype(int) - np.asarray(decode_image(data)).astype(int)).mean() < 2


@pytest.mark.parametrize(
    ("name", "reason"),
    [("html.jpg", "not_image"), ("svg.svg", "not_image"), ("huge.png", "too_many_pixels"), ("empty.jpg", "empty")],
)
def test_what_is_no_picture_fails_with_a_reason(name: str, reason: str) -> None:
    with pytest.raises(FetchFailure) as failed:
        validate_header(IMAGES[name](), HARD_MAX_PIXELS)
    assert (failed.value.error_class, failed.value.http_status) == (reason, 200)


def test_an_odd_image_that_is_cut_off_fails_here() -> None:
    data = saved(two_halves(400, 300).convert("CMYK"), "JPEG")[:-2000]
    with pytest.raises(FetchFailure) as failed:
        vetted(data)
    assert failed.value.error_class == "bad_image"


def test_a_sixteen_bit_png_is_not_plain_though_pillow_calls_it_rgb() -> None:
    deep = cv2.imencode(".png", np.full((4, 4, 3), 0x8000, dtype=np.uint16))[1].tobytes()
    assert not is_plain_image(deep, validate_header(deep, HARD_MAX_PIXELS))
    assert np.asarray(as_opencv_sees(vetted(deep).body))[0, 0].tolist() == [0x80] * 3


@pytest.mark.parametrize("name", ["scans.jpg", "claims.png"])
def test_what_costs_far_more_than_its_pixels_is_refused_by_its_header(name: str) -> None:
    with pytest.raises(FetchFailure) as failed:
        validate_header(IMAGES[name](), HARD_MAX_PIXELS)
    assert failed.value.error_class == "bad_image"


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 3}, {"optimize": True}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_the_scans_of_a_usual_jpeg_are_few(options: dict[str, object], mode: str) -> None:
    """Also where its metadata hold what looks like scans."""
    data = saved(picture(0, 200, 150).convert(mode), "JPEG", comment=SCAN_MARKER * 1000, **options)
    assert data.count(SCAN_MARKER) > 900
    assert validate_header(data, HARD_MAX_PIXELS).width == 200


def test_the_more_pixels_a_jpeg_has_the_fewer_scans_it_may_have() -> None:
    data = many_scans(60)
    assert validate_header(data, HARD_MAX_PIXELS).width == 64
    size_at = data.index(b"\xff\xc2") + 5
    huge = data[:size_at] + (9000).to_bytes(2, "big") * 2 + data[size_at + 4 :]
    with pytest.raises(FetchFailure, match="scans for 9000 x 9000"):
        validate_header(huge, HARD_MAX_PIXELS)


def test_an_odd_image_that_is_too_long_for_a_jpeg_fails_here() -> None:
    data = saved(Image.new("P", (70_000, 100)), "PNG")
    with pytest.raises(FetchFailure, match="too long for a JPEG"):
        vetted(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "AVIF"])
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_whatever_is_in_the_bytes_it_is_an_image_or_a_failure(kind: str, seed: int) -> None:
    rng = random.Random(seed)
    data = bytearray(saved(picture(seed % 3).convert("P" if kind == "GIF" else "RGB"), kind))
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(data) if rng.random() < 0.5 else min(len(data), 100))
        match rng.randrange(4):
            case 0:
                data[at] = rng.randrange(256)
            case 1:
                data[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"])
            case 2:
                del data[at : at + rng.randrange(1, 50)]
            case _:
                data[at:at] = data[at : at + rng.randrange(1, 50)]
        if not data:
            break
    with contextlib.suppress(FetchFailure):  # nothing else
        got = vetted(bytes(data), max_pixels=1_000_000)
        assert got.width * got.height <= 1_000_000
