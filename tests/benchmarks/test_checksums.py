"""Annotation files that are not official, galleries of another size: named, with where to get the right ones."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from zscir.benchmarks import Benchmark, benchmark_info, load_benchmark, load_part
from zscir.benchmarks.checksums import (
    check_official_counts,
    official_gallery,
    official_release,
    read_official_release,
    refuse_mixed_files,
    require_official,
)
from zscir.benchmarks.feature_files import FeatureFiles, ScoreRequest, score_files
from zscir.runtime.errors import RequestError

CLONES = {"fashioniq": "FashionIQ", "cirr": "CIRR", "circo": "CIRCO", "genecis": "GeneCIS"}
VAL = [(name, part) for name in CLONES for part in benchmark_info(name).parts]


def real(shared: Path, name: str) -> Path:
    return shared / "annotations" / CLONES[name]


def files_of(bench: Benchmark) -> list[str]:
    return bench.info.annotation_files(bench.split, bench.part)


def copied(shared: Path, folder: Path, bench: Benchmark) -> Path:
    """The files of one benchmark, category or task, to be spoilt."""
    for file in files_of(bench):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(real(shared, bench.name) / file, folder / file)
    return folder


@pytest.mark.parametrize("name", sorted(CLONES))
def test_the_real_annotations_have_the_checksums_of_the_specs(shared: Path, name: str) -> None:
    facts = official_release(name)
    require_official(real(shared, name), facts)
    require_official(shared / "annotations", facts)  # a folder that holds the clone
    assert any((real(shared, name) / file).is_file() for file in facts.sha256)
    assert facts.annotations.startswith("https://github.com/")
    assert facts.images


@pytest.mark.parametrize(("name", "part"), VAL)
def test_the_real_annotations_have_the_official_counts(shared: Path, recipes: Any, name: str, part: str) -> None:
    protocols = {"fashioniq": ("original", "val", "pli", "pli_orders"), "cirr": ("official", "soft")}
    for protocol in protocols.get(name, ("official",)):
        bench = load_part(name, real(shared, name), "val", part, protocol)
        if name == "circo":
            bench = load_benchmark(name, real(shared, name), gallery_ids=recipes.circo_gallery_ids())
        assert refuse_mixed_files(real(shared, name), official_release(name), files_of(bench))
        check_official_counts(bench, official_release(name))
    for split in {"cirr": ("test1",), "fashioniq": ("test",)}.get(name, ()):
        bench = load_part(name, real(shared, name), split, part, None)
        assert refuse_mixed_files(real(shared, name), official_release(name), files_of(bench))
        check_official_counts(bench, official_release(name))


def test_plis_toptee_captions_are_named_as_plis(shared: Path, tmp_path: Path) -> None:
    bench = load_benchmark("fashioniq", real(shared, "fashioniq"), category="toptee")
    path = copied(shared, tmp_path, bench) / "captions/cap.toptee.val.json"
    entries = json.loads(path.read_text())
    altered = [
        {**entry, "captions": [c.replace("They\u2019re", "They are") for c in entry["captions"]]} for entry in entries
    ]
    assert sum(original != other for original, other in zip(entries, altered, strict=True)) == 1
    path.write_text(json.dumps(altered))
    words = (
        r"1 annotation files were altered:\n  captions/cap.toptee.val.json: sha256 .*, the official file's is "
        r"b4e09f428e6c255c\.\.\.; PLI's repository ships a copy in which .*They are.*\n"
        r"Get the originals: https://github.com/XiaoxiaoGuo/fashion-iq at f71b16c3b09e"
    )
    for refuse in (
        lambda: require_official(tmp_path, official_release("fashioniq")),
        lambda: refuse_mixed_files(tmp_path, official_release("fashioniq"), files_of(bench)),
    ):
        with pytest.raises(RequestError, match=words):
            refuse()


@pytest.mark.parametrize(
    ("name", "part", "file"),
    [
        ("fashioniq", "dress", "image_splits/split.dress.val.json"),
        ("fashioniq", "shirt", "captions/cap.shirt.val.json"),
        ("cirr", "", "captions/cap.rc2.val.json"),
        ("cirr", "", "image_splits/split.rc2.val.json"),
    ],
)
def test_one_altered_file_beside_an_official_one_is_refused(
    shared: Path, tmp_path: Path, name: str, part: str, file: str
) -> None:
    bench = load_part(name, real(shared, name), "val", part, None)
    path = copied(shared, tmp_path, bench) / file
    values = json.loads(path.read_text())
    shorter = values[:-1] if isinstance(values, list) else dict(list(values.items())[:-1])
    path.write_text(json.dumps(shorter))
    with pytest.raises(
        RequestError, match=rf"1 annotation files were altered:\n  {file}: .*\nGet the originals: https"
    ):
        refuse_mixed_files(tmp_path, official_release(name), files_of(bench))


@pytest.mark.parametrize(
    ("name", "arguments", "file", "other"),
    [
        ("fashioniq", {"category": "dress"}, "captions/cap.dress.val.json", "captions/cap.shirt.val.json"),
        ("cirr", {}, "captions/cap.rc2.val.json", "captions/cap.rc2.test1.json"),
        ("circo", {}, "annotations/val.json", "annotations/test.json"),
        ("genecis", {"task": "focus_object"}, "focus_object.json", "change_object.json"),
    ],
)
def test_another_file_of_the_same_clone_under_the_name_is_not_scored(
    shared: Path, tmp_path: Path, name: str, arguments: dict[str, str], file: str, other: str
) -> None:
    root = tmp_path / "clone"
    shutil.copytree(real(shared, name), root)
    shutil.copy(root / other, root / file)
    words = rf"1 annotation files were altered:\n  {file}: sha256 .*\nGet the originals: https://github.com/\S+ at|\("
    for folder in (root, tmp_path):
        with pytest.raises(RequestError, match=words):
            score_files(ScoreRequest(name, folder, **arguments), FeatureFiles(tmp_path / "q.npy", tmp_path / "g.npy"))


@pytest.mark.parametrize(("name", "part"), VAL)
def test_a_missing_annotation_file_is_named_with_where_to_get_it(tmp_path: Path, name: str, part: str) -> None:
    file = benchmark_info(name).annotation_files("val", part)[0]
    with pytest.raises(
        RequestError, match=rf"annotation file {file} not found; tried .*\. Get it: git clone .*https://"
    ):
        load_part(name, tmp_path, "val", part, None)


def test_a_folder_where_another_category_was_altered_is_scored(shared: Path, tmp_path: Path) -> None:
    root = tmp_path / "clone"
    shutil.copytree(real(shared, "fashioniq"), root)
    (root / "captions/cap.toptee.val.json").write_text("[]")
    assert refuse_mixed_files(
        root, official_release("fashioniq"), benchmark_info("fashioniq").annotation_files("val", "dress")
    )


@pytest.mark.parametrize(("name", "file"), [("circo", "annotations/val.json"), ("genecis", "change_object.json")])
def test_an_altered_file_without_official_ones_beside_it_is_named_when_official_ones_are_required(
    shared: Path, tmp_path: Path, name: str, file: str
) -> None:
    entries = json.loads((real(shared, name) / file).read_text())
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(json.dumps(entries[:-1]))
    bench = load_part(name, tmp_path, "val", benchmark_info(name).parts[-1], None)
    assert not refuse_mixed_files(tmp_path, official_release(name), files_of(bench))
    with pytest.raises(RequestError, match=rf"altered:\n  {file}: sha256 .*\nGet the originals: https://github.com"):
        require_official(tmp_path, official_release(name))
    loaded = load_benchmark("circo", tmp_path, gallery_ids=_named(entries)) if name == "circo" else bench
    with pytest.raises(RequestError, match=r"the official ones are 220 and 123,403|.*queries and a gallery of"):
        check_official_counts(loaded, official_release(name))


def _named(entries: list[dict[str, Any]]) -> list[int]:
    return sorted({image_id for entry in entries for image_id in (entry["reference_img_id"], *entry["gt_img_ids"])})


def test_an_image_list_of_another_coco_split_is_not_circos_gallery(shared: Path, tmp_path: Path) -> None:
    root = copied(shared, tmp_path, load_benchmark("circo", real(shared, "circo")))
    ids = _named(json.loads((root / "annotations/val.json").read_text()))
    images = [{"id": number} for number in [*ids, *range(10**6, 10**6 + 40_670 - len(ids))]]
    (root / "image_info.json").write_text(json.dumps({"images": images}))
    bench = load_benchmark("circo", root)
    assert refuse_mixed_files(root, official_release("circo"), files_of(bench))
    words = (
        r"220 queries and a gallery of 40,670; the official ones are 220 and 123,403\. Get the originals: .*COCO 2017"
    )
    with pytest.raises(RequestError, match=words):
        check_official_counts(bench, official_release("circo"))


def test_a_folder_without_official_files_is_another_data_set_unless_they_are_required(tmp_path: Path) -> None:
    (tmp_path / "captions").mkdir()
    (tmp_path / "captions/cap.toptee.val.json").write_text("[]")
    facts = official_release("fashioniq")
    assert not refuse_mixed_files(tmp_path, facts, ["captions/cap.toptee.val.json"])
    assert not refuse_mixed_files(tmp_path, facts, [])
    with pytest.raises(RequestError, match=r"captions/cap.toptee.val.json: sha256 4f53cda18c2baa0c.*b4e09f428e6c255c"):
        require_official(tmp_path, facts)


def test_an_empty_folder_is_refused_where_official_files_are_required(tmp_path: Path) -> None:
    words = r"none of the official annotation files is there. Get the originals: https://github.com/miccunifi/CIRCO"
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RequestError, match=words):
            require_official(folder, official_release("circo"))


def test_what_is_not_counted_anywhere_is_not_judged(shared: Path) -> None:
    bench = load_benchmark("cirr", real(shared, "cirr"))
    uncounted = replace(official_release("cirr"), counts={})
    assert official_gallery(bench, uncounted) is None
    check_official_counts(bench, uncounted)


@pytest.mark.parametrize("content", ["", "sha256 = 3", "[sha256\n", "[sha256]\na = 1"])
def test_facts_without_checksums_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.toml").write_text(content)
    with pytest.raises(RequestError, match=r"x\.toml"):
        read_official_release(tmp_path / "x.toml")
    with pytest.raises(RequestError, match="cannot be read"):
        read_official_release(tmp_path / "y.toml")
