from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from zscir.runtime.errors import RequestError
from zscir.runtime.schemas import CANDIDATES_SCHEMA, IMAGES_SCHEMA, REJECTS_SCHEMA, read_rows, schema_of, write_table
from zscir.stages import mine_pairs as module
from zscir.stages.mine_pairs import MineSpec, SimilarityWindow, mine_pairs, nearest_in_window
from zscir.store.artifacts import Artifact

OPEN = {"low": -2.0, "high": 2.0}


def unit(vectors: Any) -> NDArray[np.float32]:
    array = np.asarray(vectors, dtype=np.float32)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def circle(*degrees: float) -> NDArray[np.float32]:
    """Unit vectors in the plane: the cosine of two of them is the cosine of the angle between."""
    return unit([[np.cos(np.radians(d)), np.sin(np.radians(d))] for d in degrees])


def inputs(
    folder: Path, image: NDArray[np.float32], text: NDArray[np.float32], captions: list[str]
) -> dict[str, Artifact]:
    keys = [f"{number:064d}" for number in range(len(captions))]
    rows = [
        {"image_key": key, "pair_id": key[:32], "url": "u", "text": caption, "status": "ok", "attempts": 1}
        for key, caption in zip(keys, captions, strict=True)
    ]
    for name in ("images", "embed"):
        (folder / name).mkdir(parents=True)
    write_table(folder / "images" / "images.parquet", IMAGES_SCHEMA, rows)
    write_table(folder / "embed" / "keys.parquet", schema_of(image_key="str"), [{"image_key": key} for key in keys])
    np.save(folder / "embed" / "image.npy", image)
    np.save(folder / "embed" / "text.npy", text)
    return {name: Artifact.of_folder(folder / name) for name in ("images", "embed")}


def mined(
    folder: Path, spec: dict[str, Any], given: dict[str, Artifact], name: str = "out"
) -> tuple[Any, list[tuple[int, int]]]:
    (folder / name).mkdir(exist_ok=True)
    facts = mine_pairs(MineSpec.parse(spec, "test"), **given, out=folder / name)
    rows = read_rows(folder / name / "candidates.parquet", CANDIDATES_SCHEMA)
    return facts, [(int(row["reference_key"]), int(row["target_key"])) for row in rows]


def test_a_hand_worked_row_of_images_on_a_circle(tmp_path: Path) -> None:
    """Images at 0, 10, 40 and 90 degrees; the window reaches from 60 to 5 degrees; no two captions are alike."""
    given = inputs(tmp_path, circle(0, 10, 40, 90), unit(np.eye(4)), ["a", "b", "c", "d"])
    window = {"low": float(np.cos(np.radians(60))), "high": float(np.cos(np.radians(5)))}
    facts, pairs = mined(
        tmp_path,
        {"image": window, "text": {"low": 0.5, "high": 0.9}, "targets_per_reference": 9, "uses_per_image": 99},
        given,
    )
    assert pairs == [(0, 1), (0, 2), (1, 0), (1, 2), (2, 1), (2, 0), (2, 3), (3, 2)]
    assert facts["rows"] == 8
    first = read_rows(tmp_path / "out" / "candidates.parquet", CANDIDATES_SCHEMA)[0]
    assert first["image_similarity"] == pytest.approx(np.cos(np.radians(10)), abs=1e-5)
    assert first["text_similarity"] == 0.0
    assert (first["reference_caption"], first["target_caption"]) == ("a", "b")


def test_neighbours_by_caption_are_found_too(tmp_path: Path) -> None:
    given = inputs(tmp_path, unit(np.eye(3)), circle(0, 30, 180), ["a", "b", "c"])
    _, pairs = mined(tmp_path, {"image": {"low": 0.5, "high": 0.9}, "text": {"low": 0.5, "high": 0.95}}, given)
    assert pairs == [(0, 1), (1, 0)]


def test_copies_are_left_out_with_a_reason(tmp_path: Path) -> None:
    """1 is a copy of the picture 0, 2 has the caption of 0, 3 has nearly its caption; 4 is what 0 wants."""
    image = circle(0, 1, 30, 31, 32)
    text = circle(0, 40, 41, 2, 42)
    given = inputs(tmp_path, image, text, ["a  Cat", "x", "a cat", "a cat.", "y"])
    window = {"low": 0.5, "high": 0.99}
    facts, pairs = mined(
        tmp_path, {"image": window, "text": window, "targets_per_reference": 9, "uses_per_image": 99}, given
    )
    assert [pair for pair in pairs if pair[0] == 0] == [(0, 4)]
    rejects = read_rows(tmp_path / "out" / "rejects.parquet", REJECTS_SCHEMA)
    mine = {row["reason"]: row["detail"] for row in rejects if int(row["id"]) == 0}
    assert mine == {"near_duplicate": "1 pairs", "same_caption": "1 pairs", "near_same_caption": "1 pairs"}
    assert facts["rejects_by_reason"] == {
        reason: sum(int(row["detail"].split()[0]) for row in rejects if row["reason"] == reason)
        for reason in {row["reason"] for row in rejects}
    }


def test_an_image_without_a_neighbour_is_named(tmp_path: Path) -> None:
    given = inputs(tmp_path, unit(np.eye(2)), unit(np.eye(2)), ["a", "b"])
    facts, pairs = mined(tmp_path, {"image": {"low": 0.5, "high": 0.9}, "text": {"low": 0.5, "high": 0.9}}, given)
    assert pairs == []
    assert facts["rejects_by_reason"] == {"no_neighbour": 2}


