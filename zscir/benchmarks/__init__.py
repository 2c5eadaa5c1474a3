"""Benchmarks: annotation files and a score matrix become the metrics that the literature prints (NumPy only)."""

from zscir.benchmarks.benchmark import Benchmark
from zscir.benchmarks.load import PARTS, PROTOCOLS, SPLITS, load_benchmark, load_part
from zscir.benchmarks.metrics import Measure, percent32
from zscir.benchmarks.query import Query
from zscir.benchmarks.submission import write_submission

__all__ = [
    "PARTS", "PROTOCOLS", "SPLITS", "Benchmark", "Measure", "Query", "load_benchmark", "load_part", "percent32",
    "write_submission",
]  # fmt: skip
