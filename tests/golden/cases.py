"""Golden rows: what each stage makes of small fixed inputs, so that a changed stage cannot forget its version.

A new stage needs one line in CASES, or a reason in LEFT_OUT; then ``python -m tests.golden.record``.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from zscir.artifacts import Artifact, sweep
from zscir.records import IMAGES, SCORES, schema_of, write_table
from zscir.shards import write_shard
from zscir.specs import canonical_json, digest_of
from zscir.stage import stage_named
from zscir.tabletop.spec import TabletopSpec
from zscir.tabletop.web import url_of, web_caption, web_jpeg

ROWS = Path(__file__).with_name("rows.json")
WORLD = TabletopSpec(scenes=48, size_px=48)


@dataclass(frozen=True)
class Case:
    """One stage, asked for one spec, given outputs of cases before it or toys."""

    name: str
    stage: str
    spec: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str | list[str]] = field(default_factory=dict)


SMALL_BENCHMARKS = {
    "size_px": 32, "fashioniq_queries": 4, "fashioniq_gallery": 10, "cirr_sets": 3, "cirr_test_sets": 2,
    "circo_queries": 3, "circo_test_queries": 2, "circo_gallery": 60, "genecis_queries": 3, "genecis_vg_images": 50,
}  # fmt: skip
COLUMNS = {"text_column": "caption", "licence_column": "licence"}
CASES = (
    Case(
        "tabletop", "tabletop", WORLD.literals() | {"duplicate_share": 0.1, "blank_share": 0.1, "malformed_share": 0.1}
    ),
    Case("tabletop_benchmarks", "tabletop_benchmarks", SMALL_BENCHMARKS),
    Case("ingest", "ingest", {"source": "toy", "max_text_chars": 60, **COLUMNS}, {"urls": "tabletop"}),
    Case("mask_triplets", "mask_triplets", {"ratio": 0.5, "seed": 3}, {"images": "toy images"}),
    Case("mine_pairs", "mine_pairs", {"neighbours": 5}, {"images": "toy images", "embed": "toy embeddings"}),
    Case("ask_llm", "ask_llm", {"model": {"backend": "template", "max_changes": 3}}, {"candidates": "mine_pairs"}),
    Case("parse_llm", "parse_llm", {"per_pair": 2}, {"candidates": "mine_pairs", "responses": "ask_llm"}),
    Case("pack copies", "pack", {"shard_rows": 20}, {"triplets": "mask_triplets", "images": "toy images"}),
    Case("pack shrinks", "pack", {"size_px": 32}, {"triplets": "parse_llm", "images": "toy images"}),
    Case("tabulate", "tabulate", {"title": "Toys"}, {"scores": ["toy scores of one", "toy scores of two"]}),
)
LEFT_OUT = {
    "backbone": "published weights, or a checkpoint of floats",
    "download": "what it makes is what the network gave; its bytes are compared in tests/stages/test_download.py",
    "embed": "floats of a neural network differ in their last bits between processors",
    "embed_benchmarks": "floats of a neural network",
    "evaluate": "rankings of floats of a neural network; the measures have golden files of their own",
    "train": "floats of a neural network",
}


def toy_images(folder: Path) -> None:
    """What ``download`` leaves: pictures of the tabletop world in two shards, and some that could not be had."""
    rows: list[dict[str, Any]] = []
    for first in range(0, WORLD.scenes, 24):
        indices = range(first, first + 24)
        found = {sha256(url_of(WORLD, index).encode()).hexdigest(): index for index in indices}
        shard = f"{first // 24:05d}.tar"
        here = [(f"{key}.jpg", web_jpeg(WORLD, index)) for key, index in sorted(found.items()) if index % 10 != 9]
        spans = {span.name: span for span in write_shard(folder / shard, here)}
        for key, index in found.items():
            row = {"image_key": key, "pair_id": f"{index:032x}", "url": url_of(WORLD, index),
                   "text": web_caption(WORLD, index), "attempts": 1}  # fmt: skip
            if span := spans.get(f"{key}.jpg"):
                rows.append(row | {"status": "ok", "shard": shard, "offset": span.offset, "size": span.size})
            else:
                rows.append(row | {"status": "failed", "error_class": "http_404"})
    write_table(folder / "images.parquet", IMAGES, rows)


def toy_embeddings(folder: Path) -> None:
    """Unit vectors of halves, whose cosines every processor works out to the same bits; families lie together."""
    indices = [index for index in range(WORLD.scenes) if index % 10 != 9]
    for name in ("image", "text"):
        vectors = np.zeros((len(indices), 16), dtype=np.float32)
        for row, index in enumerate(indices):
            chosen = np.random.default_rng(index // 4).permutation(16)[:4]
            vectors[row, chosen] = 0.5
            if index % 4:
                vectors[row, [chosen[0], (chosen[0] + index) % 16]] = vectors[
                    row, [(chosen[0] + index) % 16, chosen[0]]
                ]
        np.save(folder / f"{name}.npy", vectors)
    keys = [{"image_key": sha256(url_of(WORLD, index).encode()).hexdigest()} for index in indices]
    write_table(folder / "keys.parquet", schema_of(image_key="str"), keys)


def toy_scores(method: str, value: float) -> Callable[[Path], None]:
    """The score table of one evaluation."""

    def write(folder: Path) -> None:
        rows = [
            {"benchmark": benchmark, "split": "val", "protocol": "official/pli/clip", "method": method,
             "backbone": "toy", "metric": metric, "value": value, "n": 200}
            for benchmark, metric in (("cirr", "R@1"), ("cirr", "R@5"), ("circo", "mAP@5"))
        ]  # fmt: skip
        write_table(folder / "scores.parquet", SCORES, rows)

    return write


TOYS: dict[str, Callable[[Path], None]] = {
    "toy images": toy_images,
    "toy embeddings": toy_embeddings,
    "toy scores of one": toy_scores("one", 12.5),
    "toy scores of two": toy_scores("two", 25.0),
}


def run_all(folder: Path) -> dict[str, dict[str, Any]]:
    """Case -> its row: stage, version, digest of the inputs, and a digest for each file that was made."""
    made: dict[str, Artifact] = {}
    for name, write in TOYS.items():
        made[name] = _filled(folder / name, write)
    rows = {}
    for case in CASES:
        stage = stage_named(case.stage)
        spec = stage.spec_type.parse(case.spec, f"golden case {case.name}")
        inputs: dict[str, Any] = {
            role: [made[one] for one in given] if isinstance(given, list) else made[given]
            for role, given in case.inputs.items()
        }
        stage.check_inputs(inputs, case.name)
        made[case.name] = _filled(folder / case.name, lambda out: stage(spec, **inputs, out=out))  # noqa: B023 - called now
        given = {role: contents_of(one) for role, one in _flat(inputs)}
        rows[case.name] = {
            "stage": case.stage, "version": stage.version, "spec": digest_of(spec.literals())[:16],
            "inputs": digest_of(given)[:16], "files": contents_of(made[case.name]),
        }  # fmt: skip
    return rows


def contents_of(artifact: Artifact) -> dict[str, str]:
    """File -> a digest of what it says. Parquet is taken by its rows: its bytes also name the library's version."""
    return {name: _contents(artifact.path(name)) for name in artifact.files()}


