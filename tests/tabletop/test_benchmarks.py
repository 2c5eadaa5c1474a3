"""The benchmark artifact is stable, readable and apart from the web; FashionIQ and CIRR keep official invariants."""

from io import BytesIO

import pytest
from PIL import Image

from tests.tabletop import truths
from tests.tabletop.worlds import BUILDERS, CATEGORIES, SPEC, TASKS, load, scenes
from zscir.benchmarks import load_benchmark
from zscir.runtime.errors import RequestError
from zscir.runtime.schemas import read_rows
from zscir.runtime.specs import json_digest
from zscir.stages.tabletop_benchmarks import IMAGE_INDEX, tabletop_benchmarks
from zscir.tabletop.scenes import held_out
from zscir.tabletop.spec import TabletopBenchmarksSpec, TabletopSpec
from zscir.tabletop.web import web_scene
from zscir.tabletop.write_cirr import build_cirr


def test_equal_specs_give_equal_bytes_and_another_seed_gives_other_benchmarks(folder, tmp_path):
    tabletop_benchmarks(SPEC, out=tmp_path)
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert all((folder / name).read_bytes() == (tmp_path / name).read_bytes() for name in names)
    other = build_cirr(SPEC.model_copy(update={"seed": 2}))
    assert other.annotations["captions/cap.rc2.val.json"] != load(folder / "cirr/captions/cap.rc2.val.json")


def test_the_benchmarks_have_not_changed(built):
    """A golden digest: whoever changes a query or a picture must raise the stage's version."""
    contents = [
        [name, benchmark.annotations, [[e.member, e.scene.key] for e in benchmark.images]]
        for name, benchmark in built.items()
    ]
    assert json_digest(contents)[:16] == "b14aa6031cdcb29b"


