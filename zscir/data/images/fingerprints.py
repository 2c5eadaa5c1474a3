"""Fingerprints: pictures, wherever their bytes lie, become perceptual hashes, part by part: a killed run goes on."""

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
    """What [N] pictures look like. ``mirrored``: the hashes of their mirror images. ``bad``: by row, why a picture
    cannot be decoded (``reason: detail``); its print means nothing.
    """

    prints: PerceptualHashes
    mirrored: HashArray
    bad: dict[int, str]

    def good(self) -> RowNumbers:
        """The rows that could be decoded."""
        return np.setdiff1d(np.arange(len(self.prints)), list(self.bad)).astype(np.int64)

    def turned(self) -> PerceptualHashes:
        """The prints of the mirror images."""
        cells = self.prints.colours.reshape(-1, CELLS_PER_SIDE, CELLS_PER_SIDE, 3)[:, :, ::-1]
        return PerceptualHashes(self.mirrored, cells.reshape(self.prints.colours.shape))

    def reject(self, row: int) -> FilterReject | None:
        """Why a picture has no fingerprint, if it has none."""
        reason, _, detail = self.bad.get(row, "").partition(": ")
        return FilterReject(reason, detail) if reason else None


def fingerprint_download(
    stage: str, images: Artifact, keep: Artifact | None, folder: Path
) -> tuple[list[str], Fingerprints]:
    """The keys of the images that ``keep`` holds, in order, and what they look like.

    About 300 bytes of memory per image. Raises BadShard when a shard is not what its table says.
    """

    def rows() -> Iterator[ImageRow]:
        return first_row_per_image(kept_image_rows(stage, images, keep, ("shard", "offset", "size")))

    keys = [row["image_key"] for row in rows()]
    with ShardReader(images.path) as reader:
        reads = (partial(reader.read, row["shard"], row["offset"], row["size"]) for row in rows())
        return keys, fingerprint_images(reads, len(keys), folder, stage)


def fingerprint_images(pictures: Iterable[ReadImageBytes], total: int | None, folder: Path, label: str) -> Fingerprints:
    """The fingerprints of ``pictures`` in their order. Parts are saved in ``folder``, and a part that is there is not
    made again: the pictures must be the same ones in every attempt.
    """
    parts = -(-total // PART_IMAGES) if total is not None else None
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = _parts(pictures, folder, pool)
        found = [_fingerprint_part([], pool), *track(made, parts, f"{label} (parts of {PART_IMAGES:,} pictures)")]
    bad: dict[int, str] = {}
    before = 0
    for one in found:
        bad |= {before + row: why for row, why in one.bad.items()}
        before += len(one.prints)
    hashes, colours = (np.concatenate([getattr(one.prints, name) for one in found]) for name in ("hashes", "colours"))
    return Fingerprints(PerceptualHashes(hashes, colours), np.concatenate([one.mirrored for one in found]), bad)


def _parts(pictures: Iterable[ReadImageBytes], folder: Path, pool: Executor) -> Iterator[Fingerprints]:
    waiting, number = iter(pictures), 0
    while part := list(islice(waiting, PART_IMAGES)):
        path = folder / f"{number:05d}.npz"
        if not path.exists():
            with atomic_path(path) as unfinished:
                _save(unfinished, _fingerprint_part(part, pool))
        yield _load(path)
        number += 1


def _fingerprint_part(part: list[ReadImageBytes], pool: Executor) -> Fingerprints:
    looks = list(pool.map(_fingerprint_one, part))
    luminance = np.array([one[0] for one in looks], dtype=np.uint8).reshape(-1, HASH_SIDE_PX, HASH_SIDE_PX)
    colours = np.array([one[1] for one in looks], dtype=np.uint8).reshape(-1, CELLS_PER_SIDE * CELLS_PER_SIDE * 3)
    bad = {row: one[2] for row, one in enumerate(looks) if one[2]}
    return Fingerprints(PerceptualHashes(dct_hashes(luminance), colours), dct_hashes(luminance[:, :, ::-1]), bad)


def _fingerprint_one(read: ReadImageBytes) -> tuple[NDArray[np.uint8], NDArray[np.uint8], str]:
    try:
        return (*luminance_and_colours(decode_reduced(read(), _SMALL_PX, MAX_FINGERPRINT_PIXELS)), "")
    except BadImage as error:
        nothing = np.zeros((HASH_SIDE_PX, HASH_SIDE_PX, 3), dtype=np.uint8)
        return nothing[:, :, 0], nothing[:CELLS_PER_SIDE, :CELLS_PER_SIDE].reshape(-1), f"{error.reason}: {error}"


def _save(path: Path, one: Fingerprints) -> None:
    with path.open("wb") as stream:
        np.savez(
            stream,
            hashes=one.prints.hashes,
            colours=one.prints.colours,
            mirrored=one.mirrored,
            rows=np.array(list(one.bad), dtype=np.int64),
            why=np.array(list(one.bad.values()), dtype=np.str_),
        )


def _load(path: Path) -> Fingerprints:
    with np.load(path, allow_pickle=False) as saved:
        bad = dict(zip(saved["rows"].tolist(), saved["why"].tolist(), strict=True))
        return Fingerprints(PerceptualHashes(saved["hashes"], saved["colours"]), saved["mirrored"], bad)
