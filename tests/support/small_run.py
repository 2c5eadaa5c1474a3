"""A small store for the tests: stages with the layouts of the real ones, run and recorded as `zscir run` does it."""

import json
import math
from contextlib import suppress
from functools import cache
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.environment import SCRATCH
from zscir.benchmarks import benchmark_info, load_part
from zscir.benchmarks.breakdown import breakdown_rows
from zscir.benchmarks.results import compute_results, per_query_rows
from zscir.benchmarks.score_rows import ScoreLabel, macro_mean, metric_scores, protocol_label
from zscir.data.images.shards import write_shard
from zscir.lineage.recorder import Recorder, RunInfo
from zscir.pipeline.stage import Stage, materialize, stage
from zscir.report.page import write_report
from zscir.runtime.errors import ZscirError
from zscir.runtime.schemas import (
    CURVE_SCHEMA,
    IMAGES_SCHEMA,
    PAIRS_SCHEMA,
    REJECTS_SCHEMA,
    TRIPLETS_SCHEMA,
    read_rows,
    write_table,
)
from zscir.runtime.specs import Spec
from zscir.stages.evaluate import OUTPUT_TABLES
from zscir.stages.mask_triplets import MaskSpec, mask_triplets
from zscir.stages.tabletop_benchmarks import tabletop_benchmarks
from zscir.stages.tabulate import TabulateSpec, tabulate
from zscir.store.artifacts import Artifact, Facts
from zscir.store.store import Store
from zscir.tabletop.spec import TabletopBenchmarksSpec, TabletopSpec
from zscir.tabletop.web import web_caption, web_jpeg

WORLD = TabletopSpec(seed=3, scenes=60)
BENCHMARKS = TabletopBenchmarksSpec(
    fashioniq_queries=6, fashioniq_gallery=12, cirr_sets=4, cirr_test_sets=1, cirr_queries_per_set=2, circo_queries=6,
    circo_test_queries=2, circo_gallery=64, genecis_queries=4, genecis_vg_images=50,
)  # fmt: skip
QUERIES = OUTPUT_TABLES["queries"]


class PlainSpec(Spec):
    """Captions to put in place of the world's own, by row."""

    captions: dict[str, str] | None = None


class TrainSpec(Spec):
    """The name of the method that is said to be trained."""

    method: str
    steps: int = 300


class EvaluateSpec(Spec):
    """Who answers: random vectors, pulled towards the right answer by ``skill``."""

    method: str
    skill: float
    control: str | None = None
    weights: tuple[float, ...] | None = None


class FailSpec(Spec):
    """The words of the error."""

    message: str


@stage(version=1)
def ingest(spec: PlainSpec, out: Path) -> Facts:
    """Pairs of the tabletop world; every tenth row is a reject."""
    rows, rejects = [], []
    for index in range(WORLD.scenes):
        url, text = (
            f"http://tabletop.test/3/{index}.jpg",
            (spec.captions or {}).get(str(index)) or web_caption(WORLD, index),
        )
        if index % 10 == 9:
            reason = "no_caption" if index % 20 == 9 else "duplicate"
            rejects.append({"stage": "ingest", "id": url, "reason": reason, "detail": f"row {index}: {text}"})
            continue
        pair_id = sha256(f"{url}\n{text}".encode()).hexdigest()[:32]
        rows.append({"pair_id": pair_id, "url": url, "text": text, "source": "tabletop", "source_row": index})
    write_table(out / "pairs.parquet", PAIRS_SCHEMA, rows)
    write_table(out / "rejects.parquet", REJECTS_SCHEMA, rejects)
    return {"rows": len(rows), "rejects": len(rejects)}


@stage(version=1)
def download(spec: PlainSpec, pairs: Artifact, out: Path) -> Facts:
    """The pictures of the pairs in one shard; every twelfth URL fails."""
    rows, rejects, members = [], [], []
    for number, pair in enumerate(read_rows(pairs.path("pairs.parquet"), PAIRS_SCHEMA)):
        key = sha256(pair["url"].encode()).hexdigest()
        row = {"image_key": key, "pair_id": pair["pair_id"], "url": pair["url"], "text": pair["text"], "attempts": 1}
        if number % 12 == 11:
            rows.append(
                {**row, "status": "failed", "error_class": "http_404", "error": "404 Not Found", "http_status": 404}
            )
            rejects.append({"stage": "download", "id": pair["url"], "reason": "http_404", "detail": "404 Not Found"})
            continue
        members.append((f"{key}.jpg", web_jpeg(WORLD, pair["source_row"])))
        rows.append({**row, "status": "ok", "shard": "00000.tar", "original_width": 100, "original_height": 90})
    spans = iter(write_shard(out / "00000.tar", members))
    for row in rows:
        if row["status"] == "ok":
            span = next(spans)
            row.update(offset=span.offset, size=span.size)
    write_table(out / "images.parquet", IMAGES_SCHEMA, rows)
    write_table(out / "rejects.parquet", REJECTS_SCHEMA, rejects)
    return {"rows": len(rows), "ok": len(members), "rejects": len(rejects)}


