"""Annotation files on disk: what is read, and what is said when they are not what they should be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zscir.benchmarks import Benchmark, load_benchmark, load_part
from zscir.benchmarks.genecis import Genecis
from zscir.runtime.errors import RequestError

Write = Callable[[str, Any], Path]
FIQ = [
    {"target": "B", "candidate": "A", "captions": ["is red.", "Has no Sleeves?"]},
    {"target": "C", "candidate": "B", "captions": ["", "longer"]},
]
CIRR = [
    {
        "pairid": 12, "reference": "d-0", "target_hard": "d-2", "target_soft": {"d-2": 1.0, "d-1": -1.0},
        "caption": "Two dogs.", "img_set": {"id": 1, "members": ["d-0", "d-1", "d-2"], "reference_rank": 0},
    }
]  # fmt: skip
CIRCO = [
    {"reference_img_id": 5, "target_img_id": 7, "relative_caption": "is blue", "shared_concept": "a car",
     "gt_img_ids": [7, 9], "id": 0, "semantic_aspects": ["addition"]},
]  # fmt: skip
GENECIS = [
    {
        "condition": "color",
        "reference": {"image_id": "11", "instance_bbox": [1, 2, 3, 4]},
        "target": {"image_id": "12", "instance_bbox": [1, 2, 3.5, 4]},
        "gallery": [
            {"image_id": "12", "instance_bbox": [1, 2, 3.5, 4]},
            {"image_id": "13", "instance_bbox": [0, 0, 9, 9]},
        ],
    }
]  # fmt: skip


def fashioniq(write: Write, captions: Any = FIQ, split: Any = ("C", "A", "X", "B")) -> Path:
    write("captions/cap.dress.val.json", captions)
    return write("image_splits/split.dress.val.json", split).parents[1]


def cirr(write: Write, captions: Any = CIRR) -> Path:
    write("captions/cap.rc2.val.json", captions)
    return write("image_splits/split.rc2.val.json", {f"d-{n}": f"./dev/d-{n}.png" for n in (2, 1, 0)}).parents[1]


def circo(write: Write, captions: Any = CIRCO) -> Path:
    return write("annotations/val.json", captions).parents[1]


def test_a_fashioniq_category_is_read_in_file_order(write_json: Write) -> None:
    bench = load_benchmark("fashioniq", fashioniq(write_json), category="dress")
    assert bench.gallery == ["C", "A", "X", "B"]
    assert [(q.query_id, q.reference, q.targets, q.exclude) for q in bench.queries] == [
        ("0", "A", ("B",), ()),
        ("1", "B", ("C",), ()),
    ]
    assert bench.label == "fashioniq/dress"


@pytest.mark.parametrize(
    ("protocol", "gallery", "ids", "excluded"),
    [
        ("val", ["C", "A", "B"], ["0", "1"], ()),
        ("pli", ["C", "A", "B"], ["0", "1"], ("A",)),
        ("pli_orders", ["C", "A", "B"], ["0/forward", "0/reversed", "1/forward", "1/reversed"], ("A",)),
    ],
)
def test_fashioniq_protocols_name_their_gallery_and_queries(
    write_json: Write, protocol: str, gallery: list[str], ids: list[str], excluded: tuple[str, ...]
) -> None:
    bench = load_benchmark("fashioniq", fashioniq(write_json), category="dress", protocol=protocol)
    assert bench.gallery == gallery
    assert [query.query_id for query in bench.queries] == ids
    assert bench.queries[0].exclude == excluded


def test_the_reference_of_pli_is_out_of_the_ranking(write_json: Write) -> None:
    scores = np.array([[0.1, 0.9, 0.5], [0.9, 0.1, 0.2]], dtype=np.float32)  # the first query's reference A is best
    root = fashioniq(write_json)
    assert load_benchmark("fashioniq", root, category="dress", protocol="val").score(scores)["R@1"] == 50
    assert load_benchmark("fashioniq", root, category="dress", protocol="pli").score(scores)["R@1"] == 100


def texts_of(bench: Benchmark, protocol: str) -> list[list[str]]:
    return bench.texts(protocol)


@pytest.mark.parametrize(
    ("protocol", "first", "second"),
    [
        ("searle", ["a photo of $ that is red and Has no Sleeves", "a photo of $ that Has no Sleeves and is red"],
         ["a photo of $ that  and longer", "a photo of $ that longer and "]),
        ("pic2word", ["a photo of * , Has no Sleeves? and is red."], ["a photo of * , longer and "]),
        ("clip4cir", ["Is red and Has no Sleeves"], [" and longer"]),
        ("cirevl", ["is red and Has no Sleeves"], [" and longer"]),
        ("pli", ["is red. and Has no Sleeves?", "Has no Sleeves? and is red."], [" and longer", "longer and "]),
        ("tscir", ["a photo of * , that Has no Sleeves? and is red."], ["a photo of * , that longer and "]),
        ("raw", ["is red. and Has no Sleeves?"], [" and longer"]),
    ],
)  # fmt: skip
def test_fashioniq_texts(write_json: Write, protocol: str, first: list[str], second: list[str]) -> None:
    bench = load_benchmark("fashioniq", fashioniq(write_json), category="dress")
    assert texts_of(bench, protocol) == [first, second]


def test_pli_orders_has_one_text_per_query_in_the_raw_protocol(write_json: Write) -> None:
    bench = load_benchmark("fashioniq", fashioniq(write_json), category="dress", protocol="pli_orders")
    assert texts_of(bench, "raw")[:2] == [["is red. and Has no Sleeves?"], ["Has no Sleeves? and is red."]]


def test_one_caption_order_is_another_text_than_both(write_json: Write) -> None:
    bench = load_benchmark("fashioniq", fashioniq(write_json), category="dress")
    assert [len(row) for row in texts_of(bench, "searle")] == [2, 2]
    assert texts_of(bench, "pic2word")[0][0].endswith("Has no Sleeves? and is red.")  # second caption first, unstripped


def test_cirr_queries_have_their_image_set_without_the_reference(write_json: Write) -> None:
    bench = load_benchmark("cirr", cirr(write_json))
    query = bench.queries[0]
    assert (query.query_id, query.targets, query.exclude, query.subset) == ("12", ("d-2",), ("d-0",), ("d-1", "d-2"))
    assert bench.gallery == ["d-2", "d-1", "d-0"]
    assert dict(query.soft) == {"d-2": 1.0, "d-1": -1.0}
    assert texts_of(bench, "searle") == [["a photo of $ that Two dogs."]]
    assert texts_of(bench, "tscir") == [["a photo of * , that Two dogs."]]


def test_the_circo_gallery_is_given_or_read_or_an_error_names_it(write_json: Write) -> None:
    root = circo(write_json)
    bench = load_benchmark("circo", root)
    assert texts_of(bench, "searle") == [["a photo of $ that is blue"]]
    assert texts_of(bench, "shared_concept") == [["find a car but is blue"]]
    with pytest.raises(RequestError, match="image_info_unlabeled2017"):
        bench.score(np.zeros((1, 3)))
    assert load_benchmark("circo", root, gallery_ids=[9, 7, 5]).gallery == ["9", "7", "5"]
    for name in ("image_info.json", "annotations/image_info_unlabeled2017.json"):
        write_json(name, {"images": [{"id": 5, "file_name": "5.jpg"}, {"id": 9}, {"id": 7}, {"id": 1}]})
        assert load_benchmark("circo", root).gallery == ["5", "9", "7", "1"]


@pytest.mark.parametrize(("protocol", "excluded"), [("official", ()), ("reference_excluded", ("5",))])
def test_a_circo_reference_is_ranked_unless_the_protocol_says_otherwise(
    write_json: Write, protocol: str, excluded: tuple[str, ...]
) -> None:
    bench = load_benchmark("circo", circo(write_json), gallery_ids=[5, 9, 7], protocol=protocol)
    assert [query.exclude for query in bench.queries] == [excluded]
    seen = bench.score(np.array([[3.0, 2.0, 1.0]]))["R@5"], bench.submission(np.array([[3.0, 2.0, 1.0]]))
    assert seen == (100, {"circo_val.json": {"0": [9, 7] if excluded else [5, 9, 7]}})


def test_genecis_candidates_start_with_the_target_and_may_repeat_it(write_json: Write) -> None:
    root = write_json("genecis/focus_attribute.json", GENECIS).parents[1]
    bench = load_benchmark("genecis", root, task="focus_attribute")
    assert isinstance(bench, Genecis)
    assert bench.candidates == [["12[1,2,3.5,4]", "12[1,2,3.5,4]", "13[0,0,9,9]"]]
    assert bench.gallery == ["12[1,2,3.5,4]", "13[0,0,9,9]"]
    assert bench.queries[0].reference == "11[1,2,3,4]"
    assert bench.info.images.indexed_name("11[1,2,3,4]") == "vg/11.jpg"
    assert texts_of(bench, "searle") == [["a photo of $ that color"]]


def test_a_part_is_a_category_or_a_task(write_json: Write) -> None:
    assert load_part("fashioniq", fashioniq(write_json), "val", "dress", "val").label == "fashioniq/dress"
    assert load_part("cirr", cirr(write_json), "val", "", None).protocol == "official"


BROKEN = [
    (lambda w: load_benchmark("flickr", "."), "no benchmark 'flickr'; there are fashioniq, cirr, circo, genecis"),
    (lambda w: load_benchmark("cirr", ".", split="test"), "no split 'test'; it has val, test1, train"),
    (lambda w: load_benchmark("cirr", ".", protocol="val"), "no protocol 'val'; it has official, soft"),
    (lambda w: load_benchmark("cirr", ".", category="dress"), "cirr takes no category"),
    (lambda w: load_benchmark("fashioniq", ".", task="x"), "fashioniq takes no task; it takes category"),
    (lambda w: load_benchmark("fashioniq", "."), "category None is not one of dress, shirt, toptee"),
    (lambda w: load_benchmark("genecis", ".", task="color"), "task 'color' is not one of"),
    (lambda w: load_benchmark("cirr", "/nowhere"), "cap.rc2.val.json not found; tried /nowhere/captions"),
    (lambda w: fiq(w, "{"), r"cap.dress.val.json: not valid JSON .*fashion-iq"),
    (lambda w: fiq(w, {}), "holds a dict, expected a list"),
    (lambda w: fiq(w, []), "no entries"),
    (lambda w: fiq(w, ["x"]), "entry 0 is a str"),
    (lambda w: fiq(w, [{"captions": ["a", "b"], "target": "A"}]), "entry 0: 'candidate' is missing, expected a string"),
    (lambda w: fiq(w, [{**FIQ[0], "captions": ["a"]}]), "entry 0: 1 captions, expected 2"),
    (lambda w: fiq(w, [{**FIQ[0], "captions": "ab"}]), "expected a list of strings"),
    (lambda w: fiq(w, [{**FIQ[0], "target": "Z"}]), "1 images that the queries name are not among the 4.*: Z"),
    (
        lambda w: load_benchmark("fashioniq", fashioniq(w, FIQ, ["A", "B", "C", "A"]), category="dress"),
        "more than once: A",
    ),
    (lambda w: load_benchmark("fashioniq", fashioniq(w, FIQ, ["A", 3]), category="dress"), "entry 1 is 3"),
    (lambda w: fiq(w, [{**FIQ[0], "target": "Z"}], "val"), "not among the 4 of the gallery: Z"),
    (lambda w: load_benchmark("cirr", cirr(w, [{**CIRR[0], "target_hard": "d-0"}])), "is not a member of img_set"),
    (lambda w: load_benchmark("cirr", cirr(w, [{**CIRR[0], "pairid": "12"}])), "'pairid' is '12', expected an integer"),
    (lambda w: load_benchmark("cirr", cirr(w, CIRR * 2)), "pairid: 1 ids occur more than once: 12"),
    (lambda w: load_benchmark("cirr", cirr(w, [{**CIRR[0], "target_soft": {"d-2": "1"}}])), "expected a number"),
    (lambda w: load_benchmark("circo", circo(w, [{**CIRCO[0], "id": 1}])), "ids are 0..n-1"),
    (lambda w: load_benchmark("circo", circo(w, [{**CIRCO[0], "gt_img_ids": [9]}])), "must hold target_img_id 7"),
    (lambda w: load_benchmark("circo", circo(w), gallery_ids=[7, 9]), "not among the 2 of the gallery: 5"),
    (lambda w: load_benchmark("circo", circo(w), gallery_ids=["x"]), "not a COCO image id"),
    (lambda w: load_benchmark("circo", circo(w), gallery_ids=[5, 7, 9, 7]), "more than once: 7"),
    (lambda w: genecis(w, [{**GENECIS[0], "gallery": []}]), "entry 0: 'gallery' is not a list of images"),
    (lambda w: genecis(w, [{**GENECIS[0], "target": {"image_id": "1"}}]), "target: 'instance_bbox' is None"),
    (
        lambda w: genecis(w, [GENECIS[0], {**GENECIS[0], "gallery": GENECIS[0]["gallery"][:1]}]),
        "1 images in the gallery",
    ),
]


def fiq(write: Write, captions: Any, protocol: str = "original") -> Benchmark:
    return load_benchmark("fashioniq", fashioniq(write, captions), category="dress", protocol=protocol)


def genecis(write: Write, entries: Any) -> Benchmark:
    return load_benchmark("genecis", write("focus_attribute.json", entries).parent, task="focus_attribute")


@pytest.mark.parametrize(("load", "words"), BROKEN, ids=[words[:40] for _, words in BROKEN])
def test_errors_name_what_is_wrong_and_where(write_json: Write, load: Callable[[Write], Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        load(write_json)


def test_an_unknown_text_protocol_is_refused_with_the_known_ones(write_json: Write) -> None:
    with pytest.raises(RequestError, match=r"no text protocol 'shared_concept' for cirr; it has .*searle"):
        load_benchmark("cirr", cirr(write_json)).texts("shared_concept")
