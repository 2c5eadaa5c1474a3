"""Every golden case, on the real annotation files: hits equal, percentages to 1e-9."""

import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from zscir.benchmarks import Benchmark, load_benchmark, percent32
from zscir.benchmarks.circo import Circo
from zscir.benchmarks.intervals import mean_metric_values

Golden = Callable[[str], Any]
CATEGORIES = ("dress", "shirt", "toptee")
TASKS = ("focus_attribute", "change_attribute", "focus_object", "change_object")


def planted(recipes: ModuleType, bench: Benchmark, seed: int, alpha: float, beta: float) -> tuple[Any, Any]:
    column = {image_id: i for i, image_id in enumerate(bench.gallery)}
    targets = [[column[query.targets[0]]] for query in bench.queries]
    references = [column[query.reference] for query in bench.queries]
    gallery, queries = recipes.planted(seed, len(bench.gallery), targets, references, 32, alpha, beta)
    return queries, gallery


def assert_exact(measures: Sequence[Any], exact: dict[str, Any], printed: dict[str, float]) -> None:
    assert {metric.name for metric in measures} == exact.keys()
    for one in measures:
        expected = exact[one.name]
        assert (one.hits, one.n) == (expected["hits"], expected["n"])
        assert one.percent == pytest.approx(expected["percent"], abs=1e-9)
        if one.name in printed:
            assert percent32(one.hits, one.n) == printed[one.name]


@pytest.mark.parametrize("category", CATEGORIES)
def test_fashioniq_hits_are_those_of_five_public_evaluators(
    shared: Path, recipes: ModuleType, golden: Golden, category: str
) -> None:
    case = golden("fiq_planted")
    bench = load_benchmark("fashioniq", shared / "annotations/FashionIQ", split="val", category=category)
    queries, gallery = planted(recipes, bench, case["recipe"]["seed"][category], 0.5, 0.5)
    assert_exact(
        bench.metric_values_from_features(queries, gallery), case["exact"][category], case["expected"][category]
    )


@pytest.mark.parametrize("category", CATEGORIES)
@pytest.mark.parametrize("protocol", ["val", "pli"])
def test_fashioniq_gallery_protocols_give_their_own_golden_numbers(
    shared: Path, recipes: ModuleType, golden: Golden, category: str, protocol: str
) -> None:
    case = golden("fiq_planted")
    root = shared / "annotations/FashionIQ"
    whole = load_benchmark("fashioniq", root, category=category)
    queries, gallery = planted(recipes, whole, case["recipe"]["seed"][category], 0.5, 0.5)
    bench = load_benchmark("fashioniq", root, category=category, protocol=protocol)
    cut = gallery[[whole.gallery.index(image_id) for image_id in bench.gallery]]
    assert len(bench.gallery) == case["val_union_protocol"][category]["gallery_size"]
    exact = case["val_union_protocol"][category]["exact"]
    expected = case["pli_val_union_reference_suppressed"][category]
    if protocol == "val":
        expected = {metric: found["percent"] for metric, found in exact.items()}
    scores = bench.score_features(queries, cut)
    assert {metric: scores[metric] for metric in expected} == pytest.approx(expected, abs=1e-9)


def test_fashioniq_mean_over_categories(shared: Path, recipes: ModuleType, golden: Golden) -> None:
    case = golden("fiq_planted")
    printed: dict[str, list[float]] = {"R@10": [], "R@50": []}
    for category in CATEGORIES:
        bench = load_benchmark("fashioniq", shared / "annotations", category=category)
        queries, gallery = planted(recipes, bench, case["recipe"]["seed"][category], 0.5, 0.5)
        for one in bench.metric_values_from_features(queries, gallery):
            if one.name in printed:
                printed[one.name].append(percent32(one.hits or 0, one.n))
    for metric, values in printed.items():
        assert np.mean(values) == pytest.approx(case["expected_average"][f"average {metric}"], abs=1e-9)


def test_one_caption_order_scores_otherwise_than_the_average_of_both(shared: Path, recipes: ModuleType) -> None:
    bench = load_benchmark("fashioniq", shared / "annotations", category="dress")
    gallery = recipes.fiq_caption_gallery("dress", 11, 32)
    orders = []
    for slot in (0, 1):
        rows = zip(bench.texts("searle"), bench.queries, strict=True)
        made = np.stack([recipes.fake_composed(texts[slot], query.reference, 32) for texts, query in rows])
        orders.append(made / np.linalg.norm(made, axis=1, keepdims=True))
    forward, backward, both = (bench.score_features(q, gallery)["R@10"] for q in (*orders, orders[0] + orders[1]))
    assert len({forward, backward, both}) == 3