@stage(version=1)
def parse_llm(spec: PlainSpec, images: Artifact, out: Path) -> Facts:
    """Triplets of neighbouring pictures, with a made-up change."""
    found = [row for row in read_rows(images.path("images.parquet"), IMAGES_SCHEMA) if row["status"] == "ok"]
    rows = []
    for number, (one, two) in enumerate(pairwise(found)):
        text = (spec.captions or {}).get(str(number)) or f"change it to {two['text']}"
        rows.append({
            "triplet_id": f"t{number:04d}", "source": "template", "reference_key": one["image_key"], "text": text,
            "target_key": two["image_key"], "reference_caption": one["text"], "target_caption": two["text"],
        })  # fmt: skip
    write_table(out / "triplets.parquet", TRIPLETS_SCHEMA, rows)
    return {"rows": len(rows)}


@stage(version=1)
def train(spec: TrainSpec, data: Artifact, out: Path) -> Facts:
    """The files of a checkpoint that the report reads."""
    config = {
        "format": 1, "method": {"name": spec.method}, "text_protocol": "pli",
        "architecture": {"vision_cfg": {"image_size": 64, "patch_size": 8}},
        "pixels": {"size_px": 64, "fit": "crop", "pad_ratio": 1.25, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    }  # fmt: skip
    (out / "config.json").write_text(json.dumps(config))
    rows = []
    for step in range(spec.steps):
        rows.append({"step": step, "name": "loss", "value": 5 * math.exp(-step / 90) + 0.2 * math.sin(step * 7.0)})
        rows.append({"step": step, "name": "hits", "value": 1 - math.exp(-step / 120) + 0.05 * math.cos(step * 5.0)})
        rows.append({"step": step, "name": "lr", "value": 1e-4 * (1 + math.cos(math.pi * step / spec.steps)) / 2})
    write_table(out / "curve.parquet", CURVE_SCHEMA, rows)
    return {"rows": 49, "steps": spec.steps, "parameters": 12345}


@stage(version=1)
def evaluate(spec: EvaluateSpec, benchmarks: Artifact, out: Path) -> Facts:
    """All tables of a real evaluation, of made-up vectors."""
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in OUTPUT_TABLES}
    for name in ("fashioniq", "cirr", "circo", "genecis"):
        root = benchmarks.path(f"{name}/images.tar").parent
        measured = []
        for part in (load_part(name, root, "val", named, None) for named in benchmark_info(name).parts):
            found = compute_results(part, *_vectors(part, spec), part.texts("pli"))
            tables["rankings"] += found.rankings
            tables["queries"] += found.queries
            tables["per_query"] += per_query_rows(part, found.metrics)
            measured.append((part, found.metrics))
        label = ScoreLabel(protocol_label(measured[0][0].protocol, "pli", "clip"), spec.method, "ViT 4x64/8 at 64")
        numbers = [row for part, measures in measured for row in metric_scores(part, measures, label)]
        numbers += macro_mean(measured, label) if len(measured) > 1 else []
        tables["scores"] += [number.score_row() for number in numbers]
        beside = {"control": spec.control, "allow_missing": None}
        names = set(OUTPUT_TABLES["intervals"].names) - beside.keys()
        tables["intervals"] += [{name: getattr(number, name) for name in names} | beside for number in numbers]
    protocols = {(row["benchmark"], row["split"]): row["protocol"] for row in tables["scores"]}
    tables["breakdown"] = list(breakdown_rows(tables["queries"], tables["per_query"], protocols))
    for name, rows in tables.items():
        write_table(out / f"{name}.parquet", OUTPUT_TABLES[name], rows)
    if spec.weights is not None:
        curve = [
            {"step": step, "name": name, "value": value}
            for step, weight in enumerate(spec.weights)
            for name, value in (
                ("lambda", weight),
                ("validation cirr R@1 (official/pli/clip)", 20 - (weight - 0.4) ** 2 * 30),
                ("validation fashioniq/mean R@10 (original/pli/clip)", 50 - weight),
            )
        ]
        write_table(out / "curve.parquet", CURVE_SCHEMA, curve)
    tuned = {} if spec.weights is None else {"lambda": 0.4}
    return {"rows": len(tables["scores"]), "queries": len(tables["queries"]), **tuned}


def _vectors(part: Any, spec: EvaluateSpec) -> tuple[Any, Any]:
    """[Q, 24] and [G, 24]: each query is its target plus noise."""
    rng = np.random.default_rng(int.from_bytes(sha256(f"{spec.method} {part.label}".encode()).digest()[:4], "big"))
    gallery = rng.standard_normal((len(part.gallery), 24)).astype(np.float32)
    columns = {image_id: number for number, image_id in enumerate(part.gallery)}
    targets = gallery[[columns[query.targets[0]] for query in part.queries]]
    noise = rng.standard_normal(targets.shape).astype(np.float32)
    return spec.skill * targets + noise, gallery


