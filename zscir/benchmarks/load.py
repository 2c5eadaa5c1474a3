"""Load a benchmark by name from the folder of its annotation files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from zscir.benchmarks.benchmark import Benchmark
from zscir.benchmarks.info import BenchmarkInfo, LoadRequest
from zscir.benchmarks.registry import benchmark_info
from zscir.runtime.errors import RequestError


def load_benchmark(
    name: str,
    root: Path | str,
    split: str = "val",
    *,
    category: str | None = None,
    task: str | None = None,
    gallery_ids: Iterable[Any] | None = None,
    protocol: str | None = None,
) -> Benchmark:
    """The benchmark ``name`` of the registry from the annotation files below ``root``.

    ``category`` is FashionIQ's, ``task`` GeneCIS's; ``gallery_ids`` gives CIRCO's gallery and its order where COCO's
    image list is not at hand; ``protocol`` None is the literature's. RequestError says what is wrong and what may be.
    """
    protocol = resolve_protocol(name, split, protocol)
    info = benchmark_info(name)
    _refuse_foreign_arguments(info, {"category": category, "task": task, "gallery_ids": gallery_ids})
    part = category if category is not None else task
    bench: Benchmark = info.loader(LoadRequest(root, split, part, protocol, gallery_ids))
    if getattr(bench, "info", None) is not info:
        raise RequestError(f"{name}: its loader gives a {type(bench).__name__}, whose 'info' is another record or none")
    return bench


def load_part(name: str, root: Path | str, split: str, part: str, protocol: str | None) -> Benchmark:
    """As ``load_benchmark``, with the category or task as one argument (empty where a benchmark has no parts)."""
    argument = benchmark_info(name).part_argument
    named: dict[str, Any] = {} if argument is None else {argument: part}
    return load_benchmark(name, root, split, protocol=protocol, **named)


def resolve_protocol(name: str, split: str, protocol: str | None) -> str:
    """The ranking protocol, the literature's when None is asked; RequestError says what there is."""
    info = benchmark_info(name)
    problem = info.request_problem(split, protocol)
    if problem:
        raise RequestError(problem)
    return protocol or info.protocols[0]


def _refuse_foreign_arguments(info: BenchmarkInfo, given: dict[str, Any]) -> None:
    own = info.part_argument or ("gallery_ids" if info.gallery_id is not None else None)
    for argument, value in given.items():
        if value is not None and argument != own:
            raise RequestError(
                f"{info.name} takes no {argument}; it takes {own or 'neither category, task nor gallery_ids'}"
            )
