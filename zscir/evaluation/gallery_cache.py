"""Vectors of a benchmark's images: made now, or taken from an artifact made with the same weights and pixels."""

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
    named = [one for part in parts for one in (*part.gallery, *(query.reference for query in part.queries))]
    return list(dict.fromkeys(named))


def cache_identity(weights_digest: str, pixels: ModelPixelSpec) -> dict[str, Any]:
    """What vectors depend on beside the images."""
    return {"weights": weights_digest, "pixels": pixels.model_dump(mode="json")}


def cached_or_embedded(
    encode: Callable[[Tensor], Tensor],
    pictures: BenchmarkImages,
    ids: Sequence[str],
    pixels: ModelPixelSpec,
    gallery: Artifact | None,
    weights_digest: str,
) -> ImageEmbeddings:
    """Unit vectors of ``ids``. RequestError when ``gallery`` was made with other weights, pixels or images.

    Images that it was allowed to lack are noted as absent, and are an error where they are not allowed to be.
    """
    if gallery is None or f"{pictures.name}.npy" not in gallery.entries:
        return embed_benchmark_images(encode, pictures, ids, pixels)
    features, absent = read_embeddings(gallery, pictures.name), read_absent_images(gallery, pictures.name)
    found = json.loads(gallery.path(CACHE_IDENTITY_FILE).read_text(encoding="utf-8"))
    wanted = cache_identity(weights_digest, pixels) | {"images": found.get("images", {})}
    if found != wanted or found["images"].get(pictures.name) != pictures.digest:
        raise RequestError(f"{pictures.name}: the input 'gallery' was embedded with other weights, pixels or images")
    pictures.do_without({one: absent[one] for one in ids if one in absent}, len(ids))
    missing = [one for one in ids if one not in features.ids and one not in absent]
    if missing:
        raise RequestError(f"{pictures.name}: the input 'gallery' lacks {len(missing)} images, such as {missing[:5]}")
    return features


def write_embeddings(out: Path, name: str, features: ImageEmbeddings, absent: Mapping[str, str]) -> None:
    """``<name>.npy`` [N, D] float32 and ``<name>.parquet``, the ids in the same order; ``<name>.absent.parquet`` says
    which images have none, if any."""
    if absent:
        with atomic_path(out / f"{name}.absent.parquet") as part:
            write_table(
                part, ABSENT_IMAGES_SCHEMA, [{"image_id": one, "reason": reason} for one, reason in absent.items()]
            )
    with atomic_path(out / f"{name}.parquet") as part:
        write_table(part, IMAGE_IDS_SCHEMA, [{"image_id": one} for one in features.ids])
    with atomic_path(out / f"{name}.npy") as part, part.open("wb") as stream:
        np.save(stream, features.vectors)


def read_embeddings(gallery: Artifact, name: str) -> ImageEmbeddings:
    """What ``write_embeddings`` wrote, the vectors mapped rather than read."""
    ids = [row["image_id"] for row in read_rows(gallery.path(f"{name}.parquet"), IMAGE_IDS_SCHEMA)]
    vectors = np.load(gallery.path(f"{name}.npy"), mmap_mode="r", allow_pickle=False)
    if vectors.ndim != 2 or len(vectors) != len(ids):
        raise RequestError(f"{gallery.path(f'{name}.npy')}: shape {vectors.shape} does not fit {len(ids)} ids")
    return ImageEmbeddings({one: row for row, one in enumerate(ids)}, vectors)


def read_absent_images(gallery: Artifact, name: str) -> dict[str, str]:
    """The images without a vector, and why."""
    table = f"{name}.absent.parquet"
    if table not in gallery.entries:
        return {}
    return {row["image_id"]: row["reason"] for row in read_rows(gallery.path(table), ABSENT_IMAGES_SCHEMA)}
