"""The gallery: ids that rankings use become thumbnails out of a benchmarks artifact, whatever its layout."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from zscir.benchmarks.preprocess import RegionBox, region_crop
from zscir.data.images.decode import BadImage, decode_image
from zscir.report.artifact_reader import rows_with
from zscir.report.formatting import shorten_text
from zscir.report.thumbnails import (
    MAX_BYTES,
    MAX_THUMBNAIL_SOURCE_PIXELS,
    Thumbnail,
    missing_thumbnail,
    read_shard_member,
    shrink_to_thumbnail,
)
from zscir.runtime.errors import RequestError
from zscir.store.artifacts import Artifact

_REGION = re.compile(r"(.+)\[([^,\]]+),([^,\]]+),([^,\]]+),([^,\]]+)\]")


@dataclass
class BenchmarkThumbnails:
    """The images of one benchmark: in ``images.tar`` beside ``images.parquet``, or loose below ``images/``."""

    source: Artifact
    benchmark: str
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)
    made: dict[str, Thumbnail] = field(default_factory=dict)

    def find(self, ids: Iterable[str]) -> None:
        """Learn where the images of ``ids`` lie."""
        table = f"{self.benchmark}/images.parquet"
        column = "member" if self.benchmark == "genecis" else "image_id"
        if table in self.source.entries:
            wanted = {indexed_image_name(self.benchmark, one) for one in ids} - self.spans.keys()
            for row in rows_with(self.source, table, column, wanted):
                self.spans[row[column]] = (row["offset"], row["size"])

    def picture(self, image_id: str, alt: str) -> Thumbnail:
        """The thumbnail of an image or region; each is made once."""
        if image_id not in self.made:
            self.made[image_id] = self._make(image_id)
        made = self.made[image_id]
        return Thumbnail(made.uri, made.width, made.height, alt, made.problem)

    def _make(self, image_id: str) -> Thumbnail:
        data = self._data(indexed_image_name(self.benchmark, image_id))
        if data is None:
            return missing_thumbnail("", f"no image of {shorten_text(image_id, 40)}")
        try:
            image, box = decode_image(data, MAX_THUMBNAIL_SOURCE_PIXELS), region_box(image_id)
            return shrink_to_thumbnail(image if box is None else region_crop(image, box, image_id), "")
        except (BadImage, RequestError) as error:
            return missing_thumbnail("", shorten_text(str(error), 80))

    def _data(self, name: str) -> bytes | None:
        if name in self.spans:
            return read_shard_member(self.source, f"{self.benchmark}/images.tar", *self.spans[name])
        loose = self._loose().get(name)
        return (
            None
            if loose is None
            else read_shard_member(self.source, loose, 0, min(self.source.entries[loose].size, MAX_BYTES))
        )

    def _loose(self) -> dict[str, str]:
        """Loose image files by the name that ``indexed_image_name`` gives."""
        folder = f"{self.benchmark}/images/"
        names = [name for name in self.source.entries if name.startswith(folder)]
        if self.benchmark == "genecis":
            return {name.removeprefix(folder): name for name in names}
        stems = {PurePosixPath(name).stem: name for name in names}
        return stems | {
            str(int(stem)): name for stem, name in stems.items() if self.benchmark == "circo" and stem.isdecimal()
        }


def indexed_image_name(benchmark: str, image_id: str) -> str:
    """How the index knows an image: a GeneCIS region by the file that it is cut from, any other by its id."""
    if benchmark != "genecis":
        return image_id
    region = _REGION.fullmatch(image_id)
    if region is not None:
        return f"vg/{region[1]}.jpg"
    return f"coco/{int(image_id):012d}.jpg" if image_id.isdecimal() else image_id


def region_box(image_id: str) -> RegionBox | None:
    """(x, y, width, height) of a GeneCIS region ``image[x,y,w,h]``; None for a whole image."""
    region = _REGION.fullmatch(image_id)
    try:
        return None if region is None else (float(region[2]), float(region[3]), float(region[4]), float(region[5]))
    except ValueError:
        return None
