"""Compute the perceptual hashes of many images in parts that are saved, so that a killed run resumes."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zscir.data.images.decode import BadImage, decode_reduced
from zscir.data.images.keep_list import FilterReject, ImageRow, first_row_per_image, kept_image_rows
from zscir.data.images.phash import (
    CELLS_PER_SIDE,
    HASH_SIDE_PX,
    HashArray,
    PerceptualHashes,
    RowNumbers,
    dct_hashes,
    luminance_and_colours,
)
from zscir.data.images.shards import ShardReader
from zscir.runtime.progress import track
from zscir.store.artifacts import Artifact, atomic_path

MAX_FINGERPRINT_PIXELS = 50_000_000
PART_IMAGES = 5_000
FINGERPRINTS_FOLDER = ".fingerprints"  # of a stage's folder, for the parts; no file of the artifact
ReadImageBytes = Callable[[], bytes]  # raises BadImage when there is no picture to be had
_SMALL_PX = 2 * HASH_SIDE_PX  # from here a JPEG's own scaling leaves enough to average over


@dataclass(frozen=True)
class Fingerprints:
    """The hashes of [N] images. ``mirrored_bits``: those of their mirror images. ``unreadable``: by row, why an image
    cannot be decoded (``reason: detail``); its hash means nothing.
    """

    hashes: PerceptualHashes
    mirrored_bits: HashArray
    unreadable: dict[int, str]

    def readable_rows(self) -> RowNumbers:
        """The rows that could be decoded."""
        return np.setdiff1d(np.arange(len(self.hashes)), list(self.unreadable)).astype(np.int64)

    def mirrored_hashes(self) -> PerceptualHashes:
        """The hashes of the mirror images."""
        cells = self.hashes.colours.reshape(-1, CELLS_PER_SIDE, CELLS_PER_SIDE, 3)[:, :, ::-1]
        return PerceptualHashes(self.mirrored_bits, cells.reshape(self.hashes.colours.shape))

    def reject(self, row: int) -> FilterReject | None:
        """Why a picture has no fingerprint, if it has none."""
        reason, _, detail = self.unreadable.get(row, "").partition(": ")
        return FilterReject(reason, detail) if reason else None


def fingerprint_download(
    stage: str, images: Artifact, keep: Artifact | None, folder: Path
) -> tuple[list[str], Fingerprints]:
    """The keys of the images that ``keep`` holds, in order, and their fingerprints.

    About 300 bytes of memory per image. Raises BadShard when a shard is not what its table says.
    """

    def rows() -> Iterator[ImageRow]:
        return first_row_per_image(kept_image_rows(stage, images, keep, ("shard", "offset", "size")))

    keys = [row["image_key"] for row in rows()]
    with ShardReader(images.path) as reader:
        reads = (partial(reader.read, row["shard"], row["offset"], row["size"]) for row in rows())
        return keys, fingerprint_images(reads, len(keys), folder, stage)


def fingerprint_images(
    image_readers: Iterable[ReadImageBytes], total: int | None, folder: Path, label: str
) -> Fingerprints:
    """The fingerprints of images, in the order of ``image_readers``. Parts are saved in ``folder``, and one that is
    there is not computed again: the images must be the same in every attempt.
    """
    parts = -(-total // PART_IMAGES) if total is not None else None
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        saved = _parts(image_readers, folder, pool)
        found = [_fingerprint_part([], pool), *track(saved, parts, f"{label} (parts of {PART_IMAGES:,} pictures)")]
    unreadable: dict[int, str] = {}
    before = 0
    for part in found:
        unreadable |= {before + row: why for row, why in part.unreadable.items()}
        before += len(part.hashes)
    bits, colours = (np.concatenate([getattr(part.hashes, name) for part in found]) for name in ("bits", "colours"))
    return Fingerprints(
        PerceptualHashes(bits, colours), np.concatenate([part.mirrored_bits for part in found]), unreadable
    )


def _parts(image_readers: Iterable[ReadImageBytes], folder: Path, pool: Executor) -> Iterator[Fingerprints]:
    waiting, number = iter(image_readers), 0
    while part := list(islice(waiting, PART_IMAGES)):
        path = folder / f"{number:05d}.npz"
        if not path.exists():
            with atomic_path(path) as unfinished:
                _save(unfinished, _fingerprint_part(part, pool))
        yield _load(path)
        number += 1


def _fingerprint_part(part: list[ReadImageBytes], pool: Executor) -> Fingerprints:
    results = list(pool.map(_fingerprint_one, part))
    luminance = np.array([result[0] for result in results], dtype=np.uint8).reshape(-1, HASH_SIDE_PX, HASH_SIDE_PX)
    colours = np.array([result[1] for result in results], dtype=np.uint8).reshape(
        -1, CELLS_PER_SIDE * CELLS_PER_SIDE * 3
    )
    unreadable = {row: result[2] for row, result in enumerate(results) if result[2]}
    return Fingerprints(PerceptualHashes(dct_hashes(luminance), colours), dct_hashes(luminance[:, :, ::-1]), unreadable)


def _fingerprint_one(read: ReadImageBytes) -> tuple[NDArray[np.uint8], NDArray[np.uint8], str]:
    try:
        return (*luminance_and_colours(decode_reduced(read(), _SMALL_PX, MAX_FINGERPRINT_PIXELS)), "")
    except BadImage as error:
        black = np.zeros((HASH_SIDE_PX, HASH_SIDE_PX, 3), dtype=np.uint8)
        return black[:, :, 0], black[:CELLS_PER_SIDE, :CELLS_PER_SIDE].reshape(-1), f"{error.reason}: {error}"


def _save(path: Path, part: Fingerprints) -> None:
    with path.open("wb") as stream:
        np.savez(
            stream,
            hashes=part.hashes.bits,
            colours=part.hashes.colours,
            mirrored=part.mirrored_bits,
            rows=np.array(list(part.unreadable), dtype=np.int64),
            why=np.array(list(part.unreadable.values()), dtype=np.str_),
        )


def _load(path: Path) -> Fingerprints:
    with np.load(path, allow_pickle=False) as saved:
        unreadable = dict(zip(saved["rows"].tolist(), saved["why"].tolist(), strict=True))
        return Fingerprints(PerceptualHashes(saved["hashes"], saved["colours"]), saved["mirrored"], unreadable)
