"""Counting gives the ranks that a stable full sort would give; every oracle here is plain Python on sorted tuples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zscir.benchmarks.ranking import NumpyScoreBlock, float32_scores, padded, ranks_among, ranks_of, top_lists
from zscir.benchmarks.similarity import pairwise_cosines, repeated_rows, score_blocks, unit_rows
from zscir.runtime.errors import RequestError

few_levels = st.integers(0, 4).map(lambda level: level / 4)
row = st.lists(few_levels, min_size=1, max_size=40)
same_length = st.integers(1, 40).flatmap(
    lambda length: st.lists(st.lists(few_levels, min_size=length, max_size=length), min_size=1, max_size=5)
)


def sorted_columns(row: list[float], excluded: set[int]) -> list[int]:
    return [c for _, c in sorted((-score, c) for c, score in enumerate(row)) if c not in excluded]


def block_of(*rows: list[float]) -> NumpyScoreBlock:
    return NumpyScoreBlock(np.array(rows, dtype=np.float32))


@pytest.mark.parametrize("compared_at_once", [1, 64, 1 << 17])  # long rows one by one, several rows, all rows at once
@given(same_length, st.data())
def test_a_rank_is_the_place_in_a_stable_sort_without_the_excluded(
    compared_at_once: int, rows: list[list[float]], data: st.DataObject
) -> None:
    column = st.integers(0, len(rows[0]) - 1)
    columns = data.draw(st.lists(st.lists(column, max_size=4), min_size=len(rows), max_size=len(rows)))
    excluded = data.draw(st.lists(st.lists(column, max_size=3, unique=True), min_size=len(rows), max_size=len(rows)))
    block = NumpyScoreBlock(np.array(rows, dtype=np.float32), compared_at_once)
    found = ranks_of(block, padded([*columns, [0] * 5])[:-1], padded(excluded))
    for row, targets, out, ranks in zip(rows, columns, excluded, found.tolist(), strict=True):
        order = sorted_columns(row, set(out))
        assert ranks == [*(order.index(c) + 1 if c in order else 0 for c in targets), *[0] * (5 - len(targets))]


@given(same_length, st.integers(1, 60), st.data())
def test_the_top_list_is_the_head_of_a_stable_sort(rows: list[list[float]], k: int, data: st.DataObject) -> None:
    column = st.integers(0, len(rows[0]) - 1)
    excluded = data.draw(st.lists(st.lists(column, max_size=3, unique=True), min_size=len(rows), max_size=len(rows)))
    best = top_lists(block_of(*rows), k, padded(excluded))
    expected = [sorted_columns(row, set(out))[:k] for row, out in zip(rows, excluded, strict=True)]
    assert [columns.tolist() for columns in best] == expected


@pytest.mark.parametrize("levels", [2, 300, 10**6])
def test_the_top_list_of_a_long_row_keeps_ties_in_order(levels: int) -> None:
    row = (np.random.default_rng(1).integers(0, levels, 50_001) / levels).astype(np.float32)
    (best,) = top_lists(NumpyScoreBlock(row[None]), 50, np.array([[7, -1]]))
    assert best.tolist() == [c for c in np.argsort(-row, kind="stable") if c != 7][:50]


@given(row, st.data())
def test_a_subset_rank_is_the_place_among_the_members(row: list[float], data: st.DataObject) -> None:
    members = data.draw(st.lists(st.integers(0, len(row) - 1), min_size=1, max_size=6, unique=True))
    target = members[-1]
    expected = sorted(members, key=lambda c: (-row[c], c)).index(target) + 1
    columns = padded([members, [*members, *range(100, 103)]])[:1]
    assert ranks_among(block_of(row), columns, np.array([target])).tolist() == [expected]


@given(same_length, st.data())
def test_an_item_that_is_pushed_down_ranks_among_the_lowest(rows: list[list[float]], data: st.DataObject) -> None:
    pushed = [data.draw(st.integers(0, len(row) - 1)) for row in rows]
    block = block_of(*rows)
    found = ranks_of(block.with_lowest_score(np.array(pushed)), np.array(pushed)[:, None], padded([[]] * len(rows)))
    for row, column, rank in zip(rows, pushed, found[:, 0], strict=True):
        lowered = [min(row) if c == column else score for c, score in enumerate(row)]
        assert rank == sorted_columns(lowered, set()).index(column) + 1
    np.testing.assert_array_equal(block.scores_BG, np.array(rows, dtype=np.float32))


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
    whole = np.concatenate([block.scores_BG for _, block in score_blocks(query, gallery, "t")])
    parts = [(rows, block.scores_BG) for rows, block in score_blocks(query, gallery, "t", block_bytes=2 * 30 * 4)]
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


def test_every_row_without_direction_is_counted_wherever_its_block_lies() -> None:
    gallery = np.ones((20_000, 2), dtype=np.float32)
    gallery[[3, 8191, 8192, 19_999]] = 0
    gallery[8200, 1] = np.nan
    gallery[9000:9010] = np.inf
    words = (
        r"t: gallery features \[3\] holds only zeros, \[8191\] holds only zeros, \[8192\] holds only zeros, "
        r"\[8200\] holds NaN or infinity, \[9000\] .* and 5 more; a cosine needs finite values"
    )
    with pytest.raises(RequestError, match=words):
        list(score_blocks(np.ones((1, 2), dtype=np.float32), gallery, "t"))


def test_a_candidate_without_direction_is_named_by_its_query_and_place() -> None:
    candidates = np.ones((5, 3, 2), dtype=np.float32)
    candidates[4, 1] = 0
    queries = np.ones((5, 2), dtype=np.float32)
    with pytest.raises(RequestError, match=r"gallery features \[4, 1\] holds only zeros"):
        pairwise_cosines(queries[4:], candidates[4:], "genecis", candidates)


@pytest.mark.parametrize("width", [33, 257, 768])
def test_equal_images_tie_in_gallery_order_though_a_product_rounds_by_its_place(width: int) -> None:
    """A matrix product works in tiles, and its last columns are often added up in another order than the others."""
    rng = np.random.default_rng(7)
    image, queries = rng.standard_normal((1, width)), rng.standard_normal((17, width))
    ((_, block),) = score_blocks(queries, np.repeat(image, 8193, axis=0), "t")
    assert (block.scores_BG == block.scores_BG[:, :1]).all()
    columns = np.tile([0, 5, 8191, 8192], (17, 1))
    assert (ranks_of(block, columns, padded([[]] * 17)) == columns + 1).all()
    assert (block.best(50) == np.arange(50)).all()
