"""filter_size: downloaded images become those of a useful size and shape."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from zscir.data.images.keep_list import FilterReject, ImageRow, first_row_per_image, kept_image_rows, write_keep_list
from zscir.pipeline.stage import stage
from zscir.runtime.specs import Spec
from zscir.store.artifacts import Artifact, Facts

SIZE_COLUMNS = ("width", "height", "original_width", "original_height")
PixelCount = Annotated[int, Field(ge=1)]


class FilterSizeSpec(Spec):
    """Bounds of an image as it is displayed, in pixels. ``of``: as its server sent it, or as ``download`` stored it
    (resized). ``max_aspect`` is the long side by the short one.
    """

    # "original": a download that resizes stores every image at about one size, which says nothing of its worth.
    of: Literal["original", "stored"] = "original"
    min_side_px: PixelCount = 64
    max_side_px: PixelCount | None = None
    min_pixels: PixelCount | None = None
    # Beyond 5 to 1 a centre crop shows a fifth of the picture: banners, rulers, screenshots of long pages.
    max_aspect: Annotated[float, Field(ge=1)] = 5.0

    @model_validator(mode="after")
    def _not_empty(self) -> "FilterSizeSpec":
        if self.max_side_px is not None and self.min_side_px > self.max_side_px:
            raise ValueError(f"min_side_px = {self.min_side_px}, more than max_side_px = {self.max_side_px}")
        return self


@stage(version=1)
def filter_size(spec: FilterSizeSpec, images: Artifact, out: Path, keep: Artifact | None = None) -> Facts:
    """Write ``keep.parquet`` and ``rejects.parquet``: unknown_size, small_side, large_side, few_pixels, aspect."""
    rows = first_row_per_image(kept_image_rows("filter_size", images, keep, SIZE_COLUMNS))
    return write_keep_list("filter_size", rows, lambda row: _find_reject(spec, row), out)


def _find_reject(spec: FilterSizeSpec, row: ImageRow) -> FilterReject | None:
    before = "original_" if spec.of == "original" else ""
    width, height = row[f"{before}width"], row[f"{before}height"]
    # Tables of other makers, or of older versions, may lack the size; nothing is kept unseen.
    if not width or not height:
        return FilterReject("unknown_size", f"the download does not say the {spec.of} size")
    short, long, size = min(width, height), max(width, height), f"{width} x {height}"
    if short < spec.min_side_px:
        return FilterReject("small_side", f"{size}; at least {spec.min_side_px} on each side")
    if spec.max_side_px is not None and long > spec.max_side_px:
        return FilterReject("large_side", f"{size}; at most {spec.max_side_px} on each side")
    if spec.min_pixels is not None and width * height < spec.min_pixels:
        return FilterReject("few_pixels", f"{size}; at least {spec.min_pixels} pixels")
    if long > spec.max_aspect * short:
        return FilterReject("aspect", f"{size}; at most {spec.max_aspect:g} to 1")
    return None
