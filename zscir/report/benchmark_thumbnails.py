"""Thumbnails of a benchmark's images, by the ids in rankings, from a benchmarks artifact of either layout."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from zscir.benchmarks.info import ImageNaming
from zscir.benchmarks.preprocess import region_crop
from zscir.benchmarks.registry import info_of_label
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


@dataclass
class BenchmarkThumbnails:
    """The images of one benchmark: in ``images.tar`` beside ``images.parquet``, or loose below ``images/``."""

    source: Artifact
    benchmark: str
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)
    made: dict[str, Thumbnail] = field(default_factory=dict)

    @property
    def naming(self) -> ImageNaming:
        """How ids find pixels; that of most benchmarks where this version does not know the benchmark."""
        info = info_of_label(self.benchmark)
        return ImageNaming() if info is None else info.images

    def find(self, ids: Iterable[str]) -> None:
        """Look up where the images of ``ids`` are stored."""
        table = f"{self.benchmark}/images.parquet"
        column = self.naming.index_column
        if table in self.source.entries:
            wanted = {self.naming.indexed_name(image_id) for image_id in ids} - self.spans.keys()
            for row in rows_with(self.source, table, column, wanted):
                self.spans[row[column]] = (row["offset"], row["size"])

    def picture(self, image_id: str, alt: str) -> Thumbnail:
        """The thumbnail of an image or region; each is made once."""
        if image_id not in self.made:
            self.made[image_id] = self._make(image_id)
        made = self.made[image_id]
        return Thumbnail(made.uri, made.width, made.height, alt, made.problem)

    def _make(self, image_id: str) -> Thumbnail:
        data = self._data(self.naming.indexed_name(image_id))
        if data is None:
            return missing_thumbnail("", f"no image of {shorten_text(image_id, 40)}")
        try:
            image, box = decode_image(data, MAX_THUMBNAIL_SOURCE_PIXELS), self.naming.region_box(image_id)
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
        """Loose image files by indexed name."""
        folder = f"{self.benchmark}/images/"
        files = [file for file in self.source.entries if file.startswith(folder)]
        return {self.naming.loose_name(file.removeprefix(folder)): file for file in files}
