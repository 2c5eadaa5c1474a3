"""Load the annotation files of an evaluation, and check all that can be checked before an image is embedded."""

from pathlib import Path, PurePosixPath

import numpy as np

from zscir.benchmarks import Benchmark, benchmark_info, load_part
from zscir.benchmarks.checksums import check_official_counts, official_release, refuse_mixed_files, require_official
from zscir.evaluation.specs import BenchmarkEntry
from zscir.runtime.errors import RequestError
from zscir.store.artifacts import Artifact


def annotations_root(benchmarks: Artifact, name: str) -> Path:
    """A local folder that holds all annotation files of one benchmark; RequestError when there are none."""
    files = [file for file in benchmarks.files(".json") if file.startswith(f"{name}/")]
    if not files:
        raise RequestError(f"the benchmarks hold no {name}: no file {name}/**.json among {benchmarks.files()[:5]}")
    # All of them: an artifact on S3 is fetched file by file, and loaders look for files beside each other.
    paths = [benchmarks.path(file) for file in files]
    return paths[0].parents[len(PurePosixPath(files[0]).parts) - 2]


def load_benchmark_parts(benchmarks: Artifact, entry: BenchmarkEntry) -> list[Benchmark]:
    """The categories or tasks that an entry asks for.

    RequestError when annotation files are official ones only in part, are not the official ones that ``sha256`` asks
    for, or give an official gallery of another size; and when the benchmark does not do what its record promises.
    """
    info = benchmark_info(entry.name)
    root, facts = annotations_root(benchmarks, entry.name), official_release(entry.name)
    if entry.sha256 is not None:
        require_official(root, facts, entry.sha256)
    loaded = []
    for part in entry.parts or info.parts:
        known = refuse_mixed_files(root, facts, info.annotation_files(entry.split, part))
        loaded.append(load_part(entry.name, root, entry.split, part, entry.protocol))
        # The tabletop world has files of the same names and other counts.
        if known:
            check_official_counts(loaded[-1], facts)
    # One part is enough: all parts of a benchmark are ranked by the same code.
    check_promised_metrics(loaded[0])
    return loaded


def check_promised_metrics(bench: Benchmark) -> None:
    """RequestError that names the metrics of the benchmark's record which its ranking does not give.

    Made-up features are ranked: on the real annotations that takes a second, and embedding takes minutes to hours.
    Other protocols than the literature's may print other metrics (CIRR's ``soft``: softR@K).
    """
    info = bench.info
    if not bench.has_answers or bench.protocol != info.protocols[0]:
        return
    queries = np.ones((len(bench.queries), 2), dtype=np.float32)
    gallery = np.ones((len(bench.gallery), 2), dtype=np.float32)
    gallery[:, 1] += np.arange(len(gallery))  # no two rows alike: equal rows would be searched for
    computed = {metric.name for metric in bench.metric_values_from_features(queries, gallery)}
    promised = [*info.literature_metrics, *(part for parts in info.derived_metrics.values() for part in parts)]
    promised += [] if info.aspect_metric is None else [info.aspect_metric]
    lacking = [metric for metric in dict.fromkeys(promised) if metric not in computed]
    if lacking:
        raise RequestError(
            f"{bench.where}: its record in zscir/benchmarks names the metrics {', '.join(lacking)}, which its ranking "
            f"does not give; it gives {', '.join(sorted(computed))}"
        )
