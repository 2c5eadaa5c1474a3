"""A small benchmark spec for tests, the builders of its benchmarks, and readers of what they built and wrote."""

import json
from pathlib import Path
from typing import Any

from zscir.tabletop.benchmark_content import TabletopBenchmark
from zscir.tabletop.scenes import Scene
from zscir.tabletop.spec import TabletopBenchmarksSpec
from zscir.tabletop.write_circo import build_circo
from zscir.tabletop.write_cirr import build_cirr
from zscir.tabletop.write_fashioniq import build_fashioniq
from zscir.tabletop.write_genecis import build_genecis

SPEC = TabletopBenchmarksSpec(
    size_px=48, fashioniq_queries=30, fashioniq_gallery=80, cirr_sets=12, cirr_test_sets=2, circo_queries=30,
    circo_test_queries=5, circo_gallery=300, genecis_queries=12, genecis_vg_images=200,
)  # fmt: skip
BUILDERS = {"fashioniq": build_fashioniq, "cirr": build_cirr, "circo": build_circo, "genecis": build_genecis}
CATEGORIES = ("dress", "shirt", "toptee")
TASKS = ("focus_attribute", "change_attribute", "focus_object", "change_object")


def scenes(benchmark: TabletopBenchmark) -> dict[str, Scene]:
    """Image id -> what it shows."""
    return {image.image_id: image.scene for image in benchmark.images}


def load(path: Path) -> Any:
    """The value in a JSON file."""
    return json.loads(path.read_text())
