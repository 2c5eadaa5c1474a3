"""dedup_exact: of downloaded images with the same bytes, the first in order stays.

The bytes are the stored ones. Equal originals are among them: one download gives equal originals equal JPEGs.
"""

from hashlib import sha256
from pathlib import Path

from zscir.data.images.keep_list import FilterReject, ImageRow, first_row_per_image, kept_image_rows, write_keep_list
from zscir.data.images.shards import ShardReader
from zscir.pipeline.stage import stage
from zscir.runtime.specs import Spec
from zscir.store.artifacts import Artifact, Facts

CONTENT_COLUMNS = ("sha256", "shard", "offset", "size")


class DedupExactSpec(Spec):
    """Nothing to set: bytes are equal or they are not."""


@stage(version=1)
def dedup_exact(spec: DedupExactSpec, images: Artifact, out: Path, keep: Artifact | None = None) -> Facts:
    """Write ``keep.parquet`` and ``rejects.parquet`` (same_bytes; the detail names the image that stays).

    About 300 bytes of memory per image.
    """
    first: dict[bytes, str] = {}
    with ShardReader(images.path) as reader:

        def find_reject(row: ImageRow) -> FilterReject | None:
            recorded = row["sha256"]  # a download says it; other makers of images need not
            location = (row["shard"], row["offset"], row["size"])
            digest = bytes.fromhex(recorded) if recorded is not None else sha256(reader.read(*location)).digest()
            kept = first.setdefault(digest, row["image_key"])
            return FilterReject("same_bytes", f"as image {kept}") if kept != row["image_key"] else None

        rows = first_row_per_image(kept_image_rows("dedup_exact", images, keep, CONTENT_COLUMNS))
        return write_keep_list("dedup_exact", rows, find_reject, out)
