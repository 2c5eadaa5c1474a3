"""embed: images and their captions become unit vectors of a two-tower backbone."""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from pydantic import Field

from zscir.data.images.keep_list import ImageRow, first_row_per_image, kept_image_rows
from zscir.pipeline.stage import stage
from zscir.runtime.progress import track
from zscir.runtime.schemas import REJECTS_SCHEMA, read_table, schema_of, write_table
from zscir.runtime.specs import Spec
from zscir.store.artifacts import Artifact, Facts, atomic_path

KEYS_SCHEMA = schema_of(image_key="str")
# All four there: an earlier attempt has joined its shards, and they may go.
EMBED_FILES = ("image.npy", "text.npy", "rejects.parquet", "keys.parquet")
BATCHES_AHEAD = 2  # decoded while one is encoded


class EmbedSpec(Spec):
    """``shard_rows``: how many pairs are embedded between two saves; a killed run loses at most one such shard."""

    batch_size: Annotated[int, Field(ge=1)] = 256
    shard_rows: Annotated[int, Field(ge=1)] = 10_000


@stage(version=1)
def embed(spec: EmbedSpec, images: Artifact, backbone: Artifact, out: Path, keep: Artifact | None = None) -> Facts:
    """Write ``keys.parquet``, ``image.npy`` and ``text.npy`` ([N, D] float32, unit rows, one per image, in the order of
    the pairs) and ``rejects.parquet`` (images that cannot be decoded). ``backbone`` is a clip or pli checkpoint. With
    ``keep``, the keep-list of a filter, only the images in it are embedded.
    """
    if not all((out / name).exists() for name in EMBED_FILES):
        rows = list(first_row_per_image(kept_image_rows("embed", images, keep, ("text", "shard", "offset", "size"))))
        firsts = range(0, len(rows), spec.shard_rows)
        # ``.npz`` per shard in the work folder, which the next attempt at this key finds again.
        paths = [out / f"vectors-{number:05d}.npz" for number in range(len(firsts))]
        encoder = _Encoder(spec, images, backbone)
        for path, first in track(zip(paths, firsts, strict=True), len(paths), "embed"):
            if not path.exists():
                encoder.save(path, rows[first : first + spec.shard_rows])
        _join(out, paths, rows, encoder.width)
    for path in out.glob("vectors-*.npz"):
        path.unlink()
    rows_kept, width = np.load(out / "image.npy", mmap_mode="r", allow_pickle=False).shape
    return {"rows": rows_kept, "rejects": len(read_table(out / "rejects.parquet", REJECTS_SCHEMA)), "width": width}


class _Encoder:
    """A backbone and a reader of image shards."""

    def __init__(self, spec: EmbedSpec, images: Artifact, backbone: Artifact) -> None:
        from zscir.data.images.shards import ShardReader
        from zscir.methods.checkpoint import default_device, load_towers

        self.batch_size, self.reader = spec.batch_size, ShardReader(images.path)
        self.device = default_device()
        self.towers = load_towers(backbone).to(self.device)
        self.width = int(self.towers.embed_dim)

    def save(self, path: Path, rows: list[ImageRow]) -> None:
        """Write ``image`` and ``text`` [rows, D] and ``bad`` [rows], the reason where an image could not be decoded."""
        parts = [self._encode(batch, pixels) for batch, pixels in self._decoded(rows)]
        image, text, bad = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        with atomic_path(path) as part, part.open("wb") as stream:
            np.savez(stream, image=image, text=text, bad=bad)

    def _decoded(self, rows: list[ImageRow]) -> Iterator[tuple[list[ImageRow], list[NDArray[np.uint8] | str]]]:
        """Batches of rows with their pixels or the reason why there are none; a few are decoded ahead, in order."""
        waiting: deque[tuple[list[ImageRow], list[Future[NDArray[np.uint8] | str]]]] = deque()
        # Threads suffice: the JPEG decoder and the resizing release the interpreter lock.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for first in range(0, len(rows), self.batch_size):
                batch = rows[first : first + self.batch_size]
                waiting.append((batch, [pool.submit(self._pixels, row) for row in batch]))
                if len(waiting) > BATCHES_AHEAD:
                    done, futures = waiting.popleft()
                    yield done, [future.result() for future in futures]
            for done, futures in waiting:
                yield done, [future.result() for future in futures]

    def _pixels(self, row: ImageRow) -> NDArray[np.uint8] | str:
        from zscir.data.images.decode import BadImage, decode_image
        from zscir.methods.image_squares import MAX_DECODED_PIXELS, resize_to_square

        try:
            image = decode_image(self.reader.read(row["shard"], row["offset"], row["size"]), MAX_DECODED_PIXELS)
        except BadImage as error:
            return f"{error.reason}: {error}"
        return resize_to_square(image, self.towers.pixels)

    def _encode(self, rows: list[ImageRow], pixels: list[NDArray[np.uint8] | str]) -> tuple[NDArray[Any], ...]:
        """Unit vectors of the images and captions of one batch; a bad image is encoded as black and marked."""
        import torch
        from torch.nn.functional import normalize

        from zscir.methods.oom_retry import in_halves

        side = self.towers.pixels.size_px
        # Rows keep their places, so that image, text and reason stay aligned until _join leaves the bad ones out.
        black = np.zeros((side, side, 3), dtype=np.uint8)
        stacked = np.stack([black if isinstance(image, str) else image for image in pixels]).transpose(0, 3, 1, 2)
        with torch.inference_mode():
            images = torch.from_numpy(np.ascontiguousarray(stacked)).to(self.device)
            image = normalize(in_halves(self.towers.encode_image, images).float(), dim=1)
            text = normalize(in_halves(self.towers.encode_texts, [row["text"] for row in rows]).float(), dim=1)
        # A string type, not object: an object array would have to be pickled, and is refused when it is loaded.
        bad = np.array([problem if isinstance(problem, str) else "" for problem in pixels], dtype=np.str_)
        return image.cpu().numpy(), text.cpu().numpy(), bad


def _join(out: Path, paths: list[Path], rows: list[ImageRow], width: int) -> None:
    """Write the final files from all shards, one shard in memory at a time."""
    bad = [str(reason) for path in paths for reason in _of_shard(path, "bad")]
    good = [row["image_key"] for row, reason in zip(rows, bad, strict=True) if not reason]
    # Mapped: 10^7 images of 512 numbers are 20 GB for each of the two files.
    for name in ("image", "text"):
        with atomic_path(out / f"{name}.npy") as part:
            vectors = open_memmap(part, mode="w+", dtype=np.float32, shape=(len(good), width))
            at = 0
            for path in paths:
                kept = _of_shard(path, name)[_of_shard(path, "bad") == ""]
                vectors[at : at + len(kept)] = kept
                at += len(kept)
            vectors.flush()
    rejects = [
        {"stage": "embed", "id": row["image_key"], "reason": reason.partition(":")[0], "detail": reason}
        for row, reason in zip(rows, bad, strict=True)
        if reason
    ]
    with atomic_path(out / "rejects.parquet") as part:
        write_table(part, REJECTS_SCHEMA, rejects)
    with atomic_path(out / "keys.parquet") as part:
        write_table(part, KEYS_SCHEMA, [{"image_key": key} for key in good])


def _of_shard(path: Path, name: str) -> NDArray[Any]:
    with np.load(path, allow_pickle=False) as shard:
        array: NDArray[Any] = shard[name]
    return array
