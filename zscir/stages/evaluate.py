"""evaluate: a checkpoint (or a control over a stock backbone) and benchmarks become scores, rankings and query rows."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from zscir.evaluation.specs import BenchmarkEntry, BenchmarkName, Preprocessing, pixels_for
from zscir.pipeline.stage import stage
from zscir.runtime.errors import RequestError
from zscir.runtime.schemas import (
    CURVE_SCHEMA,
    INTERVALS_SCHEMA,
    PER_QUERY_SCHEMA,
    RANKINGS_SCHEMA,
    SCORES_SCHEMA,
    schema_of,
    write_table,
)
from zscir.runtime.specs import Spec
from zscir.store.artifacts import Artifact, Facts

OUTPUT_TABLES = {
    "scores": SCORES_SCHEMA,
    "intervals": INTERVALS_SCHEMA,
    "rankings": RANKINGS_SCHEMA,
    "queries": schema_of(
        benchmark="str", split="str", query_id="str", reference="str", text="str", targets="str", target_rank="i64?",
        best_rank="i64?", reference_rank="i64?", words="i64", aspects="str",
    ),
    "per_query": PER_QUERY_SCHEMA,
    "breakdown": schema_of(
        benchmark="str", split="str", protocol="str", metric="str", by="str", group="str", value="f64", n="i64",
        hits="i64?", low="f64", high="f64",
    ),
}  # fmt: skip
TUNED_BENCHMARK: BenchmarkName = "cirr"  # part of the tuning procedure, so not of the registry
TUNED_METRIC = "R@1"
TextImageWeight = Annotated[float, Field(ge=0)]
WeightScores = list[tuple[float, float]]  # (weight, percent)


class EvaluateSpec(Spec):
    """What to score. ``control`` asks a clip or pli checkpoint by image, text, or text + ``weight`` x image.

    A grid of ``weights`` is tried on every benchmark of the spec that the input ``validation`` holds; the first best
    R@1 of CIRR wins and is then reported.
    ``method`` and ``backbone`` are the labels in tables; ``seed`` is that of the bootstrap intervals.
    """

    benchmarks: Annotated[tuple[BenchmarkEntry, ...], Field(min_length=1)]
    method: str | None = None
    backbone: str | None = None
    control: Literal["image", "text", "sum"] | None = None
    weight: TextImageWeight | None = None
    weights: Annotated[tuple[TextImageWeight, ...], Field(min_length=1)] | None = None
    preprocessing: Preprocessing | None = None
    seed: int = 0

    @model_validator(mode="after")
    def _fits_together(self) -> "EvaluateSpec":
        given = (self.weight is not None) + (self.weights is not None)
        if given != (1 if self.control == "sum" else 0):
            raise ValueError("control = 'sum' takes either weight or weights; nothing else takes them")
        # Rows of ``queries`` and ``per_query`` name no protocol: twice the same split would mix them up.
        named = [(entry.name, entry.split) for entry in self.benchmarks]
        if len(set(named)) < len(named):
            raise ValueError("a benchmark's split may come once; rank it by another protocol in another evaluation")
        return self


@stage(version=2)
def evaluate(
    spec: EvaluateSpec,
    checkpoint: Artifact,
    benchmarks: Artifact,
    out: Path,
    backbone: Artifact | None = None,
    gallery: Artifact | None = None,
    validation: Artifact | None = None,
) -> Facts:
    """Write ``scores``, ``intervals``, ``rankings``, ``queries``, ``per_query`` and ``breakdown`` (``.parquet``),
    ``curve.parquet`` of a tuned weight (a point per weight and benchmark), and ``submissions/*.json`` for splits whose
    answers only a server has.

    ``benchmarks`` and ``validation`` hold annotation files and images per benchmark; ``gallery`` (of the stage
    ``embed_benchmarks``) spares embedding the images again. StageError lists images that are missing or broken.
    """
    from zscir.benchmarks import write_submission
    from zscir.benchmarks.breakdown import breakdown_rows
    from zscir.evaluation.run_benchmark import (
        encode_queries,
        load_annotations,
        load_benchmark_images,
        result_tables,
        submission_files,
    )

    encoder = _query_encoder(spec, checkpoint, backbone)
    # All of them before an image is embedded: a wrong file shows at once, not after hours.
    annotations = load_annotations(encoder, benchmarks, spec.benchmarks)
    curves = _tuning(spec, encoder, validation)
    # CIRR comes first, and it alone decides: tuning on each benchmark that is reported would flatter the sum.
    grid = next(iter(curves.values()), [])
    if grid:
        # max takes the first of equals: of weights that score alike, the one that stands first in the spec.
        best_weight, _ = max(grid, key=lambda point: point[1])
        encoder = encoder.with_image_weight(best_weight)
        _write_curve(out / "curve.parquet", curves)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in OUTPUT_TABLES}
    for entry, parts in zip(spec.benchmarks, annotations, strict=True):
        benchmark = load_benchmark_images(encoder, benchmarks, gallery, entry, parts)
        encoded = encode_queries(encoder, benchmark)
        for name, more in result_tables(encoder, benchmark, encoded, spec.seed).items():
            rows[name] += more
        for files in submission_files(encoded):
            write_submission(out / "submissions", files)
    protocols = {(row["benchmark"], row["split"]): row["protocol"] for row in rows["scores"]}
    rows["breakdown"] = list(breakdown_rows(rows["queries"], rows["per_query"], protocols, spec.seed))
    for name, schema in OUTPUT_TABLES.items():
        write_table(out / f"{name}.parquet", schema, rows[name])
    return {"rows": len(rows["scores"]), "queries": len(rows["queries"]), **_tuning_facts(grid, encoder)}


def _query_encoder(spec: EvaluateSpec, checkpoint: Artifact, backbone: Artifact | None) -> Any:
    from dataclasses import replace

    from zscir.evaluation.query_encoder import control_encoder, method_encoder

    if spec.control is None:
        encoder = method_encoder(checkpoint, backbone, spec.method, spec.backbone)
    else:
        encoder = control_encoder(checkpoint, spec.control, spec.weight, spec.method, spec.backbone)
    return replace(encoder, pixels=pixels_for(encoder.pixels, spec.preprocessing))


def _tuning(spec: EvaluateSpec, encoder: Any, validation: Artifact | None) -> dict[str, WeightScores]:
    """What each weight of the grid scores on the validation benchmarks; CIRR's R@1, which decides, comes first."""
    from zscir.benchmarks import benchmark_info
    from zscir.evaluation.run_benchmark import (
        load_annotations,
        load_benchmark_images,
        sweep_weights,
        validation_curve_name,
    )

    if (spec.weights is None) != (validation is None):
        raise RequestError("evaluate: spec.weights and the input 'validation' belong together; give both or neither")
    if validation is None or spec.weights is None:
        return {}
    curves = {}
    entries = _validation_entries(spec, {file.split("/")[0] for file in validation.files(".json")})
    for entry, parts in zip(entries, load_annotations(encoder, validation, entries), strict=True):
        benchmark = load_benchmark_images(encoder, validation, None, entry, parts)
        metric = benchmark_info(entry.name).headline_metrics[0]
        curves[validation_curve_name(encoder, benchmark, metric)] = sweep_weights(
            encoder, benchmark, spec.weights, metric
        )
    return curves


def _validation_entries(spec: EvaluateSpec, held: set[str]) -> list[BenchmarkEntry]:
    """What the weight is tried on: CIRR, always by its official protocol, then the spec's others that are ``held``."""
    by_name: dict[str, BenchmarkEntry] = {}
    for entry in spec.benchmarks:
        by_name.setdefault(entry.name, entry)
    cirr = by_name.pop(TUNED_BENCHMARK, None)
    # Without split, checksums and allowances: those are of the benchmarks that are reported, not of the validation.
    others = [
        BenchmarkEntry(name=entry.name, parts=entry.parts, protocol=entry.protocol, texts=entry.texts)
        for entry in by_name.values()
        if entry.name in held
    ]
    return [BenchmarkEntry(name=TUNED_BENCHMARK, texts=cirr.texts if cirr else None), *others]


def _write_curve(path: Path, curves: dict[str, WeightScores]) -> None:
    weights = [weight for weight, _ in next(iter(curves.values()))]
    named = {"lambda": weights, **{name: [value for _, value in grid] for name, grid in curves.items()}}
    steps = range(len(weights))
    rows = [{"step": step, "name": name, "value": own[step]} for step in steps for name, own in named.items()]
    write_table(path, CURVE_SCHEMA, rows)


def _tuning_facts(grid: WeightScores, encoder: Any) -> Facts:
    if not grid:
        return {}
    shown = json.dumps({f"{weight:g}": round(value, 2) for weight, value in grid})
    return {"lambda": encoder.image_weight, f"validation {TUNED_METRIC} by lambda": shown}
