"""Features made elsewhere (``.npy`` files) become scores and submission files; what is missing is refused, or told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zscir.benchmarks.benchmark import Benchmark, GalleryBenchmark
from zscir.benchmarks.checksums import (
    OfficialRelease,
    check_official_counts,
    official_gallery,
    official_release,
    refuse_mixed_files,
    require_official,
)
from zscir.benchmarks.files import check_distinct_ids, shortened
from zscir.benchmarks.load import load_benchmark, resolve_protocol
from zscir.benchmarks.missing_images import MAX_LISTED_IMAGES, missing_images_problem, protocol_without_images
from zscir.benchmarks.ranking import Scorer
from zscir.benchmarks.registry import benchmark_info
from zscir.benchmarks.score_rows import MetricScore, ScoreLabel, metric_scores, protocol_label
from zscir.benchmarks.similarity import score_blocks
from zscir.benchmarks.submission import write_submission
from zscir.runtime.errors import RequestError

Array = NDArray[Any]


@dataclass(frozen=True)
class ScoreRequest:
    """Which benchmark; ``official`` refuses a folder without the official annotation files."""

    name: str
    root: Path
    split: str = "val"
    category: str | None = None
    task: str | None = None
    protocol: str | None = None
    official: bool = False


@dataclass(frozen=True)
class FeatureFiles:
    """Query features [Q, D] and gallery features [G, D] (GeneCIS [Q, 1+G, D] or [regions, D]), normalised here.

    Without ids, rows are in official order. ``gallery_ids`` and ``query_ids`` are files (a JSON list, or one id per
    line) that name the rows; rows that the protocol does not rank are left out. ``allow_missing``: so many gallery
    images may have no row.
    """

    queries: Path
    gallery: Path
    query_ids: Path | None = None
    gallery_ids: Path | None = None
    allow_missing: int = 0


@dataclass(frozen=True)
class FeatureScores:
    """The numbers (none where only a server has the answers), how many gallery images have no row, and which."""

    rows: list[MetricScore]
    missing: int = 0
    missing_ids: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _AlignedFeatures:
    """A benchmark and features that fit each other row by row; what is missing is taken out and counted."""

    bench: Benchmark
    queries: Array
    gallery: Array
    missing: int
    missing_ids: list[str]


def score_files(
    asked: ScoreRequest,
    files: FeatureFiles,
    texts: str = "",
    method: str = "",
    submission_out: Path | None = None,
    scorer: Scorer = score_blocks,
) -> FeatureScores:
    """Score features on a benchmark; RequestError says which file, row or id does not fit.

    ``texts`` names the text protocol in the rows. ``submission_out`` is a folder for the server's files; without
    answers they are all there is.
    """
    protocol = resolve_protocol(asked.name, asked.split, asked.protocol)
    facts = official_release(asked.name)
    if asked.official:
        require_official(asked.root, facts)
    files_read = benchmark_info(asked.name).annotation_files(asked.split, asked.category or asked.task or "")
    known = refuse_mixed_files(asked.root, facts, files_read)
    bench = load_benchmark(
        asked.name, asked.root, asked.split, category=asked.category, task=asked.task, protocol=protocol
    )
    if submission_out is None and not bench.answered:
        raise RequestError(f"{bench.where}: only a server has the answers; name a folder for the submission files")
    whole = _align_features(bench, facts if known else None, asked, files)
    given = (whole.queries, whole.gallery, scorer)
    if submission_out is not None:
        if whole.missing:
            raise RequestError(f"{whole.bench.where}: a submission names every query and image; leave --submission out")
        write_submission(submission_out, whole.bench.submission_features(*given))
    if not bench.answered:
        return FeatureScores([])
    label = ScoreLabel(protocol_label(whole.bench.protocol, texts), method)
    return FeatureScores(
        metric_scores(whole.bench, whole.bench.measure_features(*given), label), whole.missing, whole.missing_ids
    )


def _align_features(
    bench: Benchmark, known: OfficialRelease | None, asked: ScoreRequest, files: FeatureFiles
) -> _AlignedFeatures:
    """The benchmark and the features of ``files`` in one order; RequestError when more is missing than is allowed.

    ``known``: the facts of a benchmark whose annotation files are the official ones.
    """
    ids = None if files.gallery_ids is None else read_ids(files.gallery_ids)
    unnamed, gallery_id = 0, bench.info.gallery_id
    if ids is not None and gallery_id is not None:
        ids = [gallery_id(image_id) for image_id in ids]
        if isinstance(bench, GalleryBenchmark) and not bench.gallery_is_known:
            bench, unnamed = _over_given_gallery(bench, asked, ids, official_gallery(bench, known) or 0 if known else 0)
    if known is not None:
        check_official_counts(bench, known, unnamed)
    query, gallery = load_features(files.queries), load_features(files.gallery)
    rows = None if ids is None else _numbered(ids, gallery, files.gallery_ids)
    absent = {} if rows is None else {one: "no row" for one in bench.gallery if one not in rows}
    missing = len(absent) + unnamed
    problem = missing_images_problem(
        bench.where,
        absent,
        len(bench.gallery) + unnamed,
        files.allow_missing,
        official_release(asked.name).get_images,
        unnamed,
    )
    if problem:
        raise RequestError(problem)
    if missing:
        bench.refuse_gaps()
    left = bench.without(absent) if absent else bench
    left.protocol = protocol_without_images(left.protocol, missing)
    if rows is not None and ids != left.gallery:
        gallery = gallery[[rows[one] for one in left.gallery]]
    return _AlignedFeatures(left, _asked_rows(bench, left, query, files.query_ids), gallery, missing, list(absent))


def _over_given_gallery(
    bench: GalleryBenchmark, asked: ScoreRequest, ids: Sequence[str], official: int
) -> tuple[Benchmark, int]:
    """CIRCO over the images of ``ids``, where COCO's own list is not at hand, and how many nobody can name are missing.

    Those that its queries name stand at the end, so that they can be named as missing.
    """
    asked_for = {one for query in bench.queries for one in (query.reference, *query.targets)}
    named = sorted(asked_for - set(ids), key=lambda image_id: (len(image_id), image_id))  # integers by their size
    whole = load_benchmark(asked.name, asked.root, asked.split, gallery_ids=[*ids, *named], protocol=asked.protocol)
    return whole, max(0, official - len(ids) - len(named))


def _asked_rows(whole: Benchmark, left: Benchmark, query: Array, ids_file: Path | None) -> Array:
    """The query features of the queries that are ``left``, in their order; RequestError names those without a row."""
    if ids_file is None and len(query) != len(whole.queries):
        expected = f"({len(whole.queries)}, D)"
        raise RequestError(f"{whole.where}: query features have shape {query.shape}, expected {expected}")
    ids = [one.query_id for one in whole.queries] if ids_file is None else read_ids(ids_file)
    rows = _numbered(ids, query, ids_file)
    wanted = [one.query_id for one in left.queries]
    lost = [one for one in wanted if one not in rows]
    if lost:
        raise RequestError(
            f"{left.where}: {len(lost)} of {len(wanted)} queries have no row in {ids_file}: "
            f"{shortened(lost, MAX_LISTED_IMAGES)}. Make their features; only gallery images, and "
            "queries that show or ask for them, may be missing"
        )
    return query if wanted == ids else query[[rows[one] for one in wanted]]


def _numbered(ids: Sequence[str], features: Array, ids_file: Path | None) -> dict[str, int]:
    """Id -> row of the features."""
    if features.ndim != 2 or len(ids) != len(features):
        raise RequestError(f"{ids_file}: names {len(ids)} rows; the features have shape {features.shape}, expected 2-D")
    return {one: row for row, one in enumerate(check_distinct_ids(ids, str(ids_file)))}


def load_features(path: Path) -> Array:
    """A ``.npy`` array, mapped rather than read; pickled objects are refused."""
    try:
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise RequestError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError) as error:
        raise RequestError(f"{path}: not a .npy file of numbers ({error}); write it with numpy.save") from None
    if not isinstance(array, np.ndarray):
        raise RequestError(f"{path}: an .npz archive; give one .npy file")
    return array


def read_ids(path: Path) -> list[str]:
    """Ids from a JSON list or a text file with one per line."""
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: cannot read the ids ({error})") from None
    if not content.lstrip().startswith("["):
        return [line.strip() for line in content.splitlines() if line.strip()]
    try:
        return [str(item) for item in json.loads(content)]
    except json.JSONDecodeError as error:
        raise RequestError(f"{path}: not a JSON list ({error})") from None
