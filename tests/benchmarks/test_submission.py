"""Submission files: refused before the server would refuse them."""

import json
from pathlib import Path
from typing import Any

import pytest

from zscir.benchmarks import Query, write_submission
from zscir.benchmarks.submission import check_circo, check_cirr, check_keys
from zscir.errors import RequestError

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
    ],
)
def test_what_the_cirr_server_would_refuse_is_refused_here(content: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        check_cirr(content, CIRR, GALLERY)


def test_the_circo_reference_may_be_predicted_and_ids_may_be_numbers_or_text() -> None:
    check_circo({"0": list(range(50)), "1": [str(n) for n in range(50)]}, CIRCO, NUMBERS)


@pytest.mark.parametrize(
    ("second", "words"),
    [([1] * 50, "twice: 1"), (list(range(49)), "49 names"), ([*range(49), 99], "may not stand there: 99")],
)
def test_what_the_circo_server_would_refuse_is_refused_here(second: list[int], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        check_circo({"0": list(range(50)), "1": second}, CIRCO, NUMBERS)


def test_a_list_given_twice_under_two_spellings_of_its_key_is_refused() -> None:
    with pytest.raises(RequestError, match="expected one for each of 1"):
        check_keys({"1": ["a"], 1: ["b"]}, ["1"], "t")


def test_a_file_larger_than_the_server_takes_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="server takes less than 5,000,000"):
        write_submission(tmp_path / "out", {"big.json": {"0": ["x" * 5_000_000]}})
    assert not list((tmp_path / "out").iterdir())


def test_submission_files_are_json_with_sorted_keys(tmp_path: Path) -> None:
    (path,) = write_submission(tmp_path, {"a.json": {"b": [1], "a": [2]}})
    assert path.read_text() == '{"a": [2], "b": [1]}'
    assert json.loads(path.read_text()) == {"a": [2], "b": [1]}
