"""embed_benchmarks: a backbone and benchmarks become the vectors of all benchmark images, made once for many methods.

The image-only, text-only and sum controls and every method that keeps the backbone's image tower share this gallery.
"""

import json
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from zscir.benchmarks import benchmark_info
from zscir.evaluation.specs import BenchmarkEntry, BenchmarkName, Preprocessing, pixels_for
from zscir.pipeline.stage import stage
from zscir.runtime.schemas import read_rows
from zscir.runtime.specs import Spec
from zscir.store.artifacts import Artifact, Facts, atomic_path


class EmbedBenchmarksSpec(Spec):
    """Which benchmarks; a ``preprocessing`` other than the backbone's own must be given to ``evaluate`` too.

    ``allow_missing``: so many images of a benchmark may be missing or broken; they get no vector, and an evaluation
    with these vectors must allow as many.
    """

    # Spelled out, not taken from the registry: the default is part of keys, and a fifth benchmark must move none.
    benchmarks: Annotated[tuple[BenchmarkName, ...], Field(min_length=1)] = ("fashioniq", "cirr", "circo", "genecis")
    splits: dict[BenchmarkName, str] | None = None  # benchmark -> split, where it is not val
    preprocessing: Preprocessing | None = None
    allow_missing: dict[BenchmarkName, Annotated[int, Field(ge=1)]] | None = None

    @model_validator(mode="after")
    def _splits_exist(self) -> Self:
        for name in self.benchmarks:
            problem = benchmark_info(name).request_problem(self.split_of(name))
            if problem:
                raise ValueError(problem)
        return self

    def split_of(self, name: str) -> str:
        """The split of a benchmark."""
        return (self.splits or {}).get(name, "val")


@stage(version=1)
def embed_benchmarks(spec: EmbedBenchmarksSpec, backbone: Artifact, benchmarks: Artifact, out: Path) -> Facts:
    """Write ``<benchmark>.npy`` ([N, D] float32, unit rows), ``<benchmark>.parquet`` (their ids) and ``mark.json``; and
    ``<benchmark>.absent.parquet`` when images are missing that may be. StageError lists those that may not.
    """
    from zscir.evaluation.annotations import load_benchmark_parts
    from zscir.evaluation.benchmark_images import BenchmarkImages
    from zscir.evaluation.features import embed_benchmark_images
    from zscir.evaluation.gallery_cache import (
        CACHE_IDENTITY_FILE,
        IMAGE_IDS_SCHEMA,
        cache_identity,
        image_ids_of_parts,
        write_embeddings,
    )
    from zscir.evaluation.query_encoder import control_encoder

    stock = control_encoder(backbone, "image", None, None, None)
    pixels = pixels_for(stock.pixels, spec.preprocessing)
    counts: dict[str, int] = {}
    digests, missing_counts = {}, {}
    entries = [BenchmarkEntry(name=name, split=spec.split_of(name)) for name in spec.benchmarks]
    annotations = [load_benchmark_parts(benchmarks, entry) for entry in entries]  # all, before an image is embedded
    for name, parts in zip(spec.benchmarks, annotations, strict=True):
        images = BenchmarkImages(benchmarks, name, (spec.allow_missing or {}).get(name, 0))
        ids = image_ids_of_parts(parts)
        if not (out / f"{name}.npy").exists():  # else an earlier attempt, which was killed, has made it
            embeddings = embed_benchmark_images(stock.model.gallery, images, ids, pixels)
            write_embeddings(out, name, embeddings, images.absent)
        digests[name], counts[name] = images.digest, len(read_rows(out / f"{name}.parquet", IMAGE_IDS_SCHEMA))
        if counts[name] < len(ids):
            missing_counts[f"{name} missing"] = len(ids) - counts[name]
    with atomic_path(out / CACHE_IDENTITY_FILE) as path:
        identity = cache_identity(stock.weights, pixels) | {"images": digests}
        path.write_text(json.dumps(identity, sort_keys=True) + "\n", encoding="utf-8")
    return {"rows": sum(counts.values()), **counts, **missing_counts}
