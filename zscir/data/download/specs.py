"""The specs of a download: what to fetch within which bounds, to which pixels, in what chunks, in how many rounds."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from zscir.data.download.fetch_spec import FetchSpec, ResizeSpec
from zscir.runtime.specs import Spec
from zscir.tabletop.spec import TabletopSpec

ChunkRows = Annotated[int, Field(ge=1, le=100_000)]


class FetchImagesSpec(FetchSpec, ResizeSpec):
    """What is fetched, how far, and to which pixels."""

    tabletop: TabletopSpec | None = None  # serve the tabletop world on loopback while downloading

    def img2dataset_options(self) -> dict[str, Any]:
        """The arguments of img2dataset that decide pixels."""
        return {
            "resize_mode": self.resize_mode,
            "image_size": self.image_size,
            "resize_only_if_bigger": self.only_if_bigger,
            "encode_quality": self.quality,
            "encode_format": "jpg",
            "skip_reencode": self.keep_jpegs,
        }


class ChunkSpec(FetchImagesSpec):
    """The spec of one chunk. The round is in its key: the same URLs fetched again later are another chunk."""

    round: Annotated[int, Field(ge=1)] | None = None


class DownloadSpec(FetchImagesSpec):
    """A whole download. ``min_success_rate`` and ``patch_rounds`` are not in the keys of its chunks."""

    chunk_rows: ChunkRows = 10_000  # the most URLs of a chunk; a crash costs one chunk per worker
    patch_rounds: Annotated[int, Field(ge=0, le=20)] | None = None  # how often to retry what failed and may pass
    min_success_rate: Annotated[float, Field(gt=0, le=1)] | None = None  # of all pairs; below it the run stops

    @model_validator(mode="after")
    def _chunks_are_tars(self) -> "DownloadSpec":
        if self.chunk_rows == 1:
            raise ValueError("chunk_rows = 1: img2dataset cannot number the images of such shards; take 2 or more")
        return self

    def chunk_spec(self, patch: int | None) -> ChunkSpec:
        """The spec of a chunk of patch round ``patch`` (None: the first round)."""
        return ChunkSpec(**{name: getattr(self, name) for name in FetchImagesSpec.model_fields}, round=patch)


class ChunkingSpec(Spec):
    """How a list of URLs is split into chunks."""

    chunk_rows: ChunkRows
