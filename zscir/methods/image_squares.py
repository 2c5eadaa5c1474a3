"""Decode untrusted image bytes into uint8 squares of a bounded size. Needs no torch: the report imports it too."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zscir.data.images.decode import BadImage, decode_image
from zscir.methods.specs import ModelPixelSpec
from zscir.runtime.errors import StageError

MAX_DECODED_PIXELS = 50_000_000  # 150 MB as RGB; a small file may claim far more
MAX_ASPECT = 16


def resize_to_square(image: Image.Image, spec: ModelPixelSpec) -> NDArray[np.uint8]:
    """[S, S, 3] of ``image`` as ``spec`` asks: bicubic, centre crop (optionally padded first) or warped."""
    size = spec.size_px
    image = _crop_elongated(image)
    if spec.fit == "pad":
        image = _padded(image, spec.pad_ratio)
    if spec.fit == "warp":  # as BLIP is fed
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    elif image.size != (size, size):
        short = min(image.size)
        scaled = (max(size, image.width * size // short), max(size, image.height * size // short))
        image = image.resize(scaled, Image.Resampling.BICUBIC)
        # Rounded as torchvision's CenterCrop does it, so that features equal those of the published pipelines.
        left, top = round((image.width - size) / 2), round((image.height - size) / 2)
        image = image.crop((left, top, left + size, top + size))
    return np.asarray(image, dtype=np.uint8)


def _crop_elongated(image: Image.Image) -> Image.Image:
    """The centre of an image more elongated than 16 : 1, which scaling or padding would blow up without bound."""
    short = min(image.size)
    width, height = min(image.width, short * MAX_ASPECT), min(image.height, short * MAX_ASPECT)
    if (width, height) == image.size:
        return image
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _padded(image: Image.Image, ratio: float) -> Image.Image:
    """PLI's TargetPad: an image more elongated than ``ratio`` gets black borders up to that ratio."""
    width, height = image.size
    if max(width, height) / min(width, height) < ratio:
        return image
    # The rounding is that of PLI's code; zscir.benchmarks.preprocess pads as CLIP4Cir does, which rounds otherwise.
    wide = int(max(width, height) / ratio)
    left, top = max(0, (wide - width) // 2), max(0, (wide - height) // 2)
    canvas = Image.new("RGB", (width + 2 * left, height + 2 * top))
    canvas.paste(image, (left, top))
    return canvas


def decode_to_square(data: bytes, spec: ModelPixelSpec, where: str) -> NDArray[np.uint8]:
    """[3, S, S] uint8 of an encoded image; StageError if it is none, is damaged, or has too many pixels."""
    try:
        image = decode_image(data, MAX_DECODED_PIXELS)
    except BadImage as error:
        raise StageError(f"{where}: {error}; {error.reason}") from None
    return np.ascontiguousarray(resize_to_square(image, spec).transpose(2, 0, 1))
