import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zscir.benchmarks import Query
from zscir.benchmarks.cirr import Cirr
from zscir.benchmarks.fashioniq import FashionIQ
from zscir.benchmarks.scoring import Label, macro_mean, protocol_label, score_files, scored
from zscir.errors import RequestError

IDS = ["d-2", "d-1", "d-0", "d-3"]
ENTRY = {"pairid": 12, "reference": "d-0", "caption": "two", "img_set": {"id": 1, "members": ["d-0", "d-1", "d-2"]}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("captions", "image_splits", "annotations"):
        (tmp_path / folder).mkdir()
    for split, entry in (("val", {**ENTRY, "target_hard": "d-2"}), ("test1", ENTRY)):
        (tmp_path / f"captions/cap.rc2.{split}.json").write_text(json.dumps([entry]))
        (tmp_path / f"image_splits/split.rc2.{split}.json").write_text(json.dumps(dict.fromkeys(IDS, "x")))
    circo = {"reference_img_id": 5, "relative_caption": "is blue", "shared_concept": "a car", "id": 0}
    (tmp_path / "annotations/test.json").write_text(json.dumps([circo]))
    np.save(tmp_path / "q.npy", np.array([[1.0, 0.1]], dtype=np.float32))
    np.save(tmp_path / "g.npy", np.array([[1, 0], [0, 1], [1, 0.1], [1, 1]], dtype=np.float16))
    return tmp_path


def test_features_in_files_become_rows_with_n_hits_and_interval(root: Path) -> None:
    rows = score_files("cirr", root, "val", root / "q.npy", root / "g.npy", text_protocol="searle", method="mine")
    first = rows[0]
    assert (first.benchmark, first.split, first.protocol, first.method) == ("cirr", "val", "official/searle", "mine")
    assert (first.metric, first.value, first.n, first.hits, first.low, first.high) == ("R@1", 100, 1, 1, 100, 100)
    assert rows[-1].metric == "mean(R@5,Rsub@1)"
    assert list(first.row()) == ["benchmark", "split", "protocol", "method", "backbone", "metric", "value", "n"]


def test_a_split_without_answers_gives_submission_files_only(root: Path) -> None:
    with pytest.raises(RequestError, match="name a folder for the submission files"):
        score_files("cirr", root, "test1", root / "q.npy", root / "g.npy")
    rows = score_files("cirr", root, "test1", root / "q.npy", root / "g.npy", submission_out=root / "out")
    assert rows == []
    found = json.loads((root / "out/cirr_test1_recall.json").read_text())
    assert found == {"version": "rc2", "metric": "recall", "12": ["d-2", "d-3", "d-1"]}


@pytest.mark.parametrize("content", ['["5", 7, 9, 1]', "5\n7\n\n9\n1\n"])
def test_circo_gallery_ids_come_from_a_json_list_or_lines(root: Path, content: str) -> None:
    ids = root / "ids.txt"
    ids.write_text(content)
    score_files("circo", root, "test", root / "q.npy", root / "g.npy", gallery_ids=ids, submission_out=root / "out")
    assert json.loads((root / "out/circo_test.json").read_text()) == {"0": [9, 5, 1, 7]}


def pickled(path: Path) -> None:
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda p: p.unlink(), "q.npy: no such file"),
        (lambda p: p.write_bytes(b"not numpy"), "q.npy: not a .npy file of numbers"),
        (lambda p: p.write_bytes(b""), "q.npy: not a .npy file of numbers"),
        (pickled, "q.npy: not a .npy file of numbers"),
        (lambda p: np.save(p, np.ones((2, 2))), r"query features have shape \(2, 2\), expected \(1, D\)"),
        (lambda p: np.save(p, np.array([["a", "b"]])), "query features are <U1"),
        (lambda p: np.save(p, np.array([[np.nan, 1]])), r"query features \[0\] holds NaN"),
    ],
)
def test_a_spoilt_file_is_named(root: Path, spoil: Any, words: str) -> None:
    spoil(root / "q.npy")
    with pytest.raises(RequestError, match=words):
        score_files("cirr", root, "val", root / "q.npy", root / "g.npy")


def test_files_that_are_not_the_official_ones_are_refused_when_asked(root: Path) -> None:
    facts = Path(__file__).resolve().parents[2] / "data_specs/benchmarks/cirr.toml"
    with pytest.raises(RequestError, match=r"4 annotation files were altered:\n.*captions/cap.rc2.test1.json: sha256"):
        score_files("cirr", root, "val", root / "q.npy", root / "g.npy", facts=facts)


def test_an_archive_of_arrays_is_refused(root: Path) -> None:
    np.savez(root / "q.npz", a=np.ones((1, 2)))
    with pytest.raises(RequestError, match=r"an \.npz archive; give one .npy file"):
        score_files("cirr", root, "val", root / "q.npz", root / "g.npy")


def test_the_mean_over_categories_is_unweighted_and_n_is_their_sum() -> None:
    parts = []
    for category, ranks in (("dress", [1, 2]), ("shirt", [1, 1, 1, 2])):
        queries = [Query(str(i), "a", ("x", "y"), ("b",)) for i in range(len(ranks))]
        bench = FashionIQ("val", "original", queries, ["a", "b"], category)
        scores = np.array([[0.5, 1.0] if rank == 1 else [0.5, 0.0] for rank in ranks], dtype=np.float32)
        parts.append((bench, bench.measure(scores)))
    mean = macro_mean(parts, Label("original"))[0]
    assert (mean.benchmark, mean.metric, mean.value, mean.n, mean.hits) == ("fashioniq/mean", "R@1", 62.5, 6, 4)
    assert mean.low < 62.5 < mean.high


def test_adding_a_metric_moves_no_other_interval() -> None:
    queries = [Query(str(i), "a", ("x",), ("b",), ("a",), ("b", "c")) for i in range(9)]
    bench = Cirr("val", "official", queries, ["a", "b", "c"])
    measures = bench.measure(np.random.default_rng(0).random((9, 3), dtype=np.float32))
    every, some = scored(bench, measures, Label("official")), scored(bench, measures[:1], Label("official"))
    assert every[0] == some[0]


def test_a_protocol_label_joins_what_is_named() -> None:
    assert protocol_label("original", "searle", "targetpad") == "original/searle/targetpad"
    assert protocol_label("official", "", "") == "official"