@pytest.mark.parametrize("name", BUILDERS)
def test_every_picture_lies_where_the_index_says(folder, name):
    rows = read_rows(folder / name / "images.parquet", IMAGE_INDEX)
    assert len({row["image_id"] for row in rows}) == len(rows)
    data = (folder / name / "images.tar").read_bytes()
    for row in rows[:: max(1, len(rows) // 25)]:
        image = Image.open(BytesIO(data[row["offset"] : row["offset"] + row["size"]]))
        image.load()
        assert image.mode == "RGB"
        assert image.format == ("PNG" if name == "cirr" else "JPEG")


@pytest.mark.parametrize("name", BUILDERS)
def test_no_benchmark_scene_can_be_a_training_scene(built, name):
    """Held-out scenes are in no web list of any seed or length, so it is enough that all of these are held out."""
    assert all(held_out(image.scene) for image in built[name].images)
    spec = TabletopSpec(seed=SPEC.seed)
    web = {web_scene(spec, index).key for index in range(2000)}
    assert not web & {image.scene.key for image in built[name].images}


def test_the_official_loaders_read_what_was_written(folder):
    for category in CATEGORIES:
        assert len(load_benchmark("fashioniq", folder / "fashioniq", split="val", category=category).queries) == 30
    assert len(load_benchmark("cirr", folder / "cirr", split="val").gallery) == 72
    assert len(load_benchmark("cirr", folder / "cirr", split="test1").queries) == 8
    assert len(load_benchmark("circo", folder / "circo", split="val").gallery) == 300
    assert len(load_benchmark("circo", folder / "circo", split="test").queries) == 5
    for task in TASKS:
        assert len(load_benchmark("genecis", folder / "genecis", split="val", task=task).queries) == 12


# FashionIQ


@pytest.mark.parametrize("category", CATEGORIES)
def test_fashioniq_entries_are_distinct_pairs_with_two_captions(folder, category):
    entries = load(folder / f"fashioniq/captions/cap.{category}.val.json")
    gallery = load(folder / f"fashioniq/image_splits/split.{category}.val.json")
    assert len(gallery) == len(set(gallery)) == 80
    assert len({(entry["candidate"], entry["target"]) for entry in entries}) == len(entries) == 30
    for entry in entries:
        assert set(entry) == {"target", "candidate", "captions"}
        assert entry["target"] != entry["candidate"]
        assert {entry["target"], entry["candidate"]} <= set(gallery)
        assert len(set(entry["captions"])) == 2


@pytest.mark.parametrize("category", CATEGORIES)
def test_fashioniq_captions_hold_of_the_target(built, category):
    benchmark = built["fashioniq"]
    scene_of = scenes(benchmark)
    for entry in benchmark.annotations[f"captions/cap.{category}.val.json"]:
        target, candidate = scene_of[entry["target"]], scene_of[entry["candidate"]]
        for text in entry["captions"]:
            for ground in truths.grounds(text):
                assert target.ground == ground != candidate.ground
            added = [phrase for phrase in truths.phrases(text) if {"size", "colour"} <= set(phrase)]
            if "also" in text or "comes with" in text or "too" in text:
                assert len(added) == 1
                assert truths.shows(target, added[0])
                assert not truths.shows(candidate, added[0])


def test_fashioniq_categories_share_no_picture(folder):
    splits = [set(load(folder / f"fashioniq/image_splits/split.{name}.val.json")) for name in CATEGORIES]
    assert len(set.union(*splits)) == sum(map(len, splits))


# CIRR


def test_cirr_sets_have_six_distinct_members_with_reference_and_target(folder):
    queries = load(folder / "cirr/captions/cap.rc2.val.json")
    gallery = load(folder / "cirr/image_splits/split.rc2.val.json")
    assert len({query["pairid"] for query in queries}) == len(queries) == 48
    sets: dict[int, list[str]] = {}
    for query in queries:
        group = query["img_set"]
        assert set(query) == {"pairid", "reference", "target_hard", "target_soft", "caption", "img_set"}
        assert set(group) == {"id", "members", "reference_rank", "target_rank"}
        assert len(set(group["members"])) == 6
        assert {query["reference"], query["target_hard"]} <= set(group["members"]) <= set(gallery)
        assert query["reference"] != query["target_hard"]
        assert query["target_soft"][query["target_hard"]] == 1.0
        assert set(query["target_soft"]) <= set(group["members"]) - {query["reference"]}
        assert set(query["target_soft"].values()) <= {1.0, 0.5, 0.2, -1.0}
        assert {group["reference_rank"], group["target_rank"]} <= set(range(6))
        assert group["reference_rank"] != group["target_rank"]
        assert sets.setdefault(group["id"], group["members"]) == group["members"]
    assert len({(query["reference"], query["target_hard"]) for query in queries}) == len(queries)
    assert all(path == f"./dev/{name}.png" for name, path in gallery.items())


def test_cirr_test_split_holds_no_answers(folder):
    for query in load(folder / "cirr/captions/cap.rc2.test1.json"):
        assert set(query) == {"pairid", "reference", "caption", "img_set"}
        assert set(query["img_set"]) == {"id", "members", "reference_rank"}


def test_cirr_target_is_the_only_scene_of_its_kind(built):
    """No other picture of the gallery shows the same things on the same ground, unless the text gives the places."""
    benchmark = built["cirr"]
    scene_of = scenes(benchmark)
    gallery = benchmark.annotations["image_splits/split.rc2.val.json"]
    assert len({scene_of[name].key for name in gallery}) == len(gallery)
    for query in benchmark.annotations["captions/cap.rc2.val.json"]:
        target, reference = scene_of[query["target_hard"]], scene_of[query["reference"]]
        alike = [n for n in gallery if scene_of[n].unplaced == target.unplaced and n != query["target_hard"]]
        if len(target.things) > len(reference.things):
            (new,) = [t for t in target.things if t.place not in {r.place for r in reference.things}]
            assert not alike or new.place in query["caption"]


def test_cirr_members_share_most_of_the_scene(built):
    benchmark = built["cirr"]
    scene_of = scenes(benchmark)
    for query in benchmark.annotations["captions/cap.rc2.val.json"]:
        group = [scene_of[name] for name in query["img_set"]["members"]]
        places = [{(thing.place, thing.shape) for thing in scene.things} for scene in group]
        kept = [bool(a & b) or x.ground == y.ground for a, x in zip(places, group, strict=True)
                for b, y in zip(places, group, strict=True)]  # fmt: skip
        assert sum(kept) / len(kept) > 0.8


# The real files


def same_shape(real, ours, where: str) -> None:
    """The same keys and JSON types, entry by entry of the first of each list."""
    if isinstance(real, dict) and not where.endswith("target_soft"):
        assert set(real) == set(ours), where
        for key in real:
            same_shape(real[key], ours[key], f"{where}.{key}")
    elif isinstance(real, list):
        same_shape(real[0], ours[0], f"{where}[]")
    else:
        numbers = (int, float)
        assert type(real) is type(ours) or (isinstance(real, numbers) and isinstance(ours, numbers)), where


FASHIONIQ_FILES = [
    name for c in CATEGORIES for name in (f"captions/cap.{c}.val.json", f"image_splits/split.{c}.val.json")
]


@pytest.mark.parametrize(
    ("real", "ours"),
    [
        *((f"FashionIQ/{name}", f"fashioniq/{name}") for name in FASHIONIQ_FILES),
        *((f"CIRR/captions/cap.rc2.{s}.json", f"cirr/captions/cap.rc2.{s}.json") for s in ("val", "test1")),
        *((f"CIRCO/annotations/{s}.json", f"circo/annotations/{s}.json") for s in ("val", "test")),
        *((f"GeneCIS/{t}.json", f"genecis/{t}.json") for t in TASKS),
    ],
)  # fmt: skip
def test_files_have_the_keys_and_types_of_the_real_ones(folder, shared, real, ours):
    same_shape(load(shared / "annotations" / real), load(folder / ours), ours)


# Specs


@pytest.mark.parametrize(
    "values", [{"fashioniq_gallery": 100}, {"circo_gallery": 100}, {"cirr_queries_per_set": 9}, {"sets": 3}]
)
def test_a_gallery_too_small_for_its_queries_is_refused(values):
    with pytest.raises(RequestError, match=next(iter(values))):
        TabletopBenchmarksSpec.parse(values, "here")
