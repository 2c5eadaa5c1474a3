"""Scores of a stage against the same numbers computed by hand from the model and ``zscir.benchmarks``."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tests.evaluation import squares
from zscir.benchmarks import load_benchmark
from zscir.benchmarks.genecis import Genecis
from zscir.benchmarks.preprocess import region_crop
from zscir.methods.checkpoint import load_method
from zscir.methods.image_squares import decode_to_square, resize_to_square
from zscir.runtime.errors import RequestError, StageError
from zscir.stages.embed_benchmarks import EmbedBenchmarksSpec, embed_benchmarks
from zscir.stages.evaluate import EvaluateSpec, evaluate
from zscir.store.artifacts import Artifact

ALL = [{"name": name} for name in ("fashioniq", "cirr", "circo", "genecis")]
CIRR = [{"name": "cirr"}]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Benchmarks, and checkpoints of a clip, a pli and a tscir_map."""
    folder = tmp_path_factory.mktemp("made")
    clip = squares.clip_checkpoint(folder / "clip")
    return {
        "folder": folder,
        "loose": squares.benchmarks(folder / "loose", loose=True),
        "benchmarks": Artifact.of_folder(squares.benchmarks(folder / "benchmarks")),
        "clip": clip,
        "pli": squares.pli_checkpoint(folder / "pli", clip),
        "map": squares.mapping_checkpoint(folder / "map", clip),
    }


def run(
    made: dict[str, Any], out: Path, checkpoint: str = "clip", /, inputs: Any = None, **fields: Any
) -> dict[str, Any]:
    out.mkdir(exist_ok=True)
    spec = EvaluateSpec.parse({"benchmarks": CIRR, **fields}, "test")
    given = {"checkpoint": made[checkpoint], "benchmarks": made["benchmarks"], **(inputs or {})}
    return evaluate(spec, **given, out=out)


