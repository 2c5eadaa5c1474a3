"""Score features made elsewhere (``.npy`` files), and write submission files; missing rows are refused or counted."""

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

    scores: list[MetricScore]
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
    request: ScoreRequest,
    features: FeatureFiles,
    texts: str = "",
    method: str = "",
    submission_out: Path | None = None,
    scorer: Scorer = score_blocks,
) -> FeatureScores:
    """Score features on a benchmark; RequestError says which file, row or id does not fit.

    ``texts`` names the text protocol in the rows. ``submission_out`` is a folder for the server's files; without
    answers they are all there is.
    """
    protocol = resolve_protocol(request.name, request.split, request.protocol)
    facts = official_release(request.name)
    if request.official:
        require_official(request.root, facts)
    part = request.category or request.task or ""
    files_read = benchmark_info(request.name).annotation_files(request.split, part)
    are_official = refuse_mixed_files(request.root, facts, files_read)
    bench = load_benchmark(
        request.name, request.root, request.split, category=request.category, task=request.task, protocol=protocol
    )
    if submission_out is None and not bench.has_answers:
        raise RequestError(f"{bench.where}: only a server has the answers; name a folder for the submission files")
    aligned = _align_features(bench, facts if are_official else None, request, features)
    arrays = (aligned.queries, aligned.gallery, scorer)
    if submission_out is not None:
        if aligned.missing:
            raise RequestError(
                f"{aligned.bench.where}: a submission names every query and image; leave --submission out"
            )
        write_submission(submission_out, aligned.bench.submission_features(*arrays))
    if not bench.has_answers:
        return FeatureScores([])
    label = ScoreLabel(protocol_label(aligned.bench.protocol, texts), method)
    metrics = aligned.bench.metric_values_from_features(*arrays)
    return FeatureScores(metric_scores(aligned.bench, metrics, label), aligned.missing, aligned.missing_ids)


def _align_features(
    bench: Benchmark, known: OfficialRelease | None, request: ScoreRequest, features: FeatureFiles
) -> _AlignedFeatures:
    """The benchmark and the features in one order; RequestError when more is missing than is allowed.

    ``known``: the facts of a benchmark whose annotation files are the official ones.
    """
    ids = None if features.gallery_ids is None else read_ids(features.gallery_ids)
    unnamed, gallery_id = 0, bench.info.gallery_id
    if ids is not None and gallery_id is not None:
        ids = [gallery_id(image_id) for image_id in ids]
        if isinstance(bench, GalleryBenchmark) and not bench.has_gallery:
            bench, unnamed = _over_given_gallery(
                bench, request, ids, official_gallery(bench, known) or 0 if known else 0
            )
    # Only official annotation files promise the official numbers of queries and images.
    if known is not None:
        check_official_counts(bench, known, unnamed)
    query, gallery = load_features(features.queries), load_features(features.gallery)
    rows = None if ids is None else _row_of_id(ids, gallery, features.gallery_ids)
    absent = {} if rows is None else {image_id: "no row" for image_id in bench.gallery if image_id not in rows}
    missing = len(absent) + unnamed
    problem = missing_images_problem(
        bench.where,
        absent,
        len(bench.gallery) + unnamed,
        features.allow_missing,
        official_release(request.name).how_to_get_images,
        unnamed,
    )
    if problem:
        raise RequestError(problem)
    if missing:
        bench.check_gaps_allowed()  # a server would count the missing images
    left = bench.without_images(absent) if absent else bench
    left.protocol = protocol_without_images(left.protocol, missing)  # counts the unknown ones too
    if rows is not None and ids != left.gallery:
        gallery = gallery[[rows[image_id] for image_id in left.gallery]]
    return _AlignedFeatures(left, _query_rows(bench, left, query, features.query_ids), gallery, missing, list(absent))


def _over_given_gallery(
    bench: GalleryBenchmark, request: ScoreRequest, ids: Sequence[str], official: int
) -> tuple[Benchmark, int]:
    """The benchmark over the images of ``ids``, where its own list (COCO's) is not at hand, and how many are unknown.

    Unknown images are those of the official gallery that neither ``ids`` nor the queries name. Those that only the
    queries name stand at the end, so that they can be reported as missing.
    """
    in_queries = {image_id for query in bench.queries for image_id in (query.reference, *query.targets)}
    named = sorted(in_queries - set(ids), key=lambda image_id: (len(image_id), image_id))  # integers by their size
    gallery_ids = [*ids, *named]
    whole = load_benchmark(
        request.name, request.root, request.split, gallery_ids=gallery_ids, protocol=request.protocol
    )
    return whole, max(0, official - len(ids) - len(named))


def _query_rows(whole: Benchmark, left: Benchmark, query: Array, ids_file: Path | None) -> Array:
    """The query features of the queries that are ``left``, in their order; RequestError names those without a row."""
    if ids_file is None and len(query) != len(whole.queries):
        expected = f"({len(whole.queries)}, D)"
        raise RequestError(f"{whole.where}: query features have shape {query.shape}, expected {expected}")
    ids = [each.query_id for each in whole.queries] if ids_file is None else read_ids(ids_file)
    rows = _row_of_id(ids, query, ids_file)
    wanted = [each.query_id for each in left.queries]
    lost = [query_id for query_id in wanted if query_id not in rows]
    if lost:
        raise RequestError(
            f"{left.where}: {len(lost)} of {len(wanted)} queries have no row in {ids_file}: "
            f"{shortened(lost, MAX_LISTED_IMAGES)}. Make their features; only gallery images, and "
            "queries that show or ask for them, may be missing"
        )
    return query if wanted == ids else query[[rows[query_id] for query_id in wanted]]


def _row_of_id(ids: Sequence[str], features: Array, ids_file: Path | None) -> dict[str, int]:
    """Id -> row of the features."""
    if features.ndim != 2 or len(ids) != len(features):
        raise RequestError(f"{ids_file}: names {len(ids)} rows; the features have shape {features.shape}, expected 2-D")
    return {each: row for row, each in enumerate(check_distinct_ids(ids, str(ids_file)))}


def load_features(path: Path) -> Array:
    """A ``.npy`` array, mapped rather than read; pickled objects are refused."""
    try:
        # Pickles run code when they are loaded, and these files come from elsewhere.
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise RequestError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError) as error:
        raise RequestError(f"{path}: not a .npy file of numbers ({error}); write it with numpy.save") from None
    if not isinstance(array, np.ndarray):  # numpy.load opens an archive under any file name
        raise RequestError(f"{path}: an .npz archive; give one .npy file")
    return array


def read_ids(path: Path) -> list[str]:
    """Ids from a JSON list or a text file with one per line."""
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: cannot read the ids ({error})") from None
    if not content.lstrip().startswith("["):  # no benchmark's ids begin with a bracket
        return [line.strip() for line in content.splitlines() if line.strip()]
    try:
        return [str(item) for item in json.loads(content)]
    except json.JSONDecodeError as error:
        raise RequestError(f"{path}: not a JSON list ({error})") from None
