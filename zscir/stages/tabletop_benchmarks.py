"""tabletop_benchmarks: a seed becomes FashionIQ, CIRR, CIRCO and GeneCIS of the tabletop world, in their own formats.

No scene of theirs is in any web list: they are drawn from the held-out part of the world (``zscir.tabletop.scenes``).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from zscir.data.images.shards import write_shard
from zscir.pipeline.stage import stage
from zscir.runtime.schemas import write_table
from zscir.store.artifacts import Facts
from zscir.tabletop.benchmark_content import TabletopBenchmark, image_bytes
from zscir.tabletop.spec import TabletopBenchmarksSpec
from zscir.tabletop.write_circo import build_circo
from zscir.tabletop.write_cirr import build_cirr
from zscir.tabletop.write_fashioniq import build_fashioniq
from zscir.tabletop.write_genecis import build_genecis

IMAGE_INDEX = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("member", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
    ]
)
_BUILDERS = (build_fashioniq, build_cirr, build_circo, build_genecis)


@stage(version=1)
def tabletop_benchmarks(spec: TabletopBenchmarksSpec, out: Path) -> Facts:
    """Write each benchmark's annotations, ``images.tar`` and ``images.parquet``; facts count entries and images."""
    facts: Facts = {}
    for build in _BUILDERS:
        benchmark = build(spec)
        folder = out / benchmark.benchmark
        for name, value in benchmark.annotations.items():
            _write_json(folder / name, value)
            facts[f"{benchmark.benchmark}/{name}"] = len(value)
        facts[f"{benchmark.benchmark}/images"] = _write_images(spec, benchmark, folder)
    return facts


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _write_images(spec: TabletopBenchmarksSpec, benchmark: TabletopBenchmark, folder: Path) -> int:
    # By member name: the tar has the same bytes in whatever order the benchmark was built.
    images = sorted(benchmark.images, key=lambda image: image.member)

    def members() -> Iterator[tuple[str, bytes]]:
        for image in images:
            yield image.member, image_bytes(spec.seed, spec.size_px, benchmark.benchmark, image)

    spans = write_shard(folder / "images.tar", members())
    rows = [
        {"image_id": image.image_id, "member": span.name, "offset": span.offset, "size": span.size}
        for image, span in zip(images, spans, strict=True)
    ]
    return write_table(folder / "images.parquet", IMAGE_INDEX, rows)
