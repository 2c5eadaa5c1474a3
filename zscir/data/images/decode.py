"""Decode images from strangers within bounds, and encode pixels to the same JPEG bytes every time."""

import struct
import warnings
import zlib
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# Pillow's own bound: a quarter of a GiB of 3-byte pixels. It warns from here on and refuses from twice as many.
HARD_MAX_PIXELS = 89_478_485

# A warning is too weak for bytes from strangers: for the whole process it is an error, so that no code path of ours can
# decode more.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)

# Formats that a web page shows. TIFF, PDF, EPS and the like are left out: they are rare and their decoders are large.
DECODABLE_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "AVIF")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".avif")  # of files in these formats
EXIF_ORIENTATION = 0x0112
ORIENTATION_UPRIGHT = 1
ORIENTATIONS_ROTATED_90 = (5, 6, 7, 8)

# What Pillow's decoders raise on broken files beside OSError: some parse with struct, some index past the end, and that
# of AVIF raises RuntimeError.
DECODE_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, KeyError, OverflowError, MemoryError,
    RuntimeError, UserWarning, struct.error, zlib.error,
)  # fmt: skip


class BadImage(ValueError):
    """Bytes that do not become pixels; ``reason`` is ``not_image``, ``too_many_pixels`` or ``bad_image``."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class ImageHeader:
    """The header of an image. ``width`` and ``height`` in pixels are as displayed, after EXIF orientation."""

    format: str
    mode: str
    width: int
    height: int
    is_upright: bool  # no EXIF rotation or flip
    is_still: bool  # one frame
    has_alpha: bool


def read_image_header(data: bytes, max_pixels: int = HARD_MAX_PIXELS) -> ImageHeader:
    """The header of an image; no pixel is decoded. Raises BadImage, also when it has more than ``max_pixels``."""
    with _opened(data, max_pixels) as image:
        try:
            return _header(image)
        except DECODE_ERRORS as error:
            raise BadImage("bad_image", f"the header cannot be read: {_error_text(error)}") from None


def decode_image(data: bytes, max_pixels: int = HARD_MAX_PIXELS) -> Image.Image:
    """The first frame as 8-bit RGB, rotated as EXIF says, transparent parts on white. Raises BadImage."""
    with _opened(data, max_pixels) as image:
        return _decoded(image)


def decode_reduced(data: bytes, side_px: int, max_pixels: int = HARD_MAX_PIXELS) -> Image.Image:
    """As ``decode_image``, but a JPEG comes at 1/2, 1/4 or 1/8 of its size, several times as fast, as long as both
    sides stay at least ``side_px``. Raises BadImage.
    """
    with _opened(data, max_pixels) as image:
        image.draft(None, (side_px, side_px))
        return _decoded(image)


def encode_jpeg(image: Image.Image, quality: int) -> bytes:
    """JPEG bytes without any metadata; equal pixels give equal bytes."""
    stream = BytesIO()
    image.save(stream, "JPEG", quality=quality, subsampling="4:2:0", optimize=False, progressive=False)
    return stream.getvalue()


def resize_short_side(image: Image.Image, short_side_px: int) -> Image.Image:
    """The image with its short side at most ``short_side_px``, ratio kept; a smaller one is given back as it is."""
    short = min(image.size)
    if short <= short_side_px:
        return image
    scale = short_side_px / short
    size = tuple(max(short_side_px, round(side * scale)) for side in image.size)
    return image.resize((size[0], size[1]), Image.Resampling.LANCZOS, reducing_gap=3.0)


def _header(image: Image.Image) -> ImageHeader:
    orientation = _orientation(image)
    width, height = image.size
    if orientation in ORIENTATIONS_ROTATED_90:
        width, height = height, width
    return ImageHeader(
        format=image.format or "",
        mode=image.mode,
        width=width,
        height=height,
        is_upright=orientation == ORIENTATION_UPRIGHT,
        is_still=image.format == "MPO" or not getattr(image, "is_animated", False),
        has_alpha=image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info,
    )


def _opened(data: bytes, max_pixels: int) -> Image.Image:
    try:
        _check_pixels(webp_size(data) or (0, 0), max_pixels)
        image = Image.open(BytesIO(data), formats=DECODABLE_FORMATS)
    except UnidentifiedImageError:
        raise BadImage("not_image", f"not a known image format; starts with {data[:12]!r}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage("too_many_pixels", str(error).split(", could be")[0]) from None
    except BadImage:
        raise
    except DECODE_ERRORS as error:
        raise BadImage("bad_image", f"the header cannot be read: {_error_text(error)}") from None
    _check_pixels(image.size, max_pixels)
    return image


def _check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise BadImage("too_many_pixels", f"{width} x {height} pixels; allowed are {max_pixels}")


def webp_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in a WebP header, else None: Pillow's WebP reader takes memory for all pixels on opening."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return None
    if data[12:16] == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack("<HH", data[26:30])
    return width & 0x3FFF, height & 0x3FFF


def _decoded(image: Image.Image) -> Image.Image:
    try:
        image.load()
        turned = ImageOps.exif_transpose(image) if _orientation(image) != ORIENTATION_UPRIGHT else image
        return _rgb(turned)
    except DECODE_ERRORS as error:
        raise BadImage("bad_image", f"{image.format} cannot be decoded: {_error_text(error)}") from None


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(EXIF_ORIENTATION, ORIENTATION_UPRIGHT)
    except DECODE_ERRORS:
        return ORIENTATION_UPRIGHT  # a picture with damaged EXIF is still a picture
    return value if isinstance(value, int) and value in range(1, 9) else ORIENTATION_UPRIGHT


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        # 16 bits per channel: the high byte is the picture; Pillow's own conversion clips at 255 instead
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layers = image.convert("RGBA")
        white = Image.new("RGBA", layers.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layers).convert("RGB")
    return image.convert("RGB") if image.mode != "RGB" else image.copy()


def _error_text(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
