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

from zscir.data.images.decode import BadImage, decode_small
from zscir.data.images.keep_list import Reject, Row, first_rows, rows_in_play
from zscir.data.images.phash import CELLS, SIDE_PX, Hashes, Prints, Rows, hashes_of, look
from zscir.data.images.shards import ShardReader
from zscir.runtime.progress import track
from zscir.store.artifacts import Artifact, finished

MAX_PIXELS = 50_000_000
PART_PICTURES = 5_000
Read = Callable[[], bytes]  # raises BadImage when there is no picture to be had
_SMALL_PX = 2 * SIDE_PX  # from here a JPEG's own scaling leaves enough to average over


@dataclass(frozen=True)
class Fingerprints:
    """What [N] pictures look like. ``mirrored``: the hashes of their mirror images. ``bad``: by row, why a picture
    cannot be decoded (``reason: detail``); its print means nothing.
    """

    prints: Prints
    mirrored: Hashes
    bad: dict[int, str]

    def good(self) -> Rows:
        """The rows that could be decoded."""
        return np.setdiff1d(np.arange(len(self.prints)), list(self.bad)).astype(np.int64)

    def turned(self) -> Prints:
        """The prints of the mirror images."""
        cells = self.prints.colours.reshape(-1, CELLS, CELLS, 3)[:, :, ::-1]
        return Prints(self.mirrored, cells.reshape(self.prints.colours.shape))

    def reject(self, row: int) -> Reject | None:
        """Why a picture has no fingerprint, if it has none."""
        reason, _, detail = self.bad.get(row, "").partition(": ")
        return Reject(reason, detail) if reason else None


def of_download(stage: str, images: Artifact, keep: Artifact | None, folder: Path) -> tuple[list[str], Fingerprints]:
    """The keys of the images that ``keep`` holds, in order, and what they look like.

    About 300 bytes of memory per image. Raises BadShard when a shard is not what its table says.
    """

    def rows() -> Iterator[Row]:
        return first_rows(rows_in_play(stage, images, keep, ("shard", "offset", "size")))

    keys = [row["image_key"] for row in rows()]
    with ShardReader(images.path) as reader:
        reads = (partial(reader.read, row["shard"], row["offset"], row["size"]) for row in rows())
        return keys, fingerprints(reads, len(keys), folder, stage)


def fingerprints(pictures: Iterable[Read], total: int | None, folder: Path, label: str) -> Fingerprints:
    """The fingerprints of ``pictures`` in their order. Parts are saved in ``folder``, and a part that is there is not
    made again: the pictures must be the same ones in every attempt.
    """
    parts = -(-total // PART_PICTURES) if total is not None else None
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = _parts(pictures, folder, pool)
        found = [_made([], pool), *track(made, parts, f"{label} (parts of {PART_PICTURES:,} pictures)")]
    bad: dict[int, str] = {}
    before = 0
    for one in found:
        bad |= {before + row: why for row, why in one.bad.items()}
        before += len(one.prints)
    hashes, colours = (np.concatenate([getattr(one.prints, name) for one in found]) for name in ("hashes", "colours"))
    return Fingerprints(Prints(hashes, colours), np.concatenate([one.mirrored for one in found]), bad)


def _parts(pictures: Iterable[Read], folder: Path, pool: Executor) -> Iterator[Fingerprints]:
    waiting, number = iter(pictures), 0
    while part := list(islice(waiting, PART_PICTURES)):
        path = folder / f"{number:05d}.npz"
        if not path.exists():
            with finished(path) as unfinished:
                _save(unfinished, _made(part, pool))
        yield _load(path)
        number += 1


def _made(part: list[Read], pool: Executor) -> Fingerprints:
    looks = list(pool.map(_look, part))
    luminance = np.array([one[0] for one in looks], dtype=np.uint8).reshape(-1, SIDE_PX, SIDE_PX)
    colours = np.array([one[1] for one in looks], dtype=np.uint8).reshape(-1, CELLS * CELLS * 3)
    bad = {row: one[2] for row, one in enumerate(looks) if one[2]}
    return Fingerprints(Prints(hashes_of(luminance), colours), hashes_of(luminance[:, :, ::-1]), bad)


def _look(read: Read) -> tuple[NDArray[np.uint8], NDArray[np.uint8], str]:
    try:
        return (*look(decode_small(read(), _SMALL_PX, MAX_PIXELS)), "")
    except BadImage as error:
        nothing = np.zeros((SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
        return nothing[:, :, 0], nothing[:CELLS, :CELLS].reshape(-1), f"{error.reason}: {error}"


def _save(path: Path, one: Fingerprints) -> None:
    with path.open("wb") as stream:
        np.savez(
            stream, hashes=one.prints.hashes, colours=one.prints.colours, mirrored=one.mirrored,
            rows=np.array(list(one.bad), dtype=np.int64), why=np.array(list(one.bad.values()), dtype=np.str_),
        )  # fmt: skip


def _load(path: Path) -> Fingerprints:
    with np.load(path, allow_pickle=False) as saved:
        bad = dict(zip(saved["rows"].tolist(), saved["why"].tolist(), strict=True))
        return Fingerprints(Prints(saved["hashes"], saved["colours"]), saved["mirrored"], bad)
