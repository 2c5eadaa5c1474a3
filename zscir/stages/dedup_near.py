"""dedup_near: of downloaded images that look alike, the first in order stays.

``zscir.data.images.phash`` measures likeness. Of copies of 300 crops of 18 photographs a radius of 4 (of 8) finds: as a
JPEG of quality 40 98 % (100), of half the size 98 (99), 20 % brighter 96 (100), with 2 % cut from each border 38 (84),
with 5 % 1 (13); 30 % darker 42 (43), or 99 (100) where colours do not matter. Of 550,800 pairs of crops of different
photographs none were within 8 bits. Drawings are another matter: of 6,000 tabletop scenes, which are a few things on
plain grounds, 140 (655) go.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from zscir.data.images.fingerprints import FINGERPRINTS_FOLDER, fingerprint_download
from zscir.data.images.keep_list import FilterReject, ImageRow, write_keep_list
from zscir.data.images.phash import near_duplicate_of
from zscir.pipeline.stage import stage
from zscir.runtime.specs import Spec
from zscir.store.artifacts import Artifact, Facts


class DedupNearSpec(Spec):
    """When two images are one: their perceptual hashes differ in at most ``radius`` of 64 bits, and the mean colours of
    4 x 4 cells by at most ``colours`` of 255 in each channel (255: colours do not matter).
    """

    # Narrower than that of ``decontaminate``: here a false match costs a good image and gains little.
    radius: Annotated[int, Field(ge=0, le=12)] = 4
    colours: Annotated[int, Field(ge=0, le=255)] = 48


@stage(version=1)
def dedup_near(spec: DedupNearSpec, images: Artifact, out: Path, keep: Artifact | None = None) -> Facts:
    """Write ``keep.parquet`` and ``rejects.parquet``: near_duplicate (the detail names the image that stays), and the
    images that cannot be decoded. An image is compared with those that stay, never with those that do not.
    """
    keys, fingerprints = fingerprint_download("dedup_near", images, keep, out / FINGERPRINTS_FOLDER)
    # Pictures that cannot be decoded own themselves here, and are rejected for that below.
    owner, readable = np.arange(len(keys)), fingerprints.readable_rows()
    owner[readable] = readable[near_duplicate_of(fingerprints.hashes.select(readable), spec.radius, spec.colours)]

    def find_reject(row: ImageRow) -> FilterReject | None:
        row_number, kept_row = row["number"], int(owner[row["number"]])
        if kept_row == row_number:
            return fingerprints.reject(row_number)
        distance = np.bitwise_count(fingerprints.hashes.bits[row_number] ^ fingerprints.hashes.bits[kept_row])
        return FilterReject("near_duplicate", f"distance {distance} from image {keys[kept_row]}")

    rows = ({"image_key": key, "number": number} for number, key in enumerate(keys))
    return write_keep_list("dedup_near", rows, find_reject, out)