def _contents(path: Path) -> str:
    if path.suffix != ".parquet":
        return sha256(path.read_bytes()).hexdigest()[:16]
    table = pq.read_table(path, partitioning=None)
    return digest_of([str(table.schema.remove_metadata()), json.loads(canonical_json(table.to_pylist()))])[:16]


def _filled(folder: Path, write: Callable[[Path], Any]) -> Artifact:
    folder.mkdir()
    write(folder)
    sweep(folder)
    return Artifact.of_folder(folder)


def _flat(inputs: dict[str, Any]) -> list[tuple[str, Artifact]]:
    from zscir.stage import flat_inputs

    return list(flat_inputs(inputs).items())


def complaint(name: str, recorded: dict[str, Any] | None, now: dict[str, Any]) -> str:
    """What is wrong with a row and what to do; empty when nothing is."""
    if recorded == now:
        return ""
    again = "run `python -m tests.golden.record` and commit tests/golden/rows.json"
    if recorded is None:
        return f"{name}: no golden row yet; {again}"
    if any(recorded[part] != now[part] for part in ("version", "spec", "inputs")):
        changed = [part for part in ("version", "spec", "inputs") if recorded[part] != now[part]]
        return f"{name}: the golden row is of another {' and '.join(changed)}; {again}"
    files = sorted(
        one for one in {**recorded["files"], **now["files"]} if recorded["files"].get(one) != now["files"].get(one)
    )
    stage = now["stage"]
    return (
        f"{name}: stage {stage} makes something else of the same inputs ({', '.join(files)}) and is still version "
        f"{now['version']}: stores that hold its artifacts would go on using them.\nIf that is meant, raise the "
        f"version in zscir/stages/{stage}.py and {again}.\nIf it is not, this change broke the stage."
    )
