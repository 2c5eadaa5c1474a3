"""Vetting: a fetched body becomes bytes that OpenCV may decode to the right pixels, or the reason why it is no image.

img2dataset reads images with OpenCV, which ignores EXIF orientation, cuts 16 bits off at 255 and knows no limit.
Plain images pass as they are; others are decoded here, within bounds, and go on as a bitmap or, if large, a fine JPEG.
"""

from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO

from PIL import Image

from zscir.fetch.failures import Failure
from zscir.images import BadImage, Header, decode, probe

# img2dataset holds over a hundred images at a time: bitmaps of large ones would fill the memory.
BITMAP_PIXELS = 4_000_000
FINE = 97
PNG_DEPTH_AT = 24  # signature 8, length 4, "IHDR" 4, width 4, height 4


@dataclass(frozen=True)
class Vetted:
    """An image for img2dataset. Size and SHA-256 are those of what the outside gave; the size is as displayed."""

    body: bytes
    width: int
    height: int
    sha256: str


def inspect(data: bytes, max_pixels: int) -> Header:
    """The header of a fetched body. Raises Failure when it is empty, no image or too many pixels."""
    if not data:
        raise Failure("empty", "the body is empty", http_status=200)
    try:
        return probe(data, max_pixels)
    except BadImage as error:
        raise Failure(error.reason, str(error), http_status=200) from None


def is_plain(data: bytes, header: Header) -> bool:
    """Whether OpenCV decodes these bytes to the pixels that a browser shows."""
    if header.mode not in ("RGB", "L") or not (header.upright and header.still) or header.transparent:
        return False
    if header.format == "PNG":
        return data[PNG_DEPTH_AT : PNG_DEPTH_AT + 1] == b"\x08"
    return header.format in ("JPEG", "MPO", "WEBP", "BMP")


def vet(data: bytes, header: Header, max_pixels: int) -> Vetted:
    """The image to hand on. Raises Failure when an odd one cannot be decoded."""
    body = data
    if not is_plain(data, header):
        try:
            body = _plain(decode(data, max_pixels))
        except BadImage as error:
            raise Failure(error.reason, str(error), http_status=200) from None
    return Vetted(body, header.width, header.height, sha256(data).hexdigest())


def _plain(image: Image.Image) -> bytes:
    stream = BytesIO()
    if image.width * image.height <= BITMAP_PIXELS:
        image.save(stream, "BMP")
    else:
        image.save(stream, "JPEG", quality=FINE, subsampling="4:4:4")
    return stream.getvalue()
