"""CIRCO and GeneCIS of the tabletop world keep the invariants of the official annotation files."""

import json
from io import BytesIO

import pytest
from PIL import Image

from tests.tabletop import truths
from tests.tabletop.worlds import TASKS, load, scenes
from zscir.runtime.schemas import read_rows
from zscir.stages.tabletop_benchmarks import IMAGE_INDEX
from zscir.tabletop.spec import TabletopBenchmarksSpec
from zscir.tabletop.write_circo import build_circo

ASPECTS = {
    "cardinality", "addition", "negation", "direct_addressing", "compare_change", "comparative_statement",
    "statement_with_conjunction", "spatial_relations_background", "viewpoint",
}  # fmt: skip


# CIRCO


def test_circo_ground_truths_are_one_to_six_and_never_the_reference(folder):
    queries = load(folder / "circo/annotations/val.json")
    images = load(folder / "circo/image_info.json")["images"]
    ids = {image["id"] for image in images}
    assert len(ids) == len(images) == 300
    assert all(image["file_name"] == f"{image['id']:012d}.jpg" for image in images)
    assert [query["id"] for query in queries] == list(range(30))
    for query in queries:
        assert set(query) == {
            "reference_img_id", "target_img_id", "relative_caption", "shared_concept", "gt_img_ids", "id",
            "semantic_aspects",
        }  # fmt: skip
        truth = query["gt_img_ids"]
        assert 1 <= len(truth) == len(set(truth)) <= 6
        assert truth[0] == query["target_img_id"]
        assert query["reference_img_id"] not in truth
        assert {*truth, query["reference_img_id"]} <= ids
        assert query["semantic_aspects"]
        assert set(query["semantic_aspects"]) <= ASPECTS
    assert max(len(query["gt_img_ids"]) for query in queries) > 1


def test_circo_test_split_holds_no_answers(folder):
    queries = load(folder / "circo/annotations/test.json")
    assert [query["id"] for query in queries] == list(range(5))
    for query in queries:
        assert set(query) == {"reference_img_id", "relative_caption", "shared_concept", "id"}


def test_circo_shared_concept_and_caption_hold_of_every_ground_truth(built):
    benchmark = built["circo"]
    scene_of = {int(name): scene for name, scene in scenes(benchmark).items()}
    for query in benchmark.annotations["annotations/val.json"]:
        reference = scene_of[query["reference_img_id"]]
        for image_id in query["gt_img_ids"]:
            scene = scene_of[image_id]
            assert all(truths.shows(scene, phrase) for phrase in truths.phrases(query["shared_concept"]))
            text = truths.canonical(query["relative_caption"])
            if "negation" in query["semantic_aspects"]:
                (gone,) = truths.phrases(text)
                assert truths.shows(reference, gone)
                assert not truths.shows(scene, gone)
            elif "cardinality" in query["semantic_aspects"]:
                count = next(n for word, n in truths.COUNTS.items() if word in text.split())
                assert len(scene.things) == count != len(reference.things)
            elif "viewpoint" not in query["semantic_aspects"]:
                assert all(truths.shows(scene, phrase) for phrase in truths.phrases(text))
            for ground in truths.grounds(text)[:1]:
                assert scene.ground == ground


def test_circo_has_every_semantic_aspect_at_its_usual_size():
    queries = build_circo(TabletopBenchmarksSpec()).annotations["annotations/val.json"]
    assert {aspect for query in queries for aspect in query["semantic_aspects"]} == ASPECTS


# GeneCIS


@pytest.mark.parametrize(("task", "listed"), [*zip(TASKS, (9, 14, 14, 14), strict=True)])
def test_genecis_queries_have_a_gallery_of_their_own(folder, task, listed):
    queries = load(folder / f"genecis/{task}.json")
    members = {row["member"]: row["image_id"] for row in read_rows(folder / "genecis/images.parquet", IMAGE_INDEX)}
    assert len(queries) == 12
    for query in queries:
        assert set(query) == {"condition", "reference", "target", "gallery"}
        assert len(query["gallery"]) == listed
        keys = [json.dumps(item) for item in (query["reference"], query["target"], *query["gallery"])]
        assert len(set(keys)) == len(keys)
        for item in (query["reference"], query["target"], *query["gallery"]):
            if task.endswith("attribute"):
                assert set(item) == {"image_id", "instance_bbox"}
                assert members[f"vg/{item['image_id']}.jpg"] == item["image_id"]
            else:
                assert set(item) == {"val_image_id"}
                assert members[f"coco/{item['val_image_id']:012d}.jpg"] == str(item["val_image_id"])


def test_genecis_boxes_lie_inside_their_pictures(folder):
    rows = {row["image_id"]: row for row in read_rows(folder / "genecis/images.parquet", IMAGE_INDEX)}
    data = (folder / "genecis/images.tar").read_bytes()
    for query in load(folder / "genecis/change_attribute.json"):
        row = rows[query["target"]["image_id"]]
        width, height = Image.open(BytesIO(data[row["offset"] : row["offset"] + row["size"]])).size
        x, y, w, h = query["target"]["instance_bbox"]
        assert 0 <= x < x + w <= width
        assert 0 <= y < y + h <= height
        assert min(w, h) > 5


@pytest.mark.parametrize("task", ["focus_object", "change_object"])
def test_genecis_target_shows_the_object_and_no_listed_scene_answers(built, task):
    benchmark = built["genecis"]
    scene_of = scenes(benchmark)
    for query in benchmark.annotations[f"{task}.json"]:
        reference, target = (scene_of[str(query[role]["val_image_id"])] for role in ("reference", "target"))
        shape = query["condition"]
        assert truths.shows(target, {"shape": shape})
        listed = [scene_of[str(item["val_image_id"])] for item in query["gallery"]]
        if task == "focus_object":
            (named,) = [thing for thing in reference.things if thing.shape == shape]
            assert all(named.kind not in {thing.kind for thing in scene.things} for scene in listed)
        else:
            assert set(reference.things) < set(target.things)
            assert not any(truths.shows(scene, {"shape": shape}) and set(reference.things) <= set(scene.things)
                           for scene in listed)  # fmt: skip
            assert any(truths.shows(scene, {"shape": shape}) for scene in listed)
