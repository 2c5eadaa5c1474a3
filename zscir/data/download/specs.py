"""What is asked of a download: how far, how politely (FetchSpec), to which pixels, in what chunks, with what gate."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from zscir.data.download.fetch_spec import FetchSpec, ResizeSpec
from zscir.runtime.specs import Spec
from zscir.tabletop.spec import TabletopSpec

ChunkRows = Annotated[int, Field(ge=1, le=100_000)]


class FetchImagesSpec(FetchSpec, ResizeSpec):
    """What is fetched, how far, and to which pixels."""

    tabletop: TabletopSpec | None = None  # serve the tabletop world on loopback while downloading

    def engine_options(self) -> dict[str, Any]:
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
    """What is asked of one chunk. The round is in the key: the same URLs asked again later are another chunk."""

    round: Annotated[int, Field(ge=1)] | None = None


class DownloadSpec(FetchImagesSpec):
    """A whole download. Only what a chunk is asked for moves the keys of chunks: the gate and the rounds do not."""

    chunk_rows: ChunkRows = 10_000  # the most URLs of a chunk; a crash costs one chunk per worker
    patch_rounds: Annotated[int, Field(ge=0, le=20)] | None = None  # ask again what failed and may pass, so many times
    min_success_rate: Annotated[float, Field(gt=0, le=1)] | None = None  # of all pairs; below it the run stops

    @model_validator(mode="after")
    def _chunks_are_tars(self) -> "DownloadSpec":
        if self.chunk_rows == 1:
            raise ValueError("chunk_rows = 1: img2dataset cannot number the images of such shards; take 2 or more")
        return self

    def of_chunk(self, patch: int | None) -> ChunkSpec:
        """What one chunk of round ``patch`` (None: the first) is asked for."""
        return ChunkSpec(**{name: getattr(self, name) for name in FetchImagesSpec.model_fields}, round=patch)


class ChunkingSpec(Spec):
    """How a list of URLs is cut into chunks."""

    chunk_rows: ChunkRows
