from zscir.benchmarks import BENCHMARKS
from zscir.methods.registry import METHODS


def test_every_benchmark_can_be_written_in_the_text_protocol_of_every_method() -> None:
    lacking = [
        f"{method.text_protocol} of {name} for {benchmark.name}"
        for name, method in METHODS.items()
        for benchmark in BENCHMARKS.values()
        if method.text_protocol not in benchmark.text_makers
    ]
    assert lacking == []