def test_cirr_hits_are_those_of_five_public_evaluators(shared: Path, recipes: ModuleType, golden: Golden) -> None:
    case = golden("cirr_val_planted")
    bench = load_benchmark("cirr", shared / "annotations/CIRR", split="val")
    queries, gallery = planted(recipes, bench, 5000, 0.7, 1.0)
    measures = bench.metric_values_from_features(queries, gallery)
    assert_exact(measures, case["exact"], case["expected"])
    by_name = {one.name: one for one in measures}
    mean = mean_metric_values("mean", [by_name["R@5"], by_name["Rsub@1"]])
    assert mean.percent == pytest.approx(case["average_R5_Rsub1"], abs=1e-6)  # the golden one averages float32 prints
    wrong = case["wrong_if_reference_kept"]
    assert all(abs(by_name[metric].percent - value) > 0.1 for metric, value in wrong.items() if "@" in metric)


def test_a_torch_device_gives_the_golden_hits_too(shared: Path, recipes: ModuleType, golden: Golden) -> None:
    import torch

    from zscir.evaluation.gpu_ranking import device_scorer

    scorer = device_scorer(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    case = golden("cirr_val_planted")
    bench = load_benchmark("cirr", shared / "annotations/CIRR", split="val")
    measures = bench.metric_values_from_features(*planted(recipes, bench, 5000, 0.7, 1.0), scorer)
    assert_exact(measures, case["exact"], case["expected"])
    case = golden("fiq_planted")
    bench = load_benchmark("fashioniq", shared / "annotations/FashionIQ", split="val", category="shirt")
    measures = bench.metric_values_from_features(
        *planted(recipes, bench, case["recipe"]["seed"]["shirt"], 0.5, 0.5), scorer
    )
    assert_exact(measures, case["exact"]["shirt"], case["expected"]["shirt"])


def test_cirr_soft_labels_are_cirplants(shared: Path, recipes: ModuleType, golden: Golden) -> None:
    expected = golden("cirr_val_planted")["cirplant_soft_fraction"]
    bench = load_benchmark("cirr", shared / "annotations/CIRR", split="val", protocol="soft")
    scores = bench.score_features(*planted(recipes, bench, 5000, 0.7, 1.0))
    assert len(scores) == 9
    for metric, percent in scores.items():
        assert percent / 100 == pytest.approx(expected[metric], abs=1e-9)


@pytest.mark.parametrize(
    ("case", "cut"),
    [
        ("expected_official", 50),
        ("expected_official_lists_cut_to_20", 20),
        ("expected_official_of_submission_examples_submission_val_json", None),
    ],
)
def test_circo_prediction_lists_score_as_on_the_server(
    shared: Path, recipes: ModuleType, golden: Golden, case: str, cut: int | None
) -> None:
    bench = load_benchmark("circo", shared / "annotations/CIRCO", split="val")
    assert isinstance(bench, Circo)
    if cut is None:
        example = shared / "annotations/CIRCO/submission_examples/submission_val.json"
        predictions = json.loads(example.read_text())
    else:
        predictions = {key: row[:cut] for key, row in recipes.circo_predictions(51).items()}
    expected = dict(golden("circo_val_predictions")[case])
    aspects = expected.pop("semantic_mAP@10")
    expected.update({f"semantic_mAP@10/{aspect}": value for aspect, value in aspects.items()})
    scores = bench.score_predictions(predictions)
    assert {metric: percent / 100 for metric, percent in scores.items()} == pytest.approx(expected, abs=1e-11)


def test_circo_lists_and_scores_of_the_same_ranking_agree(shared: Path, recipes: ModuleType) -> None:
    ids = recipes.circo_small_gallery_ids()
    bench = load_benchmark("circo", shared / "annotations/CIRCO", split="val", gallery_ids=ids)
    assert isinstance(bench, Circo)
    column = {image_id: i for i, image_id in enumerate(bench.gallery)}
    targets = [column[query.targets[0]] for query in bench.queries]
    references = [column[query.reference] for query in bench.queries]
    for scores in (
        recipes.exact_scores(7, len(ids), targets, references, 11),
        recipes.tied_scores(8, len(ids), targets, references),
    ):
        order = np.argsort(-scores, axis=1, kind="stable")[:, :50]
        lists = {query.query_id: [ids[c] for c in order[i]] for i, query in enumerate(bench.queries)}
        assert bench.score(scores) == bench.score_predictions(lists)
        assert bench.submission(scores)["circo_val.json"] == lists


@pytest.mark.parametrize("task", TASKS)
def test_genecis_scores_are_those_of_the_official_code(
    shared: Path, recipes: ModuleType, golden: Golden, task: str
) -> None:
    case = golden("genecis_planted")
    bench = load_benchmark("genecis", shared / "annotations/GeneCIS", task=task)
    features, condition = recipes.genecis_features(task, case["recipe"]["seed"][task], 32)
    features[:, 1] -= np.float32(0.3) * (features[:, 0] + condition)
    half = np.float32(0.5)
    candidates = features[:, 1:]
    measures = bench.metric_values_from_features(half * features[:, 0] + half * condition, candidates)
    assert_exact(measures, case["exact"][task], {})
    assert {one.name: one.percent for one in measures} == pytest.approx(case["expected"][task], abs=1e-9)
    modes = case["expected_other_modes"][task]
    assert bench.score_features(condition, candidates) == pytest.approx(modes["text_only"], abs=1e-9)
    assert bench.score_features(features[:, 0], candidates) == pytest.approx(modes["image_only"], abs=1e-9)


@pytest.mark.parametrize("task", TASKS)
def test_genecis_regions_that_repeat_tie_exactly_and_the_target_wins(
    shared: Path, recipes: ModuleType, task: str
) -> None:
    bench = load_benchmark("genecis", shared / "annotations/GeneCIS", task=task)
    features, condition = recipes.genecis_region_features(task, 33)
    unit = features[:, 1:].astype(np.float64)
    unit /= np.linalg.norm(unit, axis=2, keepdims=True)
    exact = np.einsum("qd,qcd->qc", condition / np.linalg.norm(condition, axis=1, keepdims=True), unit)
    ahead = (exact[:, 1:] > exact[:, :1] + 1e-9).sum(axis=1)  # a copy of the target is no better than the target
    scores = bench.score_features(condition, features[:, 1:])
    assert scores == {f"R@{cut}": 100.0 * int((ahead < cut).sum()) / len(ahead) for cut in (1, 2, 3)}


TEXTS = [
    *((f"fiq.{c}.SEARLE.forward", "fashioniq", c, "val", "searle", 0) for c in CATEGORIES),
    *((f"fiq.{c}.SEARLE.reversed", "fashioniq", c, "val", "searle", 1) for c in CATEGORIES),
    *((f"fiq.{c}.CLIP4Cir", "fashioniq", c, "val", "clip4cir", 0) for c in CATEGORIES),
    *((f"fiq.{c}.Pic2Word", "fashioniq", c, "val", "pic2word", 0) for c in CATEGORIES),
    *((f"fiq.{c}.CIReVL.instruction", "fashioniq", c, "val", "cirevl", 0) for c in CATEGORIES),
    ("cirr.val.SEARLE", "cirr", "", "val", "searle", 0),
    ("cirr.val.Pic2Word", "cirr", "", "val", "pic2word", 0),
    ("circo.val.SEARLE", "circo", "", "val", "searle", 0),
    ("circo.test.MagicLens", "circo", "", "test", "shared_concept", 0),
    *((f"genecis.{t}.condition", "genecis", t, "val", "raw", 0) for t in TASKS),
]


@pytest.mark.parametrize(("case", "name", "part", "split", "protocol", "slot"), TEXTS, ids=[row[0] for row in TEXTS])
def test_query_texts_are_the_strings_captured_from_public_code(
    shared: Path, golden: Golden, case: str, name: str, part: str, split: str, protocol: str, slot: int
) -> None:
    own = {"fashioniq": {"category": part}, "genecis": {"task": part}}.get(name, {})
    bench = load_benchmark(name, shared / "annotations", split=split, **own)  # type: ignore[arg-type]
    strings = [row[slot] for row in bench.texts(protocol)]
    expected = golden("query_texts")["texts"][case]
    assert strings[:3] == expected["first"]
    assert len(strings) == expected["n"]
    assert sha256("\n".join(strings).encode()).hexdigest() == expected["sha256_of_newline_joined"]


def test_the_official_cirr_demo_submission_passes_the_checks(shared: Path) -> None:
    from zscir.benchmarks.submission import check_cirr

    bench = load_benchmark("cirr", shared / "annotations/CIRR", split="test1")
    for name in ("test1_pred_ranks_recall", "test1_pred_ranks_recall_subset"):
        content = json.loads((shared / f"annotations/CIRR/demo_files/{name}.json").read_text())
        check_cirr(content, bench.queries, bench.gallery)


def test_cirr_test_submission_has_every_pair_and_no_reference(shared: Path) -> None:
    bench = load_benchmark("cirr", shared / "annotations/CIRR", split="test1")
    scores = np.random.default_rng(3).random((4148, 2315), dtype=np.float32)
    files = bench.submission(scores)
    assert sorted(files) == ["cirr_test1_recall.json", "cirr_test1_recall_subset.json"]
    for query in bench.queries[:50]:
        listed = files["cirr_test1_recall.json"][query.query_id]
        assert len(set(listed)) == 50
        assert query.reference not in listed
        assert set(files["cirr_test1_recall_subset.json"][query.query_id]) < set(query.subset)
