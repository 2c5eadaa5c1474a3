"""embed_benchmarks: a backbone and benchmarks become the vectors of all benchmark images, made once for many methods.

The image-only, text-only and sum controls and every method that keeps the backbone's image tower share this gallery.
"""

import json
from pathlib import Path
from typing import Annotated

from pydantic import Field

from zscir.artifacts import Artifact, finished
from zscir.evaluation.specs import Name, Preprocessing, pixels_for
from zscir.specs import Spec
from zscir.stage import Facts, stage


class EmbedBenchmarksSpec(Spec):
    """Which benchmarks; a ``preprocessing`` other than the backbone's own must be asked of ``evaluate`` too."""

    benchmarks: Annotated[tuple[Name, ...], Field(min_length=1)] = ("fashioniq", "cirr", "circo", "genecis")
    splits: dict[str, str] | None = None  # benchmark -> split, where it is not val
    preprocessing: Preprocessing | None = None


@stage(version=1)
def embed_benchmarks(spec: EmbedBenchmarksSpec, backbone: Artifact, benchmarks: Artifact, out: Path) -> Facts:
    """Write ``<benchmark>.npy`` ([N, D] float32, unit rows), ``<benchmark>.parquet`` (their ids) and ``mark.json``."""
    from zscir.benchmarks import PARTS, load_part
    from zscir.evaluation.features import embed_pictures
    from zscir.evaluation.gallery import MARK, ids_of, mark_of, write_features
    from zscir.evaluation.pictures import Pictures, annotations_root
    from zscir.evaluation.respondent import control_of

    stock = control_of(backbone, "image", None, None, None)
    pixels = pixels_for(stock.pixels, spec.preprocessing)
    counts: Facts = {}
    digests = {}
    for name in spec.benchmarks:
        root, split = annotations_root(benchmarks, name), (spec.splits or {}).get(name, "val")
        parts = [load_part(name, root, split, part, None) for part in PARTS[name]]
        pictures = Pictures(benchmarks, name, parts)
        ids = ids_of(parts)
        counts[name], digests[name] = len(ids), pictures.digest
        if not (out / f"{name}.npy").exists():
            write_features(out, name, embed_pictures(stock.model.gallery, pictures, ids, pixels))
    with finished(out / MARK) as path:
        mark = mark_of(stock.weights, pixels) | {"images": digests}
        path.write_text(json.dumps(mark, sort_keys=True) + "\n", encoding="utf-8")
    return {"rows": sum(counts.values()), **counts}