def rows(out: Path, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(out / f"{name}.parquet").to_pylist()
    return found


def scores(out: Path) -> dict[tuple[str, str], float]:
    return {(row["benchmark"], row["metric"]): row["value"] for row in rows(out, "scores")}


def vectors(model: Any, made: dict[str, Any], name: str, members: list[str]) -> np.ndarray:
    pixels = [
        decode_to_square((made["loose"] / name / "images" / member).read_bytes(), model.pixels, member)
        for member in members
    ]
    return model.gallery(torch.from_numpy(np.stack(pixels))).numpy()


def test_a_control_sum_is_text_plus_weighted_image(made: dict[str, Any], tmp_path: Path) -> None:
    facts = run(made, tmp_path / "o", control="sum", weight=0.5)
    model, bench = load_method(made["clip"]), load_benchmark("cirr", made["folder"] / "benchmarks")
    shown = vectors(model, made, "cirr", [f"{name}.png" for name in bench.gallery])
    references = shown[[bench.gallery.index(query.reference) for query in bench.queries]]
    texts = model.embed_texts([row[0] for row in bench.texts("pli")]).numpy()  # type: ignore[union-attr]
    expected = bench.score_features(texts + 0.5 * references, shown)
    found = scores(tmp_path / "o")
    assert {metric: found["cirr", metric] for metric in expected} == expected
    assert found["cirr", "mean(R@5,Rsub@1)"] == pytest.approx((expected["R@5"] + expected["Rsub@1"]) / 2)
    assert facts == {"rows": 8, "queries": 4}
    (label,) = {(row["method"], row["backbone"], row["protocol"]) for row in rows(tmp_path / "o", "scores")}
    assert label == ("sum, lambda 0.5", "ViT 2x16/4 at 16 px", "official/pli/warp")


def test_both_caption_orders_are_averaged_as_unit_vectors(made: dict[str, Any], tmp_path: Path) -> None:
    run(made, tmp_path / "o", benchmarks=[{"name": "fashioniq", "texts": "searle"}], control="text")
    model = load_method(made["clip"])
    found = scores(tmp_path / "o")
    means = []
    for category in ("dress", "shirt", "toptee"):
        bench = load_benchmark("fashioniq", made["folder"] / "benchmarks", category=category)
        shown = vectors(model, made, "fashioniq", [f"{name}.png" for name in bench.gallery])
        orders = [model.embed_texts(list(texts)).numpy() for texts in zip(*bench.texts("searle"), strict=True)]  # type: ignore[union-attr]
        expected = bench.score_features(orders[0] + orders[1], shown)
        assert {metric: found[f"fashioniq/{category}", metric] for metric in expected} == expected
        means.append(expected["R@1"])
    assert found["fashioniq/mean", "R@1"] == pytest.approx(np.mean(means))


def test_a_genecis_region_is_seen_through_the_official_crop(made: dict[str, Any], tmp_path: Path) -> None:
    run(
        made,
        tmp_path / "o",
        benchmarks=[{"name": "genecis", "parts": ["focus_attribute", "focus_object"]}],
        control="image",
    )
    model = load_method(made["clip"])
    for task in ("focus_attribute", "focus_object"):
        bench = load_benchmark("genecis", made["folder"] / "benchmarks", task=task)
        assert isinstance(bench, Genecis)
        seen = {}
        for key in {*bench.gallery, *(query.reference for query in bench.queries)}:
            image_id, _, numbers = key.partition("[")
            name = f"vg/{image_id}.jpg" if numbers else f"coco/{int(image_id):012d}.jpg"
            image = Image.open(made["loose"] / "genecis/images" / name).convert("RGB")
            if numbers:
                x, y, width, height = map(float, numbers.removesuffix("]").split(","))
                image = region_crop(image, (x, y, width, height), key)
            seen[key] = resize_to_square(image, model.pixels).transpose(2, 0, 1)
        vector = {key: model.gallery(torch.from_numpy(pixels.copy())[None]).numpy()[0] for key, pixels in seen.items()}
        shown = np.stack([[vector[key] for key in row] for row in bench.candidates])
        expected = bench.score_features(np.stack([vector[query.reference] for query in bench.queries]), shown)
        found = scores(tmp_path / "o")
        assert {metric: found[f"genecis/{task}", metric] for metric in expected} == expected


def test_a_clip_checkpoint_as_a_method_is_the_sum_at_lambda_1(made: dict[str, Any], tmp_path: Path) -> None:
    benchmarks = [{"name": "cirr"}, {"name": "circo"}, {"name": "genecis"}]
    run(made, tmp_path / "a", benchmarks=benchmarks)
    run(made, tmp_path / "b", benchmarks=benchmarks, control="sum", weight=1.0)
    assert scores(tmp_path / "a") == scores(tmp_path / "b")


def test_every_benchmark_gives_rows_with_n_hits_and_intervals(made: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "o"
    run(made, out, "map", {"backbone": made["clip"]}, benchmarks=ALL)
    plain, bounded = rows(out, "scores"), rows(out, "intervals")
    assert {row["benchmark"].split("/")[0] for row in plain} == {"fashioniq", "cirr", "circo", "genecis"}
    assert {row["protocol"] for row in plain} == {"original/tscir/warp", "official/tscir/warp"}
    assert [row["value"] for row in plain] == [row["value"] for row in bounded]
    for row in bounded:
        assert row["low"] <= row["value"] + 1e-9
        assert row["value"] <= row["high"] + 1e-9
        graded = row["metric"].startswith(("mAP", "semantic", "mean"))
        assert (row["hits"] is None) == graded
        if not graded and "/mean" not in row["benchmark"]:
            assert row["value"] == pytest.approx(100 * row["hits"] / row["n"])
    assert len(rows(out, "per_query")) == sum(row["n"] for row in plain if _single(row))


def _single(row: dict[str, Any]) -> bool:
    return not row["benchmark"].endswith("/mean") and not row["metric"].startswith("mean")


def test_rankings_and_query_rows_agree(made: dict[str, Any], tmp_path: Path) -> None:
    run(made, tmp_path / "o", benchmarks=ALL, control="text")
    listed: dict[tuple[str, str], dict[str, int]] = {}
    for row in rows(tmp_path / "o", "rankings"):
        listed.setdefault((row["benchmark"], row["query_id"]), {})[row["image_id"]] = row["rank"]
    queries = rows(tmp_path / "o", "queries")
    assert len(queries) == len(listed) == 3 * 4 + 4 + 4 + 4 * 3
    for row in queries:
        ranks = listed[row["benchmark"], row["query_id"]]
        targets = json.loads(row["targets"])
        assert row["target_rank"] == ranks[targets[0]]
        assert row["best_rank"] == min(ranks[target] for target in targets)
        if row["benchmark"] == "cirr":
            assert row["reference"] not in ranks
            assert 1 <= row["reference_rank"] <= 9
    hits = sum(row["target_rank"] == 1 for row in queries if row["benchmark"] == "cirr")
    assert scores(tmp_path / "o")["cirr", "R@1"] == 25 * hits


def test_the_weight_is_tuned_on_other_benchmarks_and_the_grid_is_kept(made: dict[str, Any], tmp_path: Path) -> None:
    grid = [0.0, 0.25, 1.0, 4.0]
    validation = Artifact.of_folder(squares.benchmarks(tmp_path / "validation", seed=9))
    facts = run(made, tmp_path / "o", inputs={"validation": validation}, control="sum", weights=grid)
    tried = []
    for weight in grid:
        run({**made, "benchmarks": validation}, tmp_path / f"w{weight}", control="sum", weight=weight)
        tried.append(scores(tmp_path / f"w{weight}")["cirr", "R@1"])
    curve = rows(tmp_path / "o", "curve")
    assert [row["value"] for row in curve if row["name"] == "lambda"] == grid
    assert [row["value"] for row in curve if row["name"] == "validation cirr R@1 (official/pli/warp)"] == tried
    best = grid[int(np.argmax(tried))]
    assert facts["lambda"] == best
    assert facts["validation R@1 by lambda"] == json.dumps({f"{w:g}": v for w, v in zip(grid, tried, strict=True)})
    run(made, tmp_path / "direct", control="sum", weight=best)
    assert scores(tmp_path / "o") == scores(tmp_path / "direct")
    assert rows(tmp_path / "o", "scores")[0]["method"] == f"sum, lambda {best:g} (tuned)"


def test_the_grid_is_kept_of_every_benchmark_that_is_in_the_spec_and_validated(
    made: dict[str, Any], tmp_path: Path
) -> None:
    folder = squares.benchmarks(tmp_path / "validation", seed=9)
    validation = Artifact.of_folder(folder)
    fields: dict[str, Any] = {"benchmarks": ALL, "control": "sum", "weights": [0.0, 1.0, 4.0]}
    run(made, tmp_path / "o", inputs={"validation": validation}, **fields)
    curve: dict[str, list[float]] = {}
    for row in rows(tmp_path / "o", "curve"):
        curve.setdefault(row["name"], []).append(row["value"])
    named = {
        ("fashioniq/mean", "R@10"): "original", ("cirr", "R@1"): "official", ("circo", "mAP@5"): "official",
        ("genecis/mean", "R@1"): "official",
    }  # fmt: skip
    assert list(curve)[:2] == ["lambda", "validation cirr R@1 (official/pli/warp)"]
    assert len(curve) == 5
    for number, weight in enumerate(fields["weights"]):
        out = tmp_path / f"w{weight}"
        run({**made, "benchmarks": validation}, out, benchmarks=ALL, control="sum", weight=weight)
        for (benchmark, metric), ranking in named.items():
            found = curve[f"validation {benchmark} {metric} ({ranking}/pli/warp)"][number]
            assert found == pytest.approx(scores(out)[benchmark, metric], abs=1e-12)
    shutil.rmtree(folder / "genecis")
    few = {**fields, "benchmarks": [{"name": "fashioniq", "parts": ["shirt"]}, {"name": "genecis"}]}
    run(made, tmp_path / "p", inputs={"validation": Artifact.of_folder(folder)}, **few)
    names = {row["name"] for row in rows(tmp_path / "p", "curve")}
    texts = "official/pli/warp"
    assert names == {"lambda", f"validation cirr R@1 ({texts})", "validation fashioniq/shirt R@10 (original/pli/warp)"}


def test_rows_say_which_control_they_are_and_trained_towers_are_none(made: dict[str, Any], tmp_path: Path) -> None:
    runs: dict[str, tuple[str, dict[str, Any]]] = {
        "image": ("clip", {"control": "image"}),
        "text": ("clip", {"control": "text", "method": "my own name"}),
        "sum": ("clip", {"control": "sum", "weight": 1.0}),
        "none": ("clip", {}),
        "tuned": ("pli", {"control": "sum", "weight": 1.0}),
    }
    found = {}
    for name, (checkpoint, more) in runs.items():
        run(made, tmp_path / name, checkpoint, **more)
        (found[name],) = {row["control"] for row in rows(tmp_path / name, "intervals")}
    assert found == {"image": "image", "text": "text", "sum": "sum", "none": None, "tuned": None}


def test_the_breakdown_by_aspect_is_the_official_metric(made: dict[str, Any], tmp_path: Path) -> None:
    run(made, tmp_path / "o", benchmarks=ALL, control="text")
    official = {row["metric"]: row for row in rows(tmp_path / "o", "intervals") if "semantic" in row["metric"]}
    broken = rows(tmp_path / "o", "breakdown")
    aspects = [row for row in broken if row["by"] == "aspect"]
    assert {f"semantic_mAP@10/{row['group']}" for row in aspects} == official.keys()
    for row in aspects:
        twin = official[f"semantic_mAP@10/{row['group']}"]
        assert (row["value"], row["n"], row["protocol"]) == (pytest.approx(twin["value"]), twin["n"], twin["protocol"])
    together = [row for row in broken if row["benchmark"] == "fashioniq/all" and row["by"] == "reference"]
    firsts = [row["reference_rank"] == 1 for row in rows(tmp_path / "o", "queries") if "fashioniq" in row["benchmark"]]
    assert sum(row["n"] for row in together) == len(firsts) == 12
    assert sum(row["n"] for row in together if row["group"] == "reference first") == sum(firsts)


def test_a_tuned_pli_can_be_scored_on_the_same_grid(made: dict[str, Any], tmp_path: Path) -> None:
    run(made, tmp_path / "o", "pli", control="sum", weight=0.25)
    run(made, tmp_path / "p", "pli")
    assert scores(tmp_path / "o") == scores(tmp_path / "p")  # PLI's own lambda is 0.25
    assert rows(tmp_path / "o", "scores")[0]["method"] == "pli: sum, lambda 0.25"


def test_a_gallery_embedded_once_serves_all_methods_of_a_backbone(made: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "gallery").mkdir()
    facts = embed_benchmarks(
        EmbedBenchmarksSpec(), backbone=made["clip"], benchmarks=made["benchmarks"], out=tmp_path / "gallery"
    )
    assert facts == {"rows": 24 + 9 + 9 + 10, "fashioniq": 24, "cirr": 9, "circo": 9, "genecis": 10}
    gallery = Artifact.of_folder(tmp_path / "gallery")
    for number, (checkpoint, more) in enumerate([("clip", {}), ("map", {"backbone": made["clip"]})]):
        run(made, tmp_path / f"a{number}", checkpoint, more, benchmarks=ALL)
        run(made, tmp_path / f"b{number}", checkpoint, {**more, "gallery": gallery}, benchmarks=ALL)
        assert scores(tmp_path / f"a{number}") == scores(tmp_path / f"b{number}")
    with pytest.raises(RequestError, match="embedded with other weights, pixels or images"):
        run(made, tmp_path / "c", inputs={"gallery": gallery}, preprocessing="targetpad")
    other = {**made, "other": squares.clip_checkpoint(tmp_path / "other", seed=5)}
    with pytest.raises(RequestError, match="embedded with other weights, pixels or images"):
        run(other, tmp_path / "d", "other", {"gallery": gallery})


def test_preprocessing_by_name_changes_pixels_and_label(made: dict[str, Any], tmp_path: Path) -> None:
    for name in ("clip", "targetpad"):
        run(made, tmp_path / name, control="image", preprocessing=name)
        assert rows(tmp_path / name, "scores")[0]["protocol"] == f"official/none/{name}"
    assert rows(tmp_path / "clip", "rankings") != rows(tmp_path / "targetpad", "rankings")


def test_a_split_without_answers_gives_submission_files(made: dict[str, Any], tmp_path: Path) -> None:
    entries = [{"name": "cirr", "split": "test1"}, {"name": "circo", "split": "test"}]
    facts = run(made, tmp_path / "o", benchmarks=entries, control="text")
    assert facts == {"rows": 0, "queries": 8}
    names = sorted(path.name for path in (tmp_path / "o/submissions").iterdir())
    assert names == ["circo_test.json", "cirr_test1_recall.json", "cirr_test1_recall_subset.json"]
    best = [
        row["image_id"]
        for row in rows(tmp_path / "o", "rankings")
        if row["benchmark"] == "circo" and row["query_id"] == "2"
    ]
    assert json.loads((tmp_path / "o/submissions/circo_test.json").read_text())["2"] == [int(name) for name in best]


def test_loose_images_score_as_those_in_a_tar(made: dict[str, Any], tmp_path: Path) -> None:
    loose = Artifact.of_folder(squares.benchmarks(tmp_path / "loose", loose=True))
    run(made, tmp_path / "a", benchmarks=ALL)
    run(made, tmp_path / "b", inputs={"benchmarks": loose}, benchmarks=ALL)
    assert rows(tmp_path / "a", "rankings") == rows(tmp_path / "b", "rankings")


def test_the_same_evaluation_gives_the_same_bytes(made: dict[str, Any], tmp_path: Path) -> None:
    for name in ("a", "b"):
        run(made, tmp_path / name, benchmarks=ALL, control="sum", weight=0.25)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    names = ("breakdown", "intervals", "per_query", "queries", "rankings", "scores")
    assert files == [f"{name}.parquet" for name in names]
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)


def spoilt(made: dict[str, Any], folder: Path, *bad: str, broken: bytes | None) -> Artifact:
    """Loose benchmarks where some of CIRR's images are missing, or hold other bytes."""
    squares.benchmarks(folder, loose=True)
    for name in bad:
        path = folder / "cirr/images" / name
        path.unlink() if broken is None else path.write_bytes(broken)
    return Artifact.of_folder(folder)


def test_missing_images_are_listed(made: dict[str, Any], tmp_path: Path) -> None:
    gone = spoilt(made, tmp_path / "x", "dev-3.png", "dev-8.png", broken=None)
    words = r"cirr: 2 of 9 images are missing .*none may be.*: dev-3 \(missing\), dev-8 \(missing\)\. data_specs"
    with pytest.raises(StageError, match=words):
        run(made, tmp_path / "o", inputs={"benchmarks": gone}, control="text")


def test_unreadable_images_are_listed_all_at_once(made: dict[str, Any], tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (9000, 9000)).save(stream, "PNG")  # unfolds beyond the pixel limit
    for number, data in enumerate([b"<html>not found</html>", squares.picture(3)[:200], stream.getvalue()]):
        bad = spoilt(made, tmp_path / f"x{number}", "dev-3.png", "dev-8.png", broken=data)
        with pytest.raises(StageError, match=r"cirr: 2 of 9 images .*dev-3 \(.*dev-8 \("):
            run(made, tmp_path / "o", inputs={"benchmarks": bad}, control="text")


def test_images_that_may_be_missing_are_counted_in_the_protocol_and_shrink_n(
    made: dict[str, Any], tmp_path: Path
) -> None:
    bad = spoilt(made, tmp_path / "x", "dev-4.png", "dev-8.png", broken=b"nothing")
    entries = [{"name": "cirr", "allow_missing": 2}]
    for number, (checkpoint, more) in enumerate([("clip", {}), ("map", {"backbone": made["clip"]})]):
        out = tmp_path / f"o{number}"
        run(made, out, checkpoint, {"benchmarks": bad, **more}, benchmarks=entries)
        (protocol,) = {row["protocol"].split("/")[0] for row in rows(out, "scores")}
        assert protocol == "official without 2 images"
        assert {row["n"] for row in rows(out, "scores")} == {3}  # dev-4 is the fourth query's target
        assert {row["allow_missing"] for row in rows(out, "intervals")} == {2}
        assert len(rows(out, "rankings")) == 3 * 6
    with pytest.raises(StageError, match=r"2 of 9 images .* 1 may be missing"):
        run(made, tmp_path / "p", inputs={"benchmarks": bad}, benchmarks=[{"name": "cirr", "allow_missing": 1}])


def test_altered_annotation_files_are_refused_when_checksums_are_given(made: dict[str, Any], tmp_path: Path) -> None:
    entries = [{"name": "cirr", "sha256": {"captions/cap.rc2.val.json": "0" * 64}}]
    with pytest.raises(RequestError, match="1 annotation files were altered"):
        run(made, tmp_path / "o", benchmarks=entries, control="text")


def test_a_benchmark_that_is_not_there_is_named(made: dict[str, Any], tmp_path: Path) -> None:
    only = Artifact.of_folder(shutil.copytree(made["folder"] / "benchmarks/circo", tmp_path / "x/circo").parent)
    with pytest.raises(RequestError, match="the benchmarks hold no cirr"):
        run(made, tmp_path / "o", inputs={"benchmarks": only}, control="text")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"control": "sum"}, "takes either weight or weights"),
        ({"control": "sum", "weight": 1.0, "weights": [1.0]}, "takes either weight or weights"),
        ({"control": "text", "weight": 1.0}, "takes either weight or weights"),
        ({"weights": [1.0]}, "takes either weight or weights"),
        ({"control": "sum", "weight": -1.0}, "weight"),
        ({"benchmarks": []}, "benchmarks"),
        ({"benchmarks": [{"name": "cirr"}, {"name": "cirr", "protocol": "soft"}]}, "may come once"),
        ({"benchmarks": [{"name": "flickr"}]}, "flickr"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        EvaluateSpec.parse({"benchmarks": CIRR, **fields}, "test")


def test_a_grid_needs_a_validation_input_and_a_control_needs_towers(made: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="belong together"):
        run(made, tmp_path / "o", control="sum", weights=[1.0])
    with pytest.raises(RequestError, match="must be a clip or pli checkpoint"):
        run(made, tmp_path / "o", "map", control="text")
    with pytest.raises(RequestError, match="give its backbone"):
        run(made, tmp_path / "o", "map")
