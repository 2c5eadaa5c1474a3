"""Preprocess images as the literature's evaluation code does: ``targetpad``, ``clip``, and GeneCIS's crops.

The one module of the benchmarks that needs Pillow; import it by name. ``zscir.methods.image_squares`` pads in its own
way, as PLI does: it rounds other sides, so the two stay apart.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from zscir.benchmarks.info import RegionBox
from zscir.runtime.errors import RequestError

CLIP_MEAN_ARRAY = np.array((0.48145466, 0.4578275, 0.40821073), dtype=np.float32)
CLIP_STD_ARRAY = np.array((0.26862954, 0.26130258, 0.27577711), dtype=np.float32)
PREPROCESSINGS = ("targetpad", "clip")
TARGET_RATIO = 1.25  # CLIP4Cir's, and SEARLE's after it
DILATION = 0.7  # GeneCIS: an instance is shown with some of what is around it


def preprocess_image(image: Image.Image, preprocessing: str, size_px: int) -> Image.Image:
    """The RGB square that the model sees: (TargetPad,) shorter side to ``size_px`` bicubic, centre crop."""
    if preprocessing not in PREPROCESSINGS:
        raise RequestError(f"no preprocessing '{preprocessing}'; there are {', '.join(PREPROCESSINGS)}")
    if preprocessing == "targetpad":
        image = target_pad(image)
    return _centre(_resize(image, size_px), size_px).convert("RGB")


def preprocess_to_array(image: Image.Image, preprocessing: str, size_px: int) -> NDArray[np.float32]:
    """``preprocess_image`` as float32 [3, size_px, size_px], normalised with CLIP's mean and deviation."""
    values = np.asarray(preprocess_image(image, preprocessing, size_px), dtype=np.float32) / np.float32(255)
    normalised: NDArray[np.float32] = ((values - CLIP_MEAN_ARRAY) / CLIP_STD_ARRAY).transpose(2, 0, 1)
    return normalised


def target_pad(image: Image.Image, ratio: float = TARGET_RATIO) -> Image.Image:
    """Black bars until the long side is at most ``ratio`` times the short one (CLIP4Cir's TargetPad)."""
    width, height = image.size
    if max(width, height) / min(width, height) < ratio:
        return image
    scaled = max(width, height) / ratio
    across, down = (max(int((scaled - side) / 2), 0) for side in (width, height))
    return ImageOps.expand(image, (across, down, across, down), fill=0)


def crop_box(size: tuple[int, int], box: RegionBox) -> RegionBox:
    """GeneCIS's dilated (left, top, right, bottom) of an instance box (x, y, w, h) in an image of ``size`` (w, h).

    A quirk of the official code, kept: unless clipped at 0, the box grows to the left and top only.
    """
    x, y, width, height = box
    left, top = max(0, x - DILATION * width), max(0, y - DILATION * height)
    return left, top, min(size[0], left + (1 + DILATION) * width), min(size[1], top + (1 + DILATION) * height)


def region_crop(image: Image.Image, box: RegionBox, where: str) -> Image.Image:
    """What GeneCIS shows of an instance: the dilated crop, centred on a black square."""
    left, top, right, bottom = crop_box(image.size, box)
    if right - left < 1 or bottom - top < 1:
        raise RequestError(f"{where}: box {box} lies outside the image of {image.size[0]} x {image.size[1]} pixels")
    crop = image.crop((left, top, right, bottom))  # Pillow rounds the sides, as in the official code
    side = max(crop.size)
    square = Image.new(crop.mode, (side, side), 0)
    square.paste(crop, ((side - crop.width) // 2, (side - crop.height) // 2))
    return square


def _resize(image: Image.Image, size_px: int) -> Image.Image:
    width, height = image.size
    long_px = int(size_px * max(width, height) / min(width, height))
    return image.resize((size_px, long_px) if width <= height else (long_px, size_px), Image.Resampling.BICUBIC)


def _centre(image: Image.Image, size_px: int) -> Image.Image:
    left, top = round((image.width - size_px) / 2.0), round((image.height - size_px) / 2.0)
    return image.crop((left, top, left + size_px, top + size_px))
