"""The registry of benchmarks: one line each. Specs, evaluation, tables, report and commands list none themselves.

A new benchmark is one file beside this one and one line below.
"""

from __future__ import annotations

from zscir.benchmarks.circo import CIRCO
from zscir.benchmarks.cirr import CIRR
from zscir.benchmarks.fashioniq import FASHIONIQ
from zscir.benchmarks.genecis import GENECIS
from zscir.benchmarks.info import BenchmarkInfo
from zscir.runtime.errors import RequestError


def benchmarks_by_name(*records: BenchmarkInfo) -> dict[str, BenchmarkInfo]:
    """The records by name; ValueError when two bear one name, as a copied file does at first."""
    by_name = {info.name: info for info in records}
    if len(by_name) < len(records):
        raise ValueError(f"two benchmarks bear one name; registered are {', '.join(info.name for info in records)}")
    return by_name


# The literature's order, which is that of every table.
BENCHMARKS = benchmarks_by_name(FASHIONIQ, CIRR, CIRCO, GENECIS)


def benchmark_info(name: str) -> BenchmarkInfo:
    """The record of a benchmark; RequestError lists those there are."""
    if name not in BENCHMARKS:
        raise RequestError(f"no benchmark '{name}'; there are {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def info_of_label(label: str) -> BenchmarkInfo | None:
    """The record behind a score row's label (``cirr``, ``fashioniq/dress``, ``genecis/mean``).

    None for a benchmark that this version does not know: stored rows may be another version's.
    """
    return BENCHMARKS.get(label.partition("/")[0])


def benchmark_order(label: str) -> int:
    """The place in the literature's order of the benchmark behind a label; unknown ones come last."""
    name = label.partition("/")[0]
    return list(BENCHMARKS).index(name) if name in BENCHMARKS else len(BENCHMARKS)


def is_whole_benchmark(label: str) -> bool:
    """Whether a label stands for all of a known benchmark: ``cirr`` and ``fashioniq/mean``, not ``fashioniq/dress``."""
    info = info_of_label(label)
    return info is not None and info.whole_label == label


def whole_benchmark_order(label: str) -> int:
    """As ``benchmark_order`` for labels of whole benchmarks; categories, tasks and unknown labels come last."""
    return benchmark_order(label) if is_whole_benchmark(label) else len(BENCHMARKS)