@settings(max_examples=25)
@given(st.integers(2, 40), st.integers(1, 4), st.integers(1, 6), st.integers(0, 3))
def test_limits_hold_and_pairs_are_distinct(tmp_path_factory: Any, n: int, targets: int, uses: int, seed: int) -> None:
    folder = tmp_path_factory.mktemp("mine")
    rng = np.random.default_rng(n * 100 + seed)
    given = inputs(
        folder, unit(rng.normal(size=(n, 6))), unit(rng.normal(size=(n, 6))), [f"caption {i}" for i in range(n)]
    )
    spec = {"neighbours": 5, "targets_per_reference": targets, "uses_per_image": uses, "image": OPEN, "text": OPEN}
    facts, pairs = mined(folder, spec, given)
    assert len(set(pairs)) == len(pairs) == facts["rows"]
    assert all(reference != target for reference, target in pairs)
    counts = np.bincount([image for pair in pairs for image in pair], minlength=n)
    assert counts.max(initial=0) <= uses
    assert np.bincount([reference for reference, _ in pairs], minlength=1).max() <= targets


@given(st.integers(1, 30), st.integers(1, 8), st.integers(0, 5), st.floats(-1, 0.5), st.floats(0.5, 1.1))
def test_nearest_agrees_with_brute_force(n: int, k: int, seed: int, low: float, high: float) -> None:
    vectors = unit(np.random.default_rng(seed).normal(size=(n, 4)))
    ids, cosines = nearest_in_window(vectors, np.arange(n), k, low, high)
    sims = vectors @ vectors.T
    for row in range(n):
        wanted = sorted((-sims[row, j], j) for j in range(n) if j != row and low <= sims[row, j] < high)[:k]
        assert [int(j) for j in ids[row] if j >= 0] == [j for _, j in wanted]
        assert np.allclose([c for c in cosines[row] if np.isfinite(c)], [-c for c, _ in wanted])


def test_blocks_and_shards_do_not_change_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    vectors = unit(np.round(rng.normal(size=(60, 3))) + 0.5)  # few directions, so many ties
    given = inputs(tmp_path, vectors, unit(rng.normal(size=(60, 3))), [f"caption {i}" for i in range(60)])
    spec = {"neighbours": 7}
    mined(tmp_path, spec, given, "whole")
    monkeypatch.setattr(module, "SHARD_ROWS", 16)
    facts, pairs = mined(tmp_path, spec, given, "parts")
    assert pairs == mined(tmp_path, spec, given, "again")[1]
    assert {path.name for path in (tmp_path / "parts").iterdir()} == {"candidates.parquet", "rejects.parquet"}
    whole = read_rows(tmp_path / "whole" / "candidates.parquet", CANDIDATES_SCHEMA)
    assert whole == read_rows(tmp_path / "parts" / "candidates.parquet", CANDIDATES_SCHEMA)
    assert facts["windows"]["image"][0] < facts["windows"]["image"][1]


def test_finished_neighbour_shards_are_taken_up_after_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARD_ROWS", 10)
    rng = np.random.default_rng(2)
    given = inputs(
        tmp_path, unit(rng.normal(size=(30, 4))), unit(rng.normal(size=(30, 4))), [f"c {i}" for i in range(30)]
    )
    _, wanted = mined(tmp_path, {}, given, "whole")
    calls: list[int] = []

    def dying(*arguments: Any) -> Any:
        calls.append(arguments[2])
        if arguments[2] == 20 and len(calls) == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    original = module._neighbours
    monkeypatch.setattr(module, "_neighbours", dying)
    with pytest.raises(KeyboardInterrupt):
        mined(tmp_path, {}, given, "crashed")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "crashed").glob("neighbours-*")}
    assert sorted(before) == ["neighbours-00000.npy", "neighbours-00001.npy"]
    assert mined(tmp_path, {}, given, "crashed")[1] == wanted
    for name in ("candidates.parquet", "rejects.parquet"):
        assert (tmp_path / "crashed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_max_pairs_is_a_limit_on_the_whole(tmp_path: Path) -> None:
    given = inputs(tmp_path, circle(*range(0, 40, 2)), circle(*range(0, 40, 2)), [f"c {i}" for i in range(20)])
    assert len(mined(tmp_path, {"max_pairs": 5, "image": OPEN, "text": OPEN}, given)[1]) == 5


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_images_give_no_pairs(tmp_path: Path, n: int) -> None:
    given = inputs(tmp_path, np.ones((n, 2), np.float32), np.ones((n, 2), np.float32), ["a"] * n)
    assert mined(tmp_path, {}, given)[1] == []


def test_vectors_of_other_images_are_refused(tmp_path: Path) -> None:
    one = inputs(tmp_path / "one", circle(0, 10), circle(0, 10), ["a", "b"])
    other = inputs(tmp_path / "other", circle(0, 10, 20), circle(0, 10, 20), ["a", "b", "c"])
    with pytest.raises(RequestError, match="are not in 'images'"):
        mined(tmp_path, {}, {"images": one["images"], "embed": other["embed"]})


def test_a_window_must_not_be_empty() -> None:
    with pytest.raises(RequestError, match="must be below"):
        SimilarityWindow.parse({"low": 0.9, "high": 0.8}, "x.toml")
