"""decontaminate: downloaded images become those that do not look like any picture of a benchmark, mirrored or not.

Every picture in a benchmark's folder counts, whatever its split, whether it is a query or in a gallery: a method may be
scored on it. ``zscir.data.images.phash`` says what looks alike, ``dedup_near`` how well that works.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from zscir.data.images.decode import IMAGE_SUFFIXES, BadImage
from zscir.data.images.fingerprints import (
    FINGERPRINTS_FOLDER,
    Fingerprints,
    ReadImageBytes,
    fingerprint_download,
    fingerprint_images,
)
from zscir.data.images.keep_list import FilterReject, ImageRow, write_keep_list
from zscir.data.images.phash import ANY_COLOUR_DISTANCE, PerceptualHashes, RowNumbers, near_duplicate_pairs
from zscir.data.images.shards import MAX_MEMBER_BYTES, ShardReader, index_shard
from zscir.pipeline.stage import stage
from zscir.runtime.errors import RequestError, StageError
from zscir.runtime.specs import Spec
from zscir.store.artifacts import Artifact, Facts

UNREADABLE_SHOWN = 10
NO_MATCH_DISTANCE = 65  # further than any two hashes
NO_MATCH = (NO_MATCH_DISTANCE, -1)


class DecontaminateSpec(Spec):
    """``radius``: in how many of 64 bits the perceptual hashes of one picture may differ. ``colours``: by how much of
    255 the mean colours of its 4 x 4 cells may (255: any). Both are wider than those of ``dedup_near``: a
    training image too few costs less than a benchmark picture that was seen, be it in other colours. Where pictures are
    plain (drawings, goods on white) they take many that are none: narrow them. ``allow_unreadable``: how many benchmark
    pictures may be beyond decoding; nothing is kept away from those.
    """

    radius: Annotated[int, Field(ge=0, le=12)] = 8
    colours: Annotated[int, Field(ge=0, le=255)] = ANY_COLOUR_DISTANCE
    allow_unreadable: Annotated[int, Field(ge=0)] = 0


@stage(version=1)
def decontaminate(
    spec: DecontaminateSpec, images: Artifact, benchmarks: list[Artifact], out: Path, keep: Artifact | None = None
) -> Facts:
    """Write ``keep.parquet`` and ``rejects.parquet``: near_benchmark and near_benchmark_mirrored (the detail names the
    picture and the distance), and the images that cannot be decoded.

    ``benchmarks``: folders with pictures, loose or in tars. RequestError when one holds none; StageError when more
    pictures cannot be decoded than allowed.
    """
    names, known = _benchmark_fingerprints(spec, benchmarks, out)
    keys, downloaded = fingerprint_download("decontaminate", images, keep, out / FINGERPRINTS_FOLDER / "images")
    nearest = _nearest(downloaded.hashes, known, spec)
    # Web copies are often mirrored, and a mirrored picture has quite another hash.
    nearest_mirrored = _nearest(downloaded.mirrored_hashes(), known, spec)

    def find_reject(row: ImageRow) -> FilterReject | None:
        here = row["number"]
        if here in downloaded.unreadable:
            return downloaded.reject(here)
        # Distance, then picture; where one picture is as near mirrored, the upright match is named.
        distance, picture, reason = min(
            (*nearest.get(here, NO_MATCH), "near_benchmark"),
            (*nearest_mirrored.get(here, NO_MATCH), "near_benchmark_mirrored"),
        )
        return FilterReject(reason, f"distance {distance} from {names[picture]}") if picture >= 0 else None

    rows = ({"image_key": key, "number": number} for number, key in enumerate(keys))
    facts = write_keep_list("decontaminate", rows, find_reject, out)
    return facts | {"benchmark_pictures": len(names), "benchmark_unreadable": len(known.unreadable)}


def _benchmark_fingerprints(
    spec: DecontaminateSpec, benchmarks: list[Artifact], out: Path
) -> tuple[list[str], Fingerprints]:
    """The names of all benchmark pictures, and their fingerprints."""
    # The readers stay open until the fingerprints, which read lazily, are all taken.
    with ExitStack() as stack:
        found: list[tuple[str, ReadImageBytes]] = []
        for number, benchmark in enumerate(benchmarks):
            inside = list(_benchmark_images(benchmark, stack.enter_context(ShardReader(benchmark.path))))
            if not inside:
                raise RequestError(
                    f"decontaminate: no picture ({', '.join(IMAGE_SUFFIXES)}, loose or in a .tar) in the "
                    f"benchmarks {benchmark.stage}/{benchmark.key[:12]}, which holds {benchmark.files()[:5]}"
                )
            where = f"benchmarks.{number}/" if len(benchmarks) > 1 else ""
            found += [(where + name, read) for name, read in inside]
        names = [name for name, _ in found]
        known = fingerprint_images(
            (read for _, read in found),
            len(found),
            out / FINGERPRINTS_FOLDER / "benchmarks",
            "decontaminate: benchmarks",
        )
    # An error, not a warning: a benchmark picture without a fingerprint lets every copy of it through.
    if len(known.unreadable) > spec.allow_unreadable:
        listed = ", ".join(f"{names[row]} ({why})" for row, why in list(known.unreadable.items())[:UNREADABLE_SHOWN])
        raise StageError(
            f"decontaminate: {len(known.unreadable)} of {len(names)} benchmark pictures cannot be decoded, so nothing "
            f"can be kept away from them; {spec.allow_unreadable} may be (allow_unreadable): {listed}"
        )
    return names, known


def _benchmark_images(benchmark: Artifact, reader: ShardReader) -> Iterator[tuple[str, ReadImageBytes]]:
    """Name and reader of every picture of a folder, in the order of the names."""
    # Also in tars: the tabletop benchmarks, and those that somebody packed, have no loose pictures.
    for name in benchmark.files():
        if name.endswith(".tar"):
            for span in index_shard(benchmark.path(name)):
                if span.name.lower().endswith(IMAGE_SUFFIXES):
                    yield f"{name}/{span.name}", partial(reader.read, name, span.offset, span.size)
        elif name.lower().endswith(IMAGE_SUFFIXES):
            yield name, partial(_read_file, benchmark, name)


def _read_file(benchmark: Artifact, name: str) -> bytes:
    path = benchmark.path(name)
    if path.stat().st_size > MAX_MEMBER_BYTES:
        raise BadImage("too_many_bytes", f"{path.stat().st_size} bytes; allowed are {MAX_MEMBER_BYTES}")
    return path.read_bytes()


def _nearest(hashes: PerceptualHashes, known: Fingerprints, spec: DecontaminateSpec) -> dict[int, tuple[int, int]]:
    """By row: distance and number of the nearest benchmark picture that looks alike; of equally near ones the first."""
    readable_rows = known.readable_rows()
    # Distance and picture in one number, so that the minimum takes the nearest, then the first.
    none = NO_MATCH_DISTANCE * len(known.hashes)
    best: RowNumbers = np.full(len(hashes), none, dtype=np.int64)
    for rows, others in near_duplicate_pairs(hashes, known.hashes.select(readable_rows), spec.radius, spec.colours):
        pictures = readable_rows[others]
        distance = np.bitwise_count(hashes.bits[rows] ^ known.hashes.bits[pictures]).astype(np.int64)
        np.minimum.at(best, rows, distance * len(known.hashes) + pictures)
    return {
        int(row): (int(best[row]) // len(known.hashes), int(best[row]) % len(known.hashes))
        for row in np.flatnonzero(best < none)
    }
