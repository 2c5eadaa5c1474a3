"""Measures become rows of the SCORES table; so do features made elsewhere (``.npy`` files), and submissions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zscir.benchmarks.bench import Benchmark
from zscir.benchmarks.checksums import official_checksums, require_official
from zscir.benchmarks.intervals import interval, mean_measure, resampled
from zscir.benchmarks.load import load_benchmark
from zscir.benchmarks.measures import Measure
from zscir.benchmarks.submission import write_submission
from zscir.errors import RequestError

CIRR_MEAN = "mean(R@5,Rsub@1)"


@dataclass(frozen=True)
class Scored:
    """One number with everything that makes it comparable. ``low`` and ``high`` bound its 95 % bootstrap interval."""

    benchmark: str
    split: str
    protocol: str
    method: str
    backbone: str
    metric: str
    value: float
    n: int
    hits: int | None
    low: float
    high: float

    def row(self) -> dict[str, Any]:
        """The columns of the SCORES table."""
        return {name: value for name, value in asdict(self).items() if name not in ("hits", "low", "high")}


@dataclass(frozen=True)
class Label:
    """Who scored and how: what stands in a row beside the number."""

    protocol: str
    method: str = ""
    backbone: str = ""
    seed: int = 0


def protocol_label(*parts: str) -> str:
    """``ranking protocol/text protocol/preprocessing``, as the table's header shows it."""
    return "/".join(part for part in parts if part)


def scored(bench: Benchmark, measures: Sequence[Measure], label: Label) -> list[Scored]:
    """The rows of one benchmark; for CIRR also the mean of R@5 and Rsub@1."""
    by_name = {one.metric: one for one in measures}
    extra = [mean_measure(CIRR_MEAN, [by_name["R@5"], by_name["Rsub@1"]])] if "Rsub@1" in by_name else []
    return [_scored(bench.label, bench.split, one, label) for one in [*measures, *extra]]


def macro_mean(parts: Sequence[tuple[Benchmark, Sequence[Measure]]], label: Label) -> list[Scored]:
    """The unweighted mean over FashionIQ's categories or GeneCIS's tasks, as the literature prints it; n is the sum."""
    first = parts[0][0]
    rows = []
    for alike in zip(*(measures for _, measures in parts), strict=True):
        names = [f"{bench.label}:{one.metric}" for (bench, _), one in zip(parts, alike, strict=True)]
        draws = [resampled(one, label.seed, name) for one, name in zip(alike, names, strict=True)]
        low, high = interval(np.mean(draws, axis=0))
        hits = [one.hits for one in alike]
        total = None if None in hits else sum(hit for hit in hits if hit is not None)
        who = (f"{first.name}/mean", first.split, label.protocol, label.method, label.backbone)
        value = float(np.mean([one.percent for one in alike]))
        rows.append(Scored(*who, alike[0].metric, value, sum(one.n for one in alike), total, low, high))
    return rows


def _scored(benchmark: str, split: str, one: Measure, label: Label) -> Scored:
    low, high = interval(resampled(one, label.seed, f"{benchmark}:{one.metric}"))
    who = (benchmark, split, label.protocol, label.method, label.backbone)
    return Scored(*who, one.metric, one.percent, one.n, one.hits, low, high)


def score_files(
    name: str,
    root: Path | str,
    split: str,
    queries_npy: Path,
    gallery_npy: Path,
    *,
    category: str | None = None,
    task: str | None = None,
    protocol: str | None = None,
    gallery_ids: Path | None = None,
    text_protocol: str = "",
    method: str = "",
    backbone: str = "",
    submission_out: Path | None = None,
    facts: Path | None = None,
    seed: int = 0,
) -> list[Scored]:
    """Rows for query features [Q, D] and gallery features [G, D] (GeneCIS [Q, 1+G, D]) in ``.npy`` files.

    Both are normalised here. ``gallery_ids`` is a file of CIRCO image ids (JSON list, or one per line) in the order of
    the gallery features. ``submission_out`` is a folder for the server's files; without answers they are all there is.
    ``facts`` (data_specs/benchmarks/NAME.toml) refuses annotation files that are not the official ones.
    RequestError says which file, row or id does not fit.
    """
    if facts is not None:
        require_official(Path(root), official_checksums(facts), f"{facts} says where")
    ids = read_ids(gallery_ids) if gallery_ids else None
    bench = load_benchmark(name, root, split, category=category, task=task, gallery_ids=ids, protocol=protocol)
    if submission_out is None and not bench.answered:
        raise RequestError(f"{bench.where}: only a server has the answers; name a folder for the submission files")
    query, gallery = load_features(queries_npy), load_features(gallery_npy)
    if submission_out is not None:
        write_submission(submission_out, bench.submission_features(query, gallery))
    if not bench.answered:
        return []
    label = Label(protocol_label(bench.protocol, text_protocol), method, backbone, seed)
    return scored(bench, bench.measure_features(query, gallery), label)


def load_features(path: Path) -> NDArray[Any]:
    """A ``.npy`` array, mapped rather than read; pickled objects are refused."""
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
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
        raise RequestError(f"{path}: cannot read the gallery ids ({error})") from None
    if not content.lstrip().startswith("["):
        return [line.strip() for line in content.splitlines() if line.strip()]
    try:
        return [str(item) for item in json.loads(content)]
    except json.JSONDecodeError as error:
        raise RequestError(f"{path}: not a JSON list ({error})") from None
