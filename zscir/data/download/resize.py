"""Resize and encode an image as img2dataset would, without importing it.

The same OpenCV calls as its Resizer makes, compared byte by byte by a test; that one would import albumentations, which
asks a package registry for its newest version, and half of SciPy.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from zscir.data.download.fetch_spec import ResizeSpec
from zscir.data.images.decode import BadImage

BORDER_RGB = (255, 255, 255)  # of resize_mode = "border", as in img2dataset
BgrArray = NDArray[np.uint8]


def resize_to_jpeg(data: bytes, spec: ResizeSpec) -> tuple[bytes, int, int]:
    """JPEG bytes, width and height of a validated image. Raises BadImage when OpenCV cannot read it."""
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is None or pixels.dtype != np.uint8:
            raise BadImage("bad_image", "the image cannot be decoded")
        sized = _sized(np.asarray(pixels, np.uint8), spec)
        height, width = sized.shape[:2]
        if sized is pixels and spec.keep_jpegs and _is_jpeg(data):
            return data, width, height
        done, encoded = cv2.imencode(".jpg", sized, [cv2.IMWRITE_JPEG_QUALITY, spec.quality])
    except cv2.error as error:
        raise BadImage("bad_image", f"OpenCV: {' '.join(str(error.err).split())[:200]}") from None
    if not done:
        raise BadImage("bad_image", "the image cannot be encoded as JPEG")
    return encoded.tobytes(), width, height


def _sized(pixels: BgrArray, spec: ResizeSpec) -> BgrArray:
    """The pixels as the resize mode wants them; the very same array when nothing is to be done."""
    if spec.resize_mode == "no":
        return pixels
    by_short = spec.resize_mode in ("keep_ratio", "center_crop")
    side = min(pixels.shape[:2]) if by_short else max(pixels.shape[:2])
    if spec.only_if_bigger and side <= spec.image_size:
        return pixels
    scaled = _scaled(pixels, spec.image_size / side, cv2.INTER_AREA if side > spec.image_size else cv2.INTER_LANCZOS4)
    if spec.resize_mode == "center_crop":
        return _cropped(scaled, spec.image_size)
    if spec.resize_mode == "border":
        return _bordered(scaled, spec.image_size)
    return scaled


def _scaled(pixels: BgrArray, scale: float, how: int) -> BgrArray:
    height, width = (max(1, round(length * scale)) for length in pixels.shape[:2])
    if (height, width) == pixels.shape[:2]:
        return pixels.copy()
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=how), np.uint8)


def _cropped(pixels: BgrArray, side_px: int) -> BgrArray:
    top, left = ((length - side_px) // 2 for length in pixels.shape[:2])
    return np.ascontiguousarray(pixels[top : top + side_px, left : left + side_px])


def _bordered(pixels: BgrArray, side_px: int) -> BgrArray:
    (top, bottom), (left, right) = (_margins(length, side_px) for length in pixels.shape[:2])
    framed = cv2.copyMakeBorder(pixels, top, bottom, left, right, cv2.BORDER_CONSTANT, value=BORDER_RGB)
    return np.asarray(framed, np.uint8)


def _margins(length: int, wanted: int) -> tuple[int, int]:
    missing = max(0, wanted - length)
    return missing // 2, missing - missing // 2


def _is_jpeg(data: bytes) -> bool:
    """As the imghdr of the standard library (gone since Python 3.13) decides, by which img2dataset does."""
    return data[6:10] in (b"JFIF", b"Exif") or data[:4] == b"\xff\xd8\xff\xdb"
