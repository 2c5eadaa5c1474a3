"""Submission files: refused before the server would refuse them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zscir.benchmarks import Query, load_benchmark, write_submission
from zscir.benchmarks.submission import check_circo, check_cirr, check_keys
from zscir.runtime.errors import RequestError

GALLERY = [f"g{n}" for n in range(60)]
CIRR = [Query("7", "g0", ("c",), (), ("g0",), ("g1", "g2", "g3", "g4", "g5"))]
NUMBERS = [str(n) for n in range(60)]
CIRCO = [Query("0", "0", ("c",)), Query("1", "1", ("c",))]


def recall(**changed: Any) -> dict[str, Any]:
    return {"version": "rc2", "metric": "recall", "7": GALLERY[1:51], **changed}


def test_a_whole_cirr_submission_passes() -> None:
    check_cirr(recall(), CIRR, GALLERY)
    check_cirr(recall(metric="recall_subset", **{"7": ["g3", "g1", "g2"]}), CIRR, GALLERY)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (recall(version="rc1"), "'rc1' and metric 'recall' are not rc2"),
        (recall(metric="R@50"), "are not rc2 and recall"),
        ({"version": "rc2", "metric": "recall"}, r"1 queries have no list \(7\)"),
        (recall(**{"8": GALLERY[1:51]}), r"1 lists have no query \(8\)"),
        (recall(**{"7": GALLERY[1:50]}), "query 7: 49 names, expected 50"),
        (recall(**{"7": [*GALLERY[1:50], "g1"]}), "query 7 names images twice: g1"),
        (recall(**{"7": GALLERY[:50]}), r"may not stand there: g0 \(unknown, or reference"),
        (recall(**{"7": ["x.png", *GALLERY[1:50]]}), "may not stand there: x.png"),
        (recall(metric="recall_subset", **{"7": ["g3", "g1", "g9"]}), "may not stand there: g9"),
        (recall(metric="recall_subset", **{"7": ["g3", "g1", "g0"]}), "may not stand there: g0"),
        (recall(metric="recall_subset", **{"7": ["g3", "g1"]}), "query 7: 2 names, expected 3"),
        (recall(metric="recall_subset", **{"7": ["g1", "g2", "g3", "g4"]}), "query 7: 4 names, expected 3"),
        (recall(metric="recall_subset", **{"7": ["g1", "g2", "g1"]}), "names images twice: g1"),
        (recall(metric=None), "metric None are not rc2"),
        (recall(**{"7": GALLERY[1:52]}), "query 7: 51 names, expected 50"),
        (recall(**{"7": "g1"}), "the value of query 7 is 'g1', expected a list of images"),
        (recall(**{"7": None}), "query 7 is None, expected a list"),
        (recall(**{"7": dict.fromkeys(GALLERY[1:51])}), "expected a list of images"),
        (recall(**{"7": [1, *GALLERY[1:50]]}), "the list of query 7: 1 is not an image's name"),
        (recall(**{"7": [None, *GALLERY[1:50]]}), "None is not an image's name"),
        (recall(**{"7": [["g1"], *GALLERY[2:51]]}), r"\['g1'\] is not an image's name"),
        (recall(**{"7 ": GALLERY[1:51]}), r"1 lists have no query \(7 \)"),
        (recall(**{"7": ["G1", *GALLERY[2:51]]}), "may not stand there: G1"),
        (recall(**{"7": [" g1", *GALLERY[2:51]]}), "may not stand there:  g1"),
    ],
)
def test_what_the_cirr_server_would_refuse_is_refused_here(content: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        check_cirr(content, CIRR, GALLERY)


def test_the_circo_reference_may_be_predicted_and_ids_may_be_numbers_or_text() -> None:
    check_circo({"0": list(range(50)), "1": [str(n) for n in range(50)]}, CIRCO, NUMBERS)
    check_circo({0: list(range(50)), 1: [f"{n:012d}" for n in range(50)]}, CIRCO, NUMBERS)


def test_a_reference_that_our_protocol_takes_out_may_not_be_predicted() -> None:
    excluded = [Query(q.query_id, q.reference, q.captions, (), (q.reference,)) for q in CIRCO]
    check_circo({"0": list(range(1, 51)), "1": list(range(2, 52))}, excluded, NUMBERS)
    with pytest.raises(RequestError, match=r"query 0: names that may not stand there: 0 \(unknown, or reference\)"):
        check_circo({"0": list(range(50)), "1": list(range(2, 52))}, excluded, NUMBERS)


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ([1] * 50, "twice: 1"),
        (list(range(49)), "49 names"),
        (list(range(51)), "51 names"),
        ([], "0 names"),
        ([*range(49), 99], "may not stand there: 99"),
        ([*range(49), "0048"], "names images twice: 48"),  # the server casts to integers
        ([*range(49), 49.5], "49.5 is not a COCO image id"),
        ([*range(49), True], "True is not a COCO image id"),
        ([*range(49), None], "None is not a COCO image id"),
        ([*range(49), "x"], "'x' is not a COCO image id"),
        ([*range(49), "-1"], "'-1' is not a COCO image id"),
        ([*range(49), [49]], r"\[49\] is not a COCO image id"),
        ([*range(49), float("nan")], "nan is not a COCO image id"),
        ("0" * 50, "expected a list of images"),
        (7, "the value of query 1 is 7, expected a list"),
    ],
)
def test_what_the_circo_server_would_refuse_is_refused_here(second: list[int], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        check_circo({"0": list(range(50)), "1": second}, CIRCO, NUMBERS)


def test_a_list_given_twice_under_two_spellings_of_its_key_is_refused() -> None:
    with pytest.raises(RequestError, match="expected one for each of 1"):
        check_keys({"1": ["a"], 1: ["b"]}, ["1"], "t", str)


def test_a_file_larger_than_the_server_takes_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="server takes less than 5,000,000"):
        write_submission(tmp_path / "out", {"big.json": {"0": ["x" * 5_000_000]}})
    assert not (tmp_path / "out").exists()


def test_the_size_is_that_of_the_file_on_disk_and_must_be_less_than_5_mb(tmp_path: Path) -> None:
    frame = len('{"0": [""]}')
    (path,) = write_submission(tmp_path, {"a.json": {"0": ["x" * (4_999_999 - frame)]}})
    assert path.stat().st_size == 4_999_999
    with pytest.raises(RequestError, match="5,000,000 bytes; the server takes less than 5,000,000"):
        write_submission(tmp_path, {"a.json": {"0": ["x" * (5_000_000 - frame)]}})
    with pytest.raises(RequestError, match="server takes less"):
        write_submission(tmp_path, {"a.json": {"0": ["\u00e9" * 900_000]}})  # six bytes each in JSON


def test_of_several_files_all_are_written_or_none(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="server takes less"):
        write_submission(tmp_path / "out", {"a.json": {"0": ["x"]}, "b.json": {"0": ["x" * 5_000_000]}})
    assert not (tmp_path / "out").exists()


def test_submission_files_are_json_with_sorted_keys(tmp_path: Path) -> None:
    (path,) = write_submission(tmp_path, {"a.json": {"b": [1], "a": [2]}})
    assert path.read_text() == '{"a": [2], "b": [1]}'
    assert json.loads(path.read_text()) == {"a": [2], "b": [1]}


@pytest.mark.parametrize(("name", "split", "depth"), [("cirr", "test1", 50), ("circo", "test", 50)])
def test_the_files_of_the_real_test_splits_are_whole(
    shared: Path, tmp_path: Path, name: str, split: str, depth: int
) -> None:
    ids = {}
    if name == "circo":
        entries = json.loads((shared / "annotations/CIRCO/annotations/test.json").read_text())
        ids = {"gallery_ids": sorted({entry["reference_img_id"] for entry in entries} | set(range(10**6, 10**6 + 700)))}
    bench = load_benchmark(name, shared / "annotations", split=split, **ids)
    scores = np.random.default_rng(1).random((len(bench.queries), len(bench.gallery)), dtype=np.float32)
    paths = write_submission(tmp_path, bench.submission(scores))
    for path in paths:
        content = json.loads(path.read_text())
        assert path.stat().st_size < 5_000_000
        lists = {key: value for key, value in content.items() if key not in ("version", "metric")}
        assert lists.keys() == {query.query_id for query in bench.queries}
        assert {len(set(image_ids)) for image_ids in lists.values()} == {3 if "subset" in path.name else depth}
    assert len(paths) == (2 if name == "cirr" else 1)
