"""Cache of gallery embeddings: taken from an artifact of the same weights, pixels and images, or embedded now."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from zscir.benchmarks import Benchmark
from zscir.evaluation.benchmark_images import BenchmarkImages
from zscir.evaluation.features import ImageEmbeddings, embed_benchmark_images
from zscir.methods.specs import ModelPixelSpec
from zscir.runtime.errors import RequestError
from zscir.runtime.schemas import read_rows, schema_of, write_table
from zscir.store.artifacts import Artifact, atomic_path

IMAGE_IDS_SCHEMA = schema_of(image_id="str")
ABSENT_IMAGES_SCHEMA = schema_of(image_id="str", reason="str")
CACHE_IDENTITY_FILE = "mark.json"


def image_ids_of_parts(parts: Sequence[Benchmark]) -> list[str]:
    """Every image that the queries and galleries of a benchmark's categories or tasks name, once, in order."""
    ids: list[str] = []
    for part in parts:
        ids += [*part.gallery, *(query.reference for query in part.queries)]
    return list(dict.fromkeys(ids))


def cache_identity(weights_digest: str, pixels: ModelPixelSpec) -> dict[str, Any]:
    """What vectors depend on beside the images: a cache with another identity is refused, not used."""
    return {"weights": weights_digest, "pixels": pixels.model_dump(mode="json")}


def cached_or_embedded(
    encode: Callable[[Tensor], Tensor],
    images: BenchmarkImages,
    ids: Sequence[str],
    pixels: ModelPixelSpec,
    cache: Artifact | None,
    weights_digest: str,
) -> ImageEmbeddings:
    """Unit vectors of ``ids``. RequestError when ``cache`` was made with other weights, pixels or images.

    Images that it was allowed to lack are noted as absent, and are an error where they are not allowed to be.
    """
    if cache is None or f"{images.name}.npy" not in cache.entries:
        return embed_benchmark_images(encode, images, ids, pixels)
    embeddings, absent = read_embeddings(cache, images.name), read_absent_images(cache, images.name)
    found = json.loads(cache.path(CACHE_IDENTITY_FILE).read_text(encoding="utf-8"))
    wanted = cache_identity(weights_digest, pixels) | {"images": found.get("images", {})}
    if found != wanted or found["images"].get(images.name) != images.digest:
        raise RequestError(f"{images.name}: the input 'gallery' was embedded with other weights, pixels or images")
    images.add_absent({image_id: absent[image_id] for image_id in ids if image_id in absent}, len(ids))
    missing = [image_id for image_id in ids if image_id not in embeddings.row_of_id and image_id not in absent]
    if missing:
        raise RequestError(f"{images.name}: the input 'gallery' lacks {len(missing)} images, such as {missing[:5]}")
    return embeddings


def write_embeddings(out: Path, name: str, embeddings: ImageEmbeddings, absent: Mapping[str, str]) -> None:
    """``<name>.npy`` [N, D] float32 and ``<name>.parquet``, the ids in the same order; ``<name>.absent.parquet`` says
    which images have none, if any."""
    if absent:
        with atomic_path(out / f"{name}.absent.parquet") as part:
            write_table(
                part,
                ABSENT_IMAGES_SCHEMA,
                [{"image_id": image_id, "reason": reason} for image_id, reason in absent.items()],
            )
    with atomic_path(out / f"{name}.parquet") as part:
        write_table(part, IMAGE_IDS_SCHEMA, [{"image_id": image_id} for image_id in embeddings.row_of_id])
    with atomic_path(out / f"{name}.npy") as part, part.open("wb") as stream:
        np.save(stream, embeddings.vectors)


def read_embeddings(cache: Artifact, name: str) -> ImageEmbeddings:
    """What ``write_embeddings`` wrote, the vectors mapped rather than read."""
    ids = [row["image_id"] for row in read_rows(cache.path(f"{name}.parquet"), IMAGE_IDS_SCHEMA)]
    vectors = np.load(cache.path(f"{name}.npy"), mmap_mode="r", allow_pickle=False)
    if vectors.ndim != 2 or len(vectors) != len(ids):
        raise RequestError(f"{cache.path(f'{name}.npy')}: shape {vectors.shape} does not fit {len(ids)} ids")
    return ImageEmbeddings({image_id: row for row, image_id in enumerate(ids)}, vectors)


def read_absent_images(cache: Artifact, name: str) -> dict[str, str]:
    """The images without a vector, and why."""
    table = f"{name}.absent.parquet"
    if table not in cache.entries:
        return {}
    return {row["image_id"]: row["reason"] for row in read_rows(cache.path(table), ABSENT_IMAGES_SCHEMA)}
