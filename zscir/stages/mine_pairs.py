"""mine_pairs: embedded image-text pairs become candidate pairs, alike but no copies.

Route B of triplet synthesis: for each image the union of its nearest neighbours by image and by caption within a window
of similarities. The search is exact, in blocks of bounded memory, and kept shard by shard until it is done.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field, model_validator

from zscir.pipeline.stage import stage
from zscir.runtime.errors import RequestError
from zscir.runtime.progress import track
from zscir.runtime.schemas import (
    CANDIDATES_SCHEMA,
    IMAGES_SCHEMA,
    REJECTS_SCHEMA,
    checked_table,
    read_rows,
    read_table,
    table_writer,
    write_table,
)
from zscir.runtime.specs import Spec
from zscir.store.artifacts import Artifact, Facts, atomic_path

_Floats = NDArray[np.float32]
Quantile = Annotated[float, Field(ge=0, le=1)]
# A window is measured on so many random pairs, and on the nearest neighbours of so many rows.
SAMPLE_PAIRS, SAMPLE_ROWS = 100_000, 2_000
MINED_FILES = ("rejects.parquet", "candidates.parquet")
BLOCK_ROWS, BLOCK_COLUMNS = 1_024, 16_384  # of the cosines in memory at a time: 64 MiB
SHARD_ROWS = 16_384  # rows whose neighbours are saved together: what a killed run loses at most


class SimilarityWindow(Spec):
    """Which similarities are of use: ``low`` <= cosine < ``high``. Where they are not given they are measured, because
    they depend on the encoder: ``low`` as a quantile of random pairs, ``high`` as a quantile of nearest neighbours.
    """

    # MegaPairs takes 0.8 to 0.96 with EVA-CLIP; on another encoder that window may hold nothing, or everything.
    low: float | None = None
    high: float | None = None
    low_quantile: Quantile = 0.8
    high_quantile: Quantile = 0.99

    @model_validator(mode="after")
    def _not_empty(self) -> "SimilarityWindow":
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"low = {self.low} must be below high = {self.high}")
        return self


class MineSpec(Spec):
    """``neighbours``: how many by image and by caption. ``uses_per_image``: as reference and as target together."""

    image: SimilarityWindow = SimilarityWindow()
    text: SimilarityWindow = SimilarityWindow()
    neighbours: Annotated[int, Field(ge=1, le=1000)] = 20
    targets_per_reference: Annotated[int, Field(ge=1)] = 3
    # Bounded because a few images are near to very many: without it they would be the targets of half the set.
    uses_per_image: Annotated[int, Field(ge=1)] = 5
    max_pairs: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True)
class _Space:
    """Unit vectors [N, D] and the measured window of their cosines."""

    vectors: _Floats
    low: float
    high: float

    def closeness(self, cosine: _Floats) -> _Floats:
        """Where a cosine lies in the window, 0 to 1."""
        closeness: _Floats = np.clip((cosine - self.low) / max(self.high - self.low, 1e-9), 0, 1)
        return closeness


@stage(version=1)
def mine_pairs(spec: MineSpec, images: Artifact, embed: Artifact, out: Path) -> Facts:
    """Write ``candidates.parquet`` (by reference, best target first) and ``rejects.parquet`` (per image and reason)."""
    keys, captions = _embedded(images, embed)
    spaces = [
        _measure_space(np.load(embed.path(name), mmap_mode="r", allow_pickle=False), window, spec.seed, len(keys))
        # Both: in MegaPairs (table 5) images and captions together beat either alone on CIRCO, CIRR and FashionIQ.
        for name, window in (("image.npy", spec.image), ("text.npy", spec.text))
    ]
    if not all((out / name).exists() for name in MINED_FILES):
        reasons: dict[str, Counter[int]] = {}
        options = _options(spec, spaces, captions, out, reasons)
        _write(out, _assign_pairs(spec, options, keys, reasons), keys, captions, reasons)
    for path in out.glob("neighbours-*.npy"):
        path.unlink()
    counts: Counter[str] = Counter()
    for row in read_rows(out / "rejects.parquet", REJECTS_SCHEMA):
        counts[row["reason"]] += int(row["detail"].split()[0])
    return {
        "rows": pq.read_metadata(out / "candidates.parquet").num_rows,
        "images": len(keys),
        "windows": {
            name: [round(space.low, 6), round(space.high, 6)]
            for name, space in zip(("image", "text"), spaces, strict=True)
        },
        "rejects": counts.total(),
        "rejects_by_reason": dict(sorted(counts.items())),
    }


def _embedded(images: Artifact, embed: Artifact) -> tuple[list[str], list[str]]:
    """Image keys in the order of the vectors, and their captions."""
    table = read_table(images.path("images.parquet"), IMAGES_SCHEMA)
    caption: dict[str, str] = {}
    for key, text in zip(table.column("image_key").to_pylist(), table.column("text").to_pylist(), strict=True):
        caption.setdefault(key, text)
    keys = pq.read_table(embed.path("keys.parquet"), columns=["image_key"]).column(0).to_pylist()
    unknown = [key for key in keys if key not in caption]
    if unknown:
        raise RequestError(f"mine_pairs: {len(unknown)} embedded images are not in 'images', such as {unknown[0]}")
    return keys, [caption[key] for key in keys]


def _measure_space(vectors: _Floats, window: SimilarityWindow, seed: int, rows: int) -> _Space:
    """The space of ``vectors`` with its window; what the spec leaves open is measured on a seeded sample."""
    if vectors.ndim != 2 or len(vectors) != rows:
        raise RequestError(f"mine_pairs: vectors of shape {vectors.shape} do not fit {rows} keys")
    rng = np.random.default_rng(seed)
    low, high = window.low, window.high
    if rows < 2:
        return _Space(vectors, low or -1.0, high or 1.0)
    if low is None:
        first = rng.integers(rows, size=min(SAMPLE_PAIRS, rows * rows))
        # Shifted by 1 to rows - 1: a random pair that is never an image with itself.
        second = (first + rng.integers(1, rows, size=len(first))) % rows
        blocks = [_cosines(vectors, first[i : i + 4096], second[i : i + 4096]) for i in range(0, len(first), 4096)]
        low = float(np.quantile(np.concatenate(blocks), window.low_quantile))
    if high is None:
        # Sorted: the vectors are mapped from disk, and rising rows read it in one direction.
        sample = np.sort(rng.choice(rows, size=min(SAMPLE_ROWS, rows), replace=False))
        blocks = [
            nearest_in_window(vectors, sample[i : i + BLOCK_ROWS], 1, -2, 2)[1]
            for i in range(0, len(sample), BLOCK_ROWS)
        ]
        high = float(np.quantile(np.concatenate(blocks), window.high_quantile))
    return _Space(vectors, low, high)


def _cosines(vectors: _Floats, first: NDArray[Any], second: NDArray[Any]) -> _Floats:
    cosines: _Floats = np.einsum("nd,nd->n", vectors[first], vectors[second])
    return cosines


def nearest_in_window(
    vectors: _Floats, rows: NDArray[Any], count: int, low: float, high: float
) -> tuple[NDArray[np.int32], _Floats]:
    """([B, k] rows or -1, [B, k] cosines): the ``count`` nearest with ``low`` <= cosine < ``high``, best first."""
    ids = np.full((len(rows), count), -1, dtype=np.int32)
    best = np.full((len(rows), count), -np.inf, dtype=np.float32)
    query = np.asarray(vectors[rows])
    for first in range(0, len(vectors), BLOCK_COLUMNS):
        block = query @ np.asarray(vectors[first : first + BLOCK_COLUMNS]).T
        columns = np.arange(first, first + block.shape[1], dtype=np.int32)
        block[block >= high] = -np.inf  # before the best are taken: near copies would crowd out all others
        itself = np.flatnonzero((rows >= first) & (rows < first + len(columns)))
        block[itself, rows[itself] - first] = -np.inf
        keep = min(count, block.shape[1])
        found = np.argpartition(block, block.shape[1] - keep, axis=1)[:, -keep:]
        ids = np.concatenate([ids, columns[found]], axis=1)
        best = np.concatenate([best, np.take_along_axis(block, found, axis=1)], axis=1)
        # Ties go to the lower row number, so that the result does not depend on the sizes of blocks.
        order = np.lexsort((ids, -best), axis=1)[:, :count]
        ids, best = np.take_along_axis(ids, order, axis=1), np.take_along_axis(best, order, axis=1)
    outside = best < low
    ids[outside], best[outside] = -1, -np.inf
    return ids, best


def _neighbours(spec: MineSpec, spaces: list[_Space], first: int, last: int, path: Path) -> NDArray[np.int32]:
    """[rows, 2k] neighbours by image, then by caption, of rows ``first`` to ``last``; from ``path`` if it is there."""
    if not path.exists():
        blocks = []
        for start in range(first, last, BLOCK_ROWS):
            rows = np.arange(start, min(start + BLOCK_ROWS, last))
            found = [
                nearest_in_window(space.vectors, rows, spec.neighbours, space.low, space.high)[0] for space in spaces
            ]
            blocks.append(np.concatenate(found, axis=1))
        with atomic_path(path) as part, part.open("wb") as stream:
            np.save(stream, np.concatenate(blocks), allow_pickle=False)
    loaded: NDArray[np.int32] = np.load(path, allow_pickle=False)
    return loaded


@dataclass(frozen=True)
class _TargetOption:
    target: int
    image: float
    text: float


def _options(
    spec: MineSpec, spaces: list[_Space], captions: list[str], out: Path, reasons: dict[str, Counter[int]]
) -> list[list[_TargetOption]]:
    """For each image its possible targets, the closest (by image and caption together) first."""
    normalised_captions = [" ".join(caption.lower().split()) for caption in captions]
    starts = range(0, len(captions), SHARD_ROWS)
    options: list[list[_TargetOption]] = []
    for first in track(starts, len(starts), "mine pairs"):
        last = min(first + SHARD_ROWS, len(captions))
        found = _neighbours(spec, spaces, first, last, out / f"neighbours-{first // SHARD_ROWS:05d}.npy")
        for reference, row in zip(range(first, last), found, strict=True):
            targets = np.unique(row[row >= 0])
            options.append(list(_target_options(reference, targets, spaces, normalised_captions, reasons)))
    return options


def _target_options(
    reference: int,
    targets: NDArray[np.int32],
    spaces: list[_Space],
    normalised_captions: list[str],
    reasons: dict[str, Counter[int]],
) -> Iterator[_TargetOption]:
    """``targets`` that are no copies of ``reference``, closest first; ties by row number."""
    image, text = (space.vectors[targets] @ space.vectors[reference] for space in spaces)
    # Places in the windows, not cosines: those of images and of captions lie in different ranges.
    closeness = spaces[0].closeness(image) + spaces[1].closeness(text)
    for place in np.lexsort((targets, -closeness)):
        target = int(targets[place])
        if normalised_captions[target] == normalised_captions[reference]:
            _count(reasons, "same_caption", reference)
        # Again, for both spaces: a neighbour by caption may be a near copy by image.
        elif image[place] >= spaces[0].high:
            _count(reasons, "near_duplicate", reference)
        elif text[place] >= spaces[1].high:
            _count(reasons, "near_same_caption", reference)
        else:
            yield _TargetOption(target, float(image[place]), float(text[place]))


def _count(reasons: dict[str, Counter[int]], reason: str, row: int) -> None:
    reasons.setdefault(reason, Counter())[row] += 1


def _assign_pairs(
    spec: MineSpec, options: list[list[_TargetOption]], keys: list[str], reasons: dict[str, Counter[int]]
) -> list[tuple[int, _TargetOption]]:
    """Pairs within the limits: in each round every image, in a drawn order, takes its best free target."""
    # An order by hash: an image that is added moves no other in it, as a seeded shuffle would.
    order = sorted(range(len(keys)), key=lambda row: sha256(f"{spec.seed}\n{keys[row]}".encode()).digest())
    uses: Counter[int] = Counter()
    chosen: list[tuple[int, _TargetOption]] = []
    waiting = [list(reversed(targets)) for targets in options]
    # In rounds, so that the images that come first in the order do not take all targets of those behind.
    for _ in range(spec.targets_per_reference):
        for row in order:
            while waiting[row] and uses[row] < spec.uses_per_image and len(chosen) < (spec.max_pairs or len(keys) ** 2):
                option = waiting[row].pop()
                if uses[option.target] < spec.uses_per_image:
                    uses.update((row, option.target))
                    chosen.append((row, option))
                    break
                _count(reasons, "target_used_up", row)
    for row, left in enumerate(waiting):
        if left:
            reasons.setdefault("over_limit", Counter())[row] += len(left)
        if not options[row]:
            _count(reasons, "no_neighbour", row)
    return sorted(chosen, key=lambda pair: (pair[0], -pair[1].image - pair[1].text, pair[1].target))


def _write(
    out: Path,
    chosen: list[tuple[int, _TargetOption]],
    keys: list[str],
    captions: list[str],
    reasons: dict[str, Counter[int]],
) -> None:
    with atomic_path(out / "candidates.parquet") as part, table_writer(part, CANDIDATES_SCHEMA) as writer:
        for first in range(0, len(chosen), SHARD_ROWS):
            rows = [_candidate(row, option, keys, captions) for row, option in chosen[first : first + SHARD_ROWS]]
            writer.write_table(checked_table(rows, CANDIDATES_SCHEMA))
    rejects = [
        {"stage": "mine_pairs", "id": keys[row], "reason": reason, "detail": f"{count} pairs"}
        for reason, counts in sorted(reasons.items())
        for row, count in sorted(counts.items())
    ]
    with atomic_path(out / "rejects.parquet") as part:
        write_table(part, REJECTS_SCHEMA, rejects)


def _candidate(row: int, option: _TargetOption, keys: list[str], captions: list[str]) -> dict[str, Any]:
    reference, target = keys[row], keys[option.target]
    return {
        "candidate_id": sha256(f"{reference}\n{target}".encode()).hexdigest()[:32],
        "reference_key": reference,
        "target_key": target,
        "reference_caption": captions[row],
        "target_caption": captions[option.target],
        # The last digits of a float32 product differ between CPUs.
        "image_similarity": round(option.image, 6),
        "text_similarity": round(option.text, 6),
    }
