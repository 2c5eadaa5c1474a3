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

from zscir.data.images.decode import decode_image, encode_jpeg
from zscir.data.images.shards import write_shard
from zscir.data.readers.pairs import pair_digest
from zscir.pipeline.stage import stage_named
from zscir.runtime.schemas import (
    IMAGES_SCHEMA,
    INTERVALS_SCHEMA,
    PAIRS_SCHEMA,
    PER_QUERY_SCHEMA,
    SCORES_SCHEMA,
    schema_of,
    write_table,
)
from zscir.runtime.specs import canonical_json, json_digest
from zscir.store.artifacts import Artifact, remove_scratch_files
from zscir.tabletop.benchmark_content import image_bytes
from zscir.tabletop.spec import TabletopBenchmarksSpec, TabletopSpec
from zscir.tabletop.web import url_of, web_caption, web_jpeg
from zscir.tabletop.write_cirr import build_cirr

ROWS = Path(__file__).with_name("rows.json")
WORLD = TabletopSpec(scenes=48, size_px=48)


@dataclass(frozen=True)
class Case:
    """One stage with one spec, given outputs of cases before it or toys."""

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
    # Small JPEGs keep their bytes: what OpenCV makes of larger ones may differ between processors in the last bit.
    Case(
        "import_images",
        "import_images",
        {"keep_jpegs": True, "chunk_rows": 9},
        {"pairs": "toy pairs", "images": "toy pictures"},
    ),
    Case("import_shards", "import_shards", {"source": "toy", "keep_jpegs": True}, {"shards": "toy tars"}),
    Case("filter_size", "filter_size", {"min_side_px": 40, "max_aspect": 1.5}, {"images": "toy album"}),
    Case(
        "filter_text",
        "filter_text",
        {"max_images_per_text": 2, "languages": ["en"]},
        {"images": "toy album", "keep": "filter_size"},
    ),
    Case("dedup_exact", "dedup_exact", {}, {"images": "toy album", "keep": "filter_text"}),
    Case("dedup_near", "dedup_near", {}, {"images": "toy album", "keep": "dedup_exact"}),
    Case(
        "decontaminate",
        "decontaminate",
        {},
        {"images": "toy album", "keep": "dedup_near", "benchmarks": ["tabletop_benchmarks"]},
    ),
    Case("plan_download", "plan_download", {"chunk_rows": 12}, {"pairs": "ingest"}),
    Case("mask_triplets", "mask_triplets", {"ratio": 0.5, "seed": 3}, {"images": "toy images"}),
    Case("mask_triplets of a choice", "mask_triplets", {}, {"images": "toy album", "keep": "decontaminate"}),
    Case("mine_pairs", "mine_pairs", {"neighbours": 5}, {"images": "toy images", "embed": "toy embeddings"}),
    Case("ask_llm", "ask_llm", {"model": {"backend": "template", "max_changes": 3}}, {"candidates": "mine_pairs"}),
    Case("parse_llm", "parse_llm", {"per_pair": 2}, {"candidates": "mine_pairs", "responses": "ask_llm"}),
    Case("pack copies", "pack", {"shard_rows": 20}, {"triplets": "mask_triplets", "images": "toy images"}),
    Case("pack shrinks", "pack", {"size_px": 32}, {"triplets": "parse_llm", "images": "toy images"}),
    Case("tabulate", "tabulate", {"title": "Toys"}, {"scores": ["toy scores of one", "toy scores of two"]}),
    Case("tabulate parts", "tabulate", {}, {"scores": ["toy image only", "toy method", "toy rival"]}),
)
LEFT_OUT = {
    "backbone": "published weights, or a checkpoint of floats",
    "download": "what it makes is what the network gave; its bytes are compared in tests/stages/test_download.py",
    "fetch_chunk": "what it makes is what the network gave",
    "list_failed": "it reads what fetch_chunk made; its rows are compared in tests/data/download/test_merge_chunks.py",
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
    write_table(folder / "images.parquet", IMAGES_SCHEMA, rows)


def toy_pairs(folder: Path) -> None:
    """Pairs of local pictures, as ``ingest`` makes them; two of a picture, and two of none."""
    files = [*(f"{index:02d}.jpg" for index in range(20)), "00.jpg", "gone.jpg", "page.jpg"]
    pairs = [(f"file:{name}", f"text {row}") for row, name in enumerate(files)]
    rows = [{"pair_id": pair_digest(*pair).hex(), "url": pair[0], "text": pair[1], "source": "toy", "source_row": row}
            for row, pair in enumerate(pairs)]  # fmt: skip
    write_table(folder / "pairs.parquet", PAIRS_SCHEMA, rows)


def toy_pictures(folder: Path) -> None:
    """The files that the pairs name."""
    for index in range(20):
        (folder / f"{index:02d}.jpg").write_bytes(web_jpeg(WORLD, index))
    (folder / "page.jpg").write_text("<html>")


def toy_tars(folder: Path) -> None:
    """Two tars: some samples with an address, some without, one that comes twice, one without a text."""
    for tar, indices in enumerate((range(6), range(5, 12))):
        members = []
        for index in indices:
            about = json.dumps({"url": url_of(WORLD, index) if index % 2 else None}).encode()
            members += [(f"{index:04d}.jpg", web_jpeg(WORLD, index)), (f"{index:04d}.json", about)]
            members += [(f"{index:04d}.txt", web_caption(WORLD, index).encode())] if index % 5 else []
        write_shard(folder / f"{tar:05d}.tar", members)


def toy_album(folder: Path) -> None:
    """What ``download`` leaves of pages that repeat each other: copies, near copies, odd sizes, texts that are none."""
    scenes = [web_jpeg(WORLD, index) for index in range(20)]
    spec = TabletopBenchmarksSpec.parse(SMALL_BENCHMARKS, "toy album")
    leaked = image_bytes(spec.seed, spec.size_px, "cirr", build_cirr(spec).images[0])
    again = [encode_jpeg(decode_image(scene), 60) for scene in scenes[:3]]
    pictures = [*scenes, *scenes[3:6], *again, encode_jpeg(decode_image(leaked), 90), b"no picture"]
    texts = {1: "IMG_0001.jpg", 2: "rotes Auto vor dem Haus", 7: "a photo", 8: "a photo", 9: "A  photo"}
    sizes = {10: (39, 400), 11: (100, 151)}
    keys = [sha256(b"picture %d" % number).hexdigest() for number in range(len(pictures))]
    spans = write_shard(folder / "00000.tar", [(f"{key}.jpg", one) for key, one in zip(keys, pictures, strict=True)])
    rows = []
    for number, (key, picture, span) in enumerate(zip(keys, pictures, spans, strict=True)):
        width, height = sizes.get(number, (100, 90))
        text = texts.get(number, web_caption(WORLD, number % WORLD.scenes))
        rows.append(
            {"image_key": key, "pair_id": f"{number:032x}", "url": f"http://a.test/{number}.jpg", "text": text,
             "status": "ok", "attempts": 1, "sha256": sha256(picture).hexdigest(), "original_width": width,
             "original_height": height, "shard": "00000.tar", "offset": span.offset, "size": span.size}
        )  # fmt: skip
    write_table(folder / "images.parquet", IMAGES_SCHEMA, rows)


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
        write_table(folder / "scores.parquet", SCORES_SCHEMA, rows)

    return write


def toy_parts(method: str, control: str | None, *hits: str) -> Callable[[Path], None]:
    """The tables of one evaluation on two categories of FashionIQ, whose queries were answered (1) or not (0)."""

    def write(folder: Path) -> None:
        who = {"split": "val", "protocol": "original/pli/clip", "method": method, "backbone": "toy", "metric": "R@10"}
        parts = dict(zip(("fashioniq/dress", "fashioniq/shirt"), hits, strict=True))
        found = [(name, own.count("1"), len(own), 100 * own.count("1") / len(own)) for name, own in parts.items()]
        total = [sum(column) for column in zip(*(row[1:] for row in found), strict=True)]
        found.append(("fashioniq/mean", total[0], total[1], total[2] / 2))
        beside = {"low": 0.0, "high": 100.0, "control": control, "allow_missing": None}
        rows = [
            who | beside | {"benchmark": name, "hits": got, "n": n, "value": value} for name, got, n, value in found
        ]
        per_query = [
            {"benchmark": name, "split": "val", "metric": "R@10", "query_id": str(number), "value": float(hit)}
            for name, own in parts.items()
            for number, hit in enumerate(own)
        ]
        write_table(folder / "intervals.parquet", INTERVALS_SCHEMA, rows)
        write_table(folder / "per_query.parquet", PER_QUERY_SCHEMA, per_query)

    return write


TOYS: dict[str, Callable[[Path], None]] = {
    "toy images": toy_images,
    "toy album": toy_album,
    "toy pairs": toy_pairs,
    "toy pictures": toy_pictures,
    "toy tars": toy_tars,
    "toy embeddings": toy_embeddings,
    "toy scores of one": toy_scores("one", 12.5),
    "toy scores of two": toy_scores("two", 25.0),
    "toy image only": toy_parts("image only", "image", "10000000", "1000"),
    "toy method": toy_parts("method", None, "11110000", "1010"),
    "toy rival": toy_parts("rival", None, "01101111", "0101"),
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
            role: [made[name] for name in given] if isinstance(given, list) else made[given]
            for role, given in case.inputs.items()
        }
        stage.check_inputs(inputs, case.name)
        made[case.name] = _filled(folder / case.name, lambda out: stage(spec, **inputs, out=out))  # noqa: B023 - called now
        given = {role: contents_of(artifact) for role, artifact in _flat(inputs)}
        rows[case.name] = {
            "stage": case.stage, "version": stage.version, "spec": json_digest(spec.literals())[:16],
            "inputs": json_digest(given)[:16], "files": contents_of(made[case.name]),
        }  # fmt: skip
    return rows


def contents_of(artifact: Artifact) -> dict[str, str]:
    """File -> a digest of what it says. Parquet is taken by its rows: its bytes also name the library's version."""
    return {name: _contents(artifact.path(name)) for name in artifact.files()}


def _contents(path: Path) -> str:
    if path.suffix != ".parquet":
        return sha256(path.read_bytes()).hexdigest()[:16]
    table = pq.read_table(path, partitioning=None)
    return json_digest([str(table.schema.remove_metadata()), json.loads(canonical_json(table.to_pylist()))])[:16]


def _filled(folder: Path, write: Callable[[Path], Any]) -> Artifact:
    folder.mkdir()
    write(folder)
    remove_scratch_files(folder)
    return Artifact.of_folder(folder)


def _flat(inputs: dict[str, Any]) -> list[tuple[str, Artifact]]:
    from zscir.pipeline.stage import flatten_inputs

    return list(flatten_inputs(inputs).items())


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
        name for name in {**recorded["files"], **now["files"]} if recorded["files"].get(name) != now["files"].get(name)
    )
    stage = now["stage"]
    return (
        f"{name}: stage {stage} makes something else of the same inputs ({', '.join(files)}) and is still version "
        f"{now['version']}: stores that hold its artifacts would go on using them.\nIf that is meant, raise the "
        f"version in zscir/stages/{stage}.py and {again}.\nIf it is not, this change broke the stage."
    )
