"""Exhibits: the scenes of a benchmark become picture bytes under the names by which its annotations know them."""

from dataclasses import dataclass, field
from random import Random
from typing import Any

from zscir.tabletop.render import PlacedObject, encode_picture, layout_of, picture_of, size_of
from zscir.tabletop.scenes import Scene, derive_rng


@dataclass(frozen=True)
class BenchmarkImage:
    """One picture of a benchmark: its id in the annotations, its name in the tar, what it shows."""

    image_id: str
    member: str
    scene: Scene


@dataclass
class TabletopBenchmark:
    """A benchmark before it is written: JSON-able annotations by relative path, and the pictures."""

    benchmark: str
    annotations: dict[str, Any] = field(default_factory=dict)
    exhibits: list[BenchmarkImage] = field(default_factory=list)


def image_bytes(seed: int, size_px: int, benchmark: str, exhibit: BenchmarkImage) -> bytes:
    """The picture in the format that its member name says."""
    rng = _rng(seed, benchmark, exhibit.image_id)
    image, _ = picture_of(rng, exhibit.scene, *size_of(rng, size_px))
    return encode_picture(image, "PNG" if exhibit.member.endswith(".png") else "JPEG")


def object_boxes(
    seed: int, size_px: int, benchmark: str, exhibit: BenchmarkImage
) -> tuple[list[PlacedObject], tuple[int, int]]:
    """Where the things lie in the picture that ``image_bytes`` makes, and its (width, height); nothing is drawn."""
    rng = _rng(seed, benchmark, exhibit.image_id)
    width, height = size_of(rng, size_px)
    return layout_of(rng, exhibit.scene, width, height), (width, height)


def _rng(seed: int, benchmark: str, image_id: str) -> Random:
    return derive_rng(seed, "exhibit", benchmark, image_id)
