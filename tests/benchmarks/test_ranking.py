"""Counting gives the ranks that a stable full sort would give; every oracle here is plain Python on sorted tuples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zscir.benchmarks.ranking import float32_scores, padded, rank_of, ranks_among, top_columns
from zscir.benchmarks.similarity import repeated_rows, score_blocks, unit_rows
from zscir.errors import RequestError

few_levels = st.integers(0, 4).map(lambda level: level / 4)
rows = st.lists(few_levels, min_size=1, max_size=40)


def sorted_columns(row: list[float], excluded: set[int]) -> list[int]:
    return [c for _, c in sorted((-score, c) for c, score in enumerate(row)) if c not in excluded]


@given(rows, st.data())
def test_a_rank_is_the_place_in_a_stable_sort_without_the_excluded(row: list[float], data: st.DataObject) -> None:
    column = data.draw(st.integers(0, len(row) - 1))
    excluded = data.draw(st.sets(st.integers(0, len(row) - 1), max_size=3))
    order = sorted_columns(row, excluded)
    expected = order.index(column) + 1 if column in order else 0
    assert rank_of(np.array(row, dtype=np.float32), column, sorted(excluded)) == expected


@given(rows, st.integers(1, 60), st.data())
def test_the_top_list_is_the_head_of_a_stable_sort(row: list[float], k: int, data: st.DataObject) -> None:
    excluded = data.draw(st.sets(st.integers(0, len(row) - 1), max_size=3))
    best = top_columns(np.array(row, dtype=np.float32), k, sorted(excluded))
    assert best.tolist() == sorted_columns(row, excluded)[:k]


@pytest.mark.parametrize("levels", [2, 300, 10**6])
def test_the_top_list_of_a_long_row_keeps_ties_in_order(levels: int) -> None:
    row = (np.random.default_rng(1).integers(0, levels, 50_001) / levels).astype(np.float32)
    assert top_columns(row, 50, [7]).tolist() == [c for c in np.argsort(-row, kind="stable") if c != 7][:50]


@given(rows, st.data())
def test_a_subset_rank_is_the_place_among_the_members(row: list[float], data: st.DataObject) -> None:
    members = data.draw(st.lists(st.integers(0, len(row) - 1), min_size=1, max_size=6, unique=True))
    target = members[-1]
    expected = sorted(members, key=lambda c: (-row[c], c)).index(target) + 1
    columns = padded([members, [*members, *range(100, 103)]])[:1]
    assert ranks_among(np.array([row], dtype=np.float32), columns, np.array([target])).tolist() == [expected]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_a_score_that_is_no_number_is_named(bad: float) -> None:
    scores = np.zeros((3, 4))
    scores[1, 2] = bad
    with pytest.raises(RequestError, match=r"scores\[1, 2\] is"):
        float32_scores(scores, (3, 4), "cirr val")


def test_scores_of_another_shape_or_type_are_refused() -> None:
    with pytest.raises(RequestError, match=r"shape \(3, 5\), expected \(3, 4\)"):
        float32_scores(np.zeros((3, 5)), (3, 4), "cirr val")
    for wrong in (np.float16, np.complex64, object, str, bool):
        with pytest.raises(RequestError, match="give float32"):
            float32_scores(np.zeros((3, 4)).astype(wrong), (3, 4), "cirr val")


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("width", [1, 3, 32])
def test_equal_gallery_rows_are_found(dtype: type, width: int) -> None:
    rng = np.random.default_rng(0)
    distinct = np.arange(1, 21).reshape(20, 1) + rng.random((20, width))
    which = rng.integers(0, 20, 60)
    copies, originals = repeated_rows(distinct[which].astype(dtype))
    expected = [(i, int(np.flatnonzero(which == which[i])[0])) for i in range(60)]
    assert list(zip(copies.tolist(), originals.tolist(), strict=True)) == [(i, j) for i, j in expected if i != j]


def test_blocks_give_the_same_scores_whatever_their_size() -> None:
    rng = np.random.default_rng(2)
    query, gallery = rng.standard_normal((7, 16)), rng.standard_normal((30, 16)).astype(np.float16)
    whole = np.concatenate([scores for _, scores in score_blocks(query, gallery, "t")])
    parts = [(rows, scores) for rows, scores in score_blocks(query, gallery, "t", block_bytes=2 * 30 * 4)]
    assert [rows for rows, _ in parts] == [slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 7)]
    np.testing.assert_allclose(np.concatenate([scores for _, scores in parts]), whole, atol=1e-6)
    gallery64 = gallery.astype(np.float64)
    exact = query @ gallery64.T / np.linalg.norm(query, axis=1)[:, None] / np.linalg.norm(gallery64, axis=1)
    np.testing.assert_allclose(whole, exact, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e25, 1e38])
def test_tiny_and_huge_features_keep_their_direction(scale: float) -> None:
    row = np.array([[3.0, 4.0], [0.6, 0.8]]) * np.array([[scale / 5], [1]])
    np.testing.assert_allclose(unit_rows(row.astype(np.float32), "t", "query"), [[0.6, 0.8]] * 2, rtol=1e-5)


@pytest.mark.parametrize(("value", "words"), [(0.0, "only zeros"), (np.nan, "NaN or infinity"), (np.inf, "NaN or inf")])
def test_a_feature_row_without_direction_is_named(value: float, words: str) -> None:
    features = np.ones((4, 3), dtype=np.float32)
    features[2] = value
    with pytest.raises(RequestError, match=rf"gallery features \[2\] holds {words}"):
        unit_rows(features, "cirr val", "gallery")
