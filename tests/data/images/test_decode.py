import contextlib
import struct
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.faults.hostile_images import (
    IMAGES,
    LEFT,
    RIGHT,
    deep_png,
    huge_png,
    palette_png,
    picture,
    rotated_jpeg,
    saved,
    two_halves,
)
from zscir.data.images.decode import (
    BadImage,
    decode_image,
    decode_reduced,
    encode_jpeg,
    read_image_header,
    resize_short_side,
    webp_size,
)


def near(pixel: tuple[int, ...], colour: tuple[int, ...], by: int = 12) -> bool:
    return all(abs(a - b) <= by for a, b in zip(pixel, colour, strict=True))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF"])
def test_formats_of_the_web_are_decoded_to_rgb(kind: str) -> None:
    image = decode_image(saved(two_halves(), kind))
    assert (image.mode, image.size) == ("RGB", (64, 32))
    assert near(image.getpixel((10, 16)), LEFT, 40)
    assert near(image.getpixel((54, 16)), RIGHT, 40)


def test_cmyk_keeps_its_colours() -> None:
    image = decode_image(IMAGES["cmyk.jpg"]())
    assert near(image.getpixel((10, 16)), LEFT)
    assert near(image.getpixel((54, 16)), RIGHT)


def test_sixteen_bits_become_their_high_byte() -> None:
    image = decode_image(deep_png())
    assert image.getpixel((10, 16)) == (0x40, 0x40, 0x40)
    assert image.getpixel((54, 16)) == (0xC0, 0xC0, 0xC0)


def test_what_is_transparent_becomes_white() -> None:
    image = decode_image(palette_png())
    assert image.getpixel((10, 16)) == LEFT
    assert image.getpixel((54, 16)) == (255, 255, 255)


def test_half_transparent_red_becomes_pink() -> None:
    half = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    assert near(decode_image(saved(half, "PNG")).getpixel((1, 1)), (255, 127, 127), 1)


def test_exif_orientation_turns_the_picture() -> None:
    header, image = read_image_header(rotated_jpeg()), decode_image(rotated_jpeg())
    assert (header.width, header.height, header.is_upright) == (32, 64, False)
    assert image.size == (32, 64)
    assert near(image.getpixel((16, 10)), LEFT)
    assert near(image.getpixel((16, 54)), RIGHT)


@pytest.mark.parametrize("name", ["animated.gif", "animated.webp"])
def test_of_an_animation_the_first_frame_counts(name: str) -> None:
    data = IMAGES[name]()
    assert not read_image_header(data).is_still
    assert near(decode_image(data).getpixel((10, 16)), LEFT, 40)


def test_a_hundred_megapixels_are_refused_before_decoding() -> None:
    for look in (read_image_header, decode_image):
        with pytest.raises(BadImage) as refused:
            look(huge_png())
        assert refused.value.reason == "too_many_pixels"


def test_the_pixel_limit_is_exact() -> None:
    data = saved(picture(0, 20, 10), "PNG")
    assert read_image_header(data, 200).width == 20
    with pytest.raises(BadImage, match="20 x 10 pixels; allowed are 199"):
        read_image_header(data, 199)


@pytest.mark.parametrize("options", [{"quality": 80}, {"lossless": True}, {"quality": 80, "exif": b"Exif\0\0"}])
def test_a_webp_header_gives_its_size_without_pillow(options: dict[str, object]) -> None:
    assert webp_size(saved(picture(0, 321, 123), "WEBP", **options)) == (321, 123)


def test_a_webp_of_a_gigapixel_is_refused_without_opening_it() -> None:
    canvas = (16383 - 1).to_bytes(3, "little")
    bomb = b"RIFF" + struct.pack("<I", 100) + b"WEBPVP8X" + struct.pack("<I", 10) + b"\0" * 4 + canvas * 2 + b"\0" * 80
    with pytest.raises(BadImage) as refused:
        read_image_header(bomb)
    assert refused.value.reason == "too_many_pixels"


@pytest.mark.parametrize("name", ["html.jpg", "svg.svg", "empty.jpg"])
def test_what_is_no_image_is_said_to_be_none(name: str) -> None:
    with pytest.raises(BadImage) as refused:
        read_image_header(IMAGES[name]())
    assert refused.value.reason == "not_image"


def test_tiff_is_not_among_the_formats() -> None:
    with pytest.raises(BadImage, match="not a known image format"):
        read_image_header(saved(picture(), "TIFF"))


@given(st.data())
def test_damaged_bytes_give_pixels_or_bad_image_and_nothing_else(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP"]))
    broken = bytearray(saved(picture(1, 24, 16), kind))
    for _ in range(data.draw(st.integers(1, 4))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(broken)))
    for candidate in (bytes(broken), bytes(broken[:cut])):
        with contextlib.suppress(BadImage):
            assert decode_image(candidate, 10_000).mode == "RGB"


def test_equal_pixels_give_equal_jpeg_bytes_without_metadata() -> None:
    image = decode_image(rotated_jpeg())
    first, second = encode_jpeg(image, 90), encode_jpeg(image.copy(), 90)
    assert first == second
    assert not Image.open(BytesIO(first)).getexif()


@given(st.integers(1, 400), st.integers(1, 400), st.integers(16, 64))
def test_shrinking_bounds_the_short_side_and_keeps_the_ratio(width: int, height: int, short_px: int) -> None:
    image = resize_short_side(Image.new("RGB", (width, height)), short_px)
    assert min(image.size) == min(width, height, short_px)
    scale = min(1.0, short_px / min(width, height))
    assert np.allclose(image.size, (width * scale, height * scale), atol=0.51)


def test_a_jpeg_may_be_decoded_small_and_stands_upright() -> None:
    data = saved(picture(0, 640, 480), "JPEG")
    assert decode_reduced(data, 120).size == (160, 120)
    assert decode_reduced(data, 121).size == (320, 240)
    assert decode_reduced(rotated_jpeg(), 8).size == (8, 16)


def test_other_formats_are_decoded_whole() -> None:
    data = saved(picture(0, 64, 48), "PNG")
    assert np.array_equal(np.asarray(decode_reduced(data, 8)), np.asarray(decode_image(data)))


def test_decoding_small_has_the_same_bounds() -> None:
    for data, reason in ((b"none", "not_image"), (saved(picture(0, 64, 48), "JPEG"), "too_many_pixels")):
        with pytest.raises(BadImage) as caught:
            decode_reduced(data, 8, max_pixels=3000)
        assert caught.value.reason == reason
