"""Load FashionIQ, CIRR, CIRCO and GeneCIS, and compute the metrics that papers print from scores (NumPy only)."""

from zscir.benchmarks.benchmark import Benchmark
from zscir.benchmarks.info import BenchmarkInfo
from zscir.benchmarks.load import load_benchmark, load_part
from zscir.benchmarks.metrics import MetricValues, percent32
from zscir.benchmarks.query import Query
from zscir.benchmarks.registry import BENCHMARKS, benchmark_info
from zscir.benchmarks.submission import write_submission

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "BenchmarkInfo",
    "MetricValues",
    "Query",
    "benchmark_info",
    "load_benchmark",
    "load_part",
    "percent32",
    "write_submission",
]
