"""A benchmark's name and the folder of its annotation files become a benchmark."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from zscir.benchmarks import circo, cirr, fashioniq, genecis
from zscir.benchmarks.benchmark import Benchmark
from zscir.runtime.errors import RequestError

BENCHMARK_SPLITS = {
    "fashioniq": fashioniq.FASHIONIQ_SPLITS,
    "cirr": cirr.CIRR_SPLITS,
    "circo": circo.CIRCO_SPLITS,
    "genecis": genecis.GENECIS_SPLITS,
}
RANKING_PROTOCOLS = {
    "fashioniq": fashioniq.FASHIONIQ_PROTOCOLS,
    "cirr": cirr.CIRR_PROTOCOLS,
    "circo": circo.CIRCO_PROTOCOLS,
    "genecis": genecis.GENECIS_PROTOCOLS,
}
BENCHMARK_PARTS = {"fashioniq": fashioniq.CATEGORIES, "cirr": ("",), "circo": ("",), "genecis": genecis.TASKS}


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
    """The benchmark ``name`` (fashioniq, cirr, circo, genecis) from the annotation files below ``root``.

    ``category`` is FashionIQ's, ``task`` GeneCIS's; ``gallery_ids`` gives CIRCO's gallery and its order where COCO's
    image list is not at hand; ``protocol`` None is the literature's. RequestError says what is wrong and what may be.
    """
    protocol = resolve_protocol(name, split, protocol)
    _refuse_foreign_arguments(name, {"category": category, "task": task, "gallery_ids": gallery_ids})
    if name == "fashioniq":
        return fashioniq.load_fashioniq(root, split, category, protocol)
    if name == "cirr":
        return cirr.load_cirr(root, split, protocol)
    if name == "circo":
        return circo.load_circo(root, split, gallery_ids, protocol)
    return genecis.load_genecis(root, task)


def load_part(name: str, root: Path | str, split: str, part: str, protocol: str | None) -> Benchmark:
    """As ``load_benchmark``, with the category or task as one argument (empty for CIRR and CIRCO)."""
    named: dict[str, str] = {}
    if name in ("fashioniq", "genecis"):
        named["category" if name == "fashioniq" else "task"] = part
    return load_benchmark(name, root, split, protocol=protocol, **named)


def annotation_files(name: str, split: str, part: str) -> list[str]:
    """The annotation files that a benchmark is read from, as its authors' repository names them."""
    return {
        "fashioniq": [f"captions/cap.{part}.{split}.json", f"image_splits/split.{part}.{split}.json"],
        "cirr": [f"captions/cap.rc2.{split}.json", f"image_splits/split.rc2.{split}.json"],
        "circo": [f"annotations/{split}.json"],
        "genecis": [f"{part}.json"],
    }[name]


def resolve_protocol(name: str, split: str, protocol: str | None) -> str:
    """The ranking protocol, the literature's when None is asked; RequestError says what there is."""
    if name not in RANKING_PROTOCOLS:
        raise RequestError(f"no benchmark '{name}'; there are {', '.join(RANKING_PROTOCOLS)}")
    if split not in BENCHMARK_SPLITS[name]:
        raise RequestError(f"{name} has no split '{split}'; it has {', '.join(BENCHMARK_SPLITS[name])}")
    if protocol is not None and protocol not in RANKING_PROTOCOLS[name]:
        raise RequestError(f"{name} has no protocol '{protocol}'; it has {', '.join(RANKING_PROTOCOLS[name])}")
    return protocol or RANKING_PROTOCOLS[name][0]


def _refuse_foreign_arguments(name: str, given: dict[str, Any]) -> None:
    own = {"fashioniq": "category", "genecis": "task", "circo": "gallery_ids"}.get(name)
    for argument, value in given.items():
        if value is not None and argument != own:
            raise RequestError(
                f"{name} takes no {argument}; it takes {own or 'neither category, task nor gallery_ids'}"
            )