@stage(version=1)
def embed(spec: FailSpec, images: Artifact, out: Path) -> Facts:
    """A stage that fails with the words it was given."""
    raise ZscirError(spec.message)


class RecordedRun:
    """A run under way: ``step`` makes or reuses an artifact and records it."""

    def __init__(
        self, store: Store, run_id: str, pipeline: str = "tabletop", parent: str | None = None, process: str = ""
    ) -> None:
        config = {"pipeline": "gone.toml", "set": [], "only": None, "from": None, "process": process}
        self.recorder = Recorder(store, RunInfo(run_id, pipeline, "0" * 64, "cli", json.dumps(config), parent))
        self.store = store

    def step(self, name: str, what: Stage, spec: Spec, **inputs: Any) -> Artifact:
        """The artifact of one step; its error is recorded and raised."""
        with self.recorder.step(name, what.name) as row:
            row.update(reason="no artifact")
            made = materialize(self.store, what, spec, inputs)
            row.update(key=made.artifact.key, outcome=made.outcome)
        self.recorder.add_artifact(made.artifact)
        return made.artifact


def whole_run(
    store: Store, run_id: str = "20260101-120000-aaaaaa", captions: dict[str, str] | None = None
) -> RecordedRun:
    """A run through everything that a page shows; it is not finished yet."""
    run = RecordedRun(store, run_id)
    plain = PlainSpec(captions=captions)
    pairs = run.step("ingest", ingest, plain)
    images = run.step("download", download, PlainSpec(), pairs=pairs)
    masks = run.step("mask_triplets", mask_triplets, MaskSpec(), images=images)
    triplets = run.step("parse_llm", parse_llm, plain, images=images)
    run.step("train_pli", train, TrainSpec(method="pli"), data=masks)
    run.step("train_tscir_map", train, TrainSpec(method="tscir_map"), data=triplets)
    world = run.step("tabletop_benchmarks", tabletop_benchmarks, BENCHMARKS)
    specs = {
        "score_image": EvaluateSpec(method="image only", skill=0.05, control="image"),
        "score_text": EvaluateSpec(method="text only", skill=0.04, control="text"),
        "score_sum": EvaluateSpec(
            method="sum, lambda 0.4, tuned", skill=0.2, control="sum", weights=(0.0, 0.2, 0.4, 0.8)
        ),
        "score_pli": EvaluateSpec(method="pli", skill=0.35),
        "score_tscir": EvaluateSpec(method="tscir_map", skill=0.6),
    }
    scores = [run.step(name, evaluate, spec, benchmarks=world) for name, spec in specs.items()]
    run.step("table", tabulate, TabulateSpec(), scores=scores)
    return run


HOSTILE = (
    "<script>window.pwned = 1</script>",
    '"><img src=x onerror="window.pwned=1">',
    "' onmouseover='window.pwned=1",
    "{{7*7}} {% for x in y %} {# no #}",
    "</style></title><svg onload=window.pwned=1>",
    "&lt;b&gt; &amp; &#x3c;i&#x3e;",
    "javascript:window.pwned=1",
)


def new_store(name: str) -> Store:
    """An empty store below the tests' scratch folder."""
    return Store(str(SCRATCH / "reports" / name / "store"), SCRATCH / "reports" / name / "cache")


@cache
def shared_store() -> Store:
    """The store of one finished run with everything in it."""
    store = new_store("shared")
    whole_run(store).recorder.finish("succeeded")
    return store


@cache
def shared_page() -> Path:
    """The page of that run."""
    return write_report(shared_store(), "latest", None)


@cache
def hostile_page() -> Path:
    """The page of a run in which captions, texts, an error and a step's name try to break out of the page."""
    store = new_store("hostile")
    captions = {str(number): words for number, words in enumerate(HOSTILE)} | {"9": HOSTILE[0], "19": HOSTILE[1]}
    run = RecordedRun(store, "20260101-130000-bbbbbb", pipeline=HOSTILE[4])
    pairs = run.step(HOSTILE[1], ingest, PlainSpec(captions=captions))
    images = run.step("download", download, PlainSpec(), pairs=pairs)
    masks = run.step("mask_triplets", mask_triplets, MaskSpec(), images=images)
    run.step("parse_llm", parse_llm, PlainSpec(captions=captions), images=images)
    run.step(HOSTILE[0], train, TrainSpec(method=HOSTILE[0]), data=masks)
    with suppress(ZscirError):
        run.step("embed", embed, FailSpec(message=" ".join(HOSTILE)), images=images)
    run.recorder.finish("failed")
    return write_report(store, "latest", None)
