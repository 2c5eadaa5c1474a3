"""Thumbnails of images in shards as ``data:`` URIs; masked ones as the model sees them."""

import base64
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from zscir.data.images.decode import BadImage, decode_image, encode_jpeg
from zscir.methods.image_squares import resize_to_square
from zscir.methods.masks import kept_patches
from zscir.methods.specs import ModelPixelSpec
from zscir.report.artifact_reader import read_span, rows_with, spread_rows
from zscir.store.artifacts import Artifact

THUMB_PX = 144
QUALITY = 80
MAX_BYTES = 64 * 1024 * 1024  # of one image file: a row of a damaged table may ask for anything
MAX_THUMBNAIL_SOURCE_PIXELS = 50_000_000
GREY, STRIPE = 138, 158


@dataclass(frozen=True)
class Thumbnail:
    """A thumbnail: its ``data:`` URI (empty when it cannot be shown; ``problem`` says why), its size, its alt text."""

    uri: str
    width: int
    height: int
    alt: str
    problem: str = ""


def missing_thumbnail(alt: str, problem: str) -> Thumbnail:
    """A picture that cannot be shown."""
    return Thumbnail("", THUMB_PX, THUMB_PX, alt, problem)


def make_thumbnail(data: bytes, alt: str) -> Thumbnail:
    """At most 144 px on the longer side; never enlarged."""
    try:
        return shrink_to_thumbnail(decode_image(data, MAX_THUMBNAIL_SOURCE_PIXELS), alt)
    except BadImage as error:
        return missing_thumbnail(alt, error.reason)


def shrink_to_thumbnail(image: Image.Image, alt: str) -> Thumbnail:
    """A decoded image as a thumbnail."""
    image.thumbnail((THUMB_PX, THUMB_PX), Image.Resampling.LANCZOS)
    text = base64.b64encode(encode_jpeg(image, QUALITY)).decode()
    return Thumbnail(f"data:image/jpeg;base64,{text}", image.width, image.height, alt)


@dataclass(frozen=True)
class PatchGrid:
    """The patches of a model: its pixel spec and the side of a patch in pixels."""

    pixels: ModelPixelSpec
    patch_px: int

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.pixels.size_px // self.patch_px


def model_square(data: bytes, pixels: ModelPixelSpec) -> Image.Image:
    """The square of pixels that a model reads of an image."""
    return Image.fromarray(resize_to_square(decode_image(data, MAX_THUMBNAIL_SOURCE_PIXELS), pixels))


def masked_thumbnail(
    whole: Image.Image, patches: PatchGrid, draw: tuple[int, int, str], ratio: float, alt: str
) -> Thumbnail:
    """The square with only the patches that ``draw`` (seed, epoch, image key) keeps; the rest is striped grey."""
    seed, epoch, key = draw
    grid, side = patches.grid, patches.patch_px
    shown = np.zeros(grid * grid, dtype=bool)
    shown[kept_patches([seed], epoch, [key], grid * grid, ratio)[0]] = True
    pixels = np.asarray(whole).copy()
    hidden = ~np.kron(shown.reshape(grid, grid), np.ones((side, side), dtype=bool))
    pixels[hidden] = stripes(grid * side)[hidden, None]
    return enlarge_to_thumbnail(Image.fromarray(pixels), alt)


def stripes(size_px: int) -> NDArray[np.uint8]:
    """[S, S] greys in diagonal stripes, which nobody takes for part of a photograph."""
    period = max(4, size_px // 24)
    diagonal = np.add.outer(np.arange(size_px), np.arange(size_px)) % period
    return np.where(diagonal < period // 3, STRIPE, GREY).astype(np.uint8)


def enlarge_to_thumbnail(image: Image.Image, alt: str) -> Thumbnail:
    """A square brought to about thumbnail size; small ones by a whole factor, so that patch borders stay sharp."""
    factor = max(1, THUMB_PX // image.width)
    if factor > 1:
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    image.thumbnail((THUMB_PX, THUMB_PX), Image.Resampling.BOX)
    stream = BytesIO()
    # PNG keeps the borders of patches sharp, and a palette keeps the page small.
    image.quantize(128, dither=Image.Dither.NONE).save(stream, "PNG", optimize=True)
    text = base64.b64encode(stream.getvalue()).decode()
    return Thumbnail(f"data:image/png;base64,{text}", image.width, image.height, alt)


@dataclass
class StoredImages:
    """The images of ``download`` artifacts by image key; each table is searched once for all keys of a call."""

    sources: list[Artifact]
    places: dict[str, tuple[Artifact, dict[str, Any]]] = field(default_factory=dict)

    COLUMNS = ("image_key", "shard", "offset", "size", "text", "url", "width", "height")

    def find(self, keys: set[str]) -> None:
        """Look up the shards and offsets of the images of ``keys``."""
        for source in self.sources:
            wanted = keys - self.places.keys()
            max_rows = 4 * len(wanted)  # an image may be listed by several pairs
            for row in rows_with(source, "images.parquet", "image_key", wanted, list(self.COLUMNS), max_rows):
                if row["shard"] is not None:
                    self.places.setdefault(row["image_key"], (source, row))

    def data(self, key: str) -> bytes | None:
        """The bytes of one image; None when it is not in any shard."""
        if key not in self.places:
            self.find({key})
        if key not in self.places:
            return None
        source, row = self.places[key]
        return read_shard_member(source, row["shard"], row["offset"], row["size"])

    def picture(self, key: str, alt: str) -> Thumbnail:
        """The thumbnail of one image."""
        data = self.data(key)
        return missing_thumbnail(alt, "not in the store") if data is None else make_thumbnail(data, alt)


def read_shard_member(source: Artifact, shard: str, offset: int, size: int) -> bytes | None:
    """The bytes of one member of a shard; None when the row names no shard or no possible span."""
    if shard not in source.entries or not 0 <= size <= MAX_BYTES or offset < 0:
        return None
    return read_span(source, shard, offset, size)


def sample_downloaded_rows(source: Artifact, count: int) -> list[dict[str, Any]]:
    """Rows of images that were downloaded, spread evenly over the table."""
    return spread_rows(source, "images.parquet", count, row_filter=pc.field("status") == "ok")
