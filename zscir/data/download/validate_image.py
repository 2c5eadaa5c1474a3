"""Validate a fetched body: bytes that OpenCV decodes to the right pixels, or the reason why it is no image.

img2dataset reads images with OpenCV, which ignores EXIF orientation, clips 16-bit values at 255 and has no limit on
pixels. Plain images pass as they are; others are decoded here, within bounds, and passed on as a bitmap or, if large,
as a JPEG of high quality. Two kinds that cost OpenCV far more than their pixels (found by mutating images) are
rejected: a PNG whose chunks claim more bytes than there are (it allocates them first, up to 4 GB), and a JPEG of very
many scans (each is a pass over all pixels).
"""

from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO

from PIL import Image

from zscir.data.download.failures import FetchFailure
from zscir.data.images.decode import BadImage, ImageHeader, decode_image, read_image_header

# Larger ones are passed on as JPEG: img2dataset holds over a hundred images at a time.
BITMAP_PIXELS = 4_000_000
REENCODE_QUALITY = 97
PNG_SIGNATURE_BYTES = 8
PNG_DEPTH_AT = 24  # signature 8, length 4, "IHDR" 4, width 4, height 4
SCAN_MARKER = b"\xff\xda"  # never inside picture data, where 00 follows each ff
SEQUENTIAL_FRAMES = (0xC0, 0xC1)  # markers of frame headers, C0 to CF: baseline and extended sequential
NON_FRAME_CODES = (0xC4, 0xC8, 0xCC)  # codes in that range that are no frame headers
MAX_SCANS = 100  # encoders write 1, about 10, or a few dozen
MAX_SCANNED_PIXELS = 2_000_000_000  # scans times pixels: a few seconds
LONGEST_JPEG_PX = 65_500  # of a side: libjpeg's JPEG_MAX_DIMENSION


@dataclass(frozen=True)
class ValidImage:
    """An image for img2dataset. Size (as displayed, in pixels) and SHA-256 are those of the original."""

    body: bytes
    width: int
    height: int
    sha256: str


def validate_header(data: bytes, max_pixels: int) -> ImageHeader:
    """The header of a fetched body. Raises FetchFailure when it is empty, no image, or too costly to decode."""
    if not data:
        raise FetchFailure("empty", "the body is empty", http_status=200)
    try:
        header = read_image_header(data, max_pixels)
    except BadImage as error:
        raise FetchFailure(error.reason, str(error), http_status=200) from None
    if header.format == "PNG" and is_plain_image(data, header) and not _chunks_fit(data):
        raise _bad_image("a PNG that is cut off: its chunks are longer than the file")
    if header.format in ("JPEG", "MPO"):
        scans = _scans(data)
        if scans > MAX_SCANS or scans * header.width * header.height > MAX_SCANNED_PIXELS:
            raise _bad_image(f"a JPEG of {scans} scans for {header.width} x {header.height} pixels")
    return header


def is_plain_image(data: bytes, header: ImageHeader) -> bool:
    """Whether OpenCV decodes these bytes to the pixels that a browser shows."""
    if header.mode not in ("RGB", "L") or not (header.is_upright and header.is_still) or header.has_alpha:
        return False
    if header.format == "PNG":
        return data[PNG_DEPTH_AT : PNG_DEPTH_AT + 1] == b"\x08"
    return header.format in ("JPEG", "MPO", "WEBP", "BMP")


def validated_image(data: bytes, header: ImageHeader, max_pixels: int) -> ValidImage:
    """The image to pass on. Raises FetchFailure when one that is not plain cannot be decoded."""
    body = data
    if not is_plain_image(data, header):
        if header.width * header.height > BITMAP_PIXELS and max(header.width, header.height) > LONGEST_JPEG_PX:
            raise _bad_image(f"{header.width} x {header.height} pixels: too long for a JPEG")
        try:
            body = _plain(decode_image(data, max_pixels))
        except BadImage as error:
            raise FetchFailure(error.reason, str(error), http_status=200) from None
    return ValidImage(body, header.width, header.height, sha256(data).hexdigest())


def _chunks_fit(data: bytes) -> bool:
    """Whether the chunks of a PNG, up to its end, lie within the file."""
    at = PNG_SIGNATURE_BYTES
    while at + 12 <= len(data):  # length 4, type 4, the data, checksum 4
        kind = data[at + 4 : at + 8]
        at += 12 + int.from_bytes(data[at : at + 4], "big")
        if kind == b"IEND":
            return at <= len(data)
    return False


def _scans(data: bytes) -> int:
    """An upper bound of the scans of a JPEG. A sequential one with all components in its first scan has one."""
    at, frame, components = 2, 0, 0
    while at + 10 <= len(data):
        code = data[at + 1]
        if code == 0xFF:  # filler
            at += 1
            continue
        if code == SCAN_MARKER[1]:
            return 1 if frame in SEQUENTIAL_FRAMES and data[at + 4] == components else data.count(SCAN_MARKER, at)
        if 0xC0 <= code <= 0xCF and code not in NON_FRAME_CODES:
            frame, components = code, data[at + 9]
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data.count(SCAN_MARKER)


def _bad_image(why: str) -> FetchFailure:
    return FetchFailure("bad_image", why, http_status=200)


def _plain(image: Image.Image) -> bytes:
    stream = BytesIO()
    if image.width * image.height <= BITMAP_PIXELS:
        image.save(stream, "BMP")
    else:
        image.save(stream, "JPEG", quality=REENCODE_QUALITY, subsampling="4:4:4")
    return stream.getvalue()
