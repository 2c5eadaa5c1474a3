"""mask_triplets: every image-text pair becomes (masked image, text, image).

No pixel is written: a row carries the seed and the ratio, and the loader draws the mask.
"""

from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet as pq
from pydantic import Field

from zscir.data.images.keep_list import KeepList
from zscir.pipeline.stage import stage
from zscir.runtime.progress import track
from zscir.runtime.schemas import IMAGES_SCHEMA, TRIPLETS_SCHEMA, checked_table, table_batches, table_writer
from zscir.runtime.specs import Spec
from zscir.store.artifacts import Artifact, Facts, atomic_path

MASK_BATCH_ROWS = 20_000


class MaskSpec(Spec):
    """How masks are drawn: from (``seed``, epoch, image key), hiding the share ``ratio`` of the patches."""

    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.75  # PLI's for CLIP; 0.5 for BLIP
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


@stage(version=1)
def mask_triplets(spec: MaskSpec, images: Artifact, out: Path, keep: Artifact | None = None) -> Facts:
    """Write ``triplets.parquet``: one row per pair whose image was downloaded, in the order of the pairs.

    With ``keep``, the keep-list of a filter, only of the images in it.
    """
    keep_list = KeepList(keep)
    path = images.path("images.parquet")
    batches, length = table_batches(path, IMAGES_SCHEMA, MASK_BATCH_ROWS), pq.read_metadata(path).num_rows
    total = downloaded = written = 0
    with atomic_path(out / "triplets.parquet") as part, table_writer(part, TRIPLETS_SCHEMA) as writer:
        for batch in track(batches, -(-length // MASK_BATCH_ROWS), "mask triplets"):
            pairs = batch.to_pylist()
            # Per pair, not per image: each caption of an image is a triplet of its own.
            with_image = [pair for pair in pairs if pair["status"] == "ok"]
            rows = [_triplet(spec, pair) for pair in with_image if keep_list.contains(pair["image_key"])]
            writer.write_table(checked_table(rows, TRIPLETS_SCHEMA))
            total, downloaded, written = total + len(pairs), downloaded + len(with_image), written + len(rows)
        keep_list.check_all_seen("mask_triplets")
    filtered = {"left_out_by_filters": downloaded - written} if keep is not None else {}
    return {"rows": written, "pairs": total, "without_image": total - downloaded, **filtered}


def _triplet(spec: MaskSpec, pair: dict[str, Any]) -> dict[str, Any]:
    # !r: the shortest text that reads back as the same float, on every platform.
    identity = f"masked\n{pair['pair_id']}\n{spec.ratio!r}\n{spec.seed}"
    return {
        "triplet_id": sha256(identity.encode()).hexdigest()[:32],
        "source": "masked",
        "reference_key": pair["image_key"],
        "target_key": pair["image_key"],
        "text": pair["text"],
        "mask_seed": spec.seed,
        "mask_ratio": spec.ratio,
        "reference_caption": pair["text"],
        "target_caption": pair["text"],
    }
