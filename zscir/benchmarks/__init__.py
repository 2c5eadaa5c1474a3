"""Benchmarks: annotation files and a score matrix become the metrics that the literature prints (NumPy only)."""

from zscir.benchmarks.benchmark import Benchmark
from zscir.benchmarks.load import BENCHMARK_PARTS, BENCHMARK_SPLITS, RANKING_PROTOCOLS, load_benchmark, load_part
from zscir.benchmarks.metrics import MetricValues, percent32
from zscir.benchmarks.query import Query
from zscir.benchmarks.submission import write_submission

__all__ = [
    "BENCHMARK_PARTS",
    "BENCHMARK_SPLITS",
    "RANKING_PROTOCOLS",
    "Benchmark",
    "MetricValues",
    "Query",
    "load_benchmark",
    "load_part",
    "percent32",
    "write_submission",
]
