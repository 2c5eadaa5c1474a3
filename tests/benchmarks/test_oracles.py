"""Small random benchmarks against a plain reading of the protocols; then the classic wrong readings, which must differ.

The oracle sorts (score, gallery position) tuples of one query at a time and knows nothing of the code under test.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zscir.benchmarks.circo import Circo
from zscir.benchmarks.cirr import Cirr, SoftCirr
from zscir.benchmarks.fashioniq import FashionIQ
from zscir.benchmarks.genecis import Genecis
from zscir.benchmarks.query import Query
from zscir.runtime.errors import RequestError

LEVELS = 6  # few levels: most rankings hold ties
IDS = [f"i{n:02d}" for n in (7, 3, 9, 1, 8, 0, 5, 2, 6, 4, 11, 10)]  # gallery order is not the order of the names


@dataclass
class Case:
    queries: list[Query]
    gallery: list[str]
    scores: list[list[float]]

    @property
    def matrix(self) -> np.ndarray:
        return np.array(self.scores, dtype=np.float32)


@st.composite
def cases(draw: st.DrawFn, answers: int = 1, excluding: bool = False) -> Case:
    gallery = IDS[: draw(st.integers(8, len(IDS)))]
    queries = []
    for index in range(draw(st.integers(1, 5))):
        reference, *others = draw(st.permutations(gallery))
        targets = tuple(others[: draw(st.integers(1, answers))])
        subset = tuple(draw(st.permutations(others[:5])))
        labels = tuple((name, draw(st.sampled_from([1.0, 0.5, 0.2, -1.0]))) for name in [*others[:3], reference])
        aspects = tuple(draw(st.sets(st.sampled_from(["negation", "viewpoint"]))))
        excluded = (reference,) if excluding else ()
        queries.append(Query(str(index), reference, ("c",), targets, excluded, subset, labels, aspects))
    level = st.integers(0, LEVELS).map(lambda k: k / LEVELS)
    scores = [draw(st.lists(level, min_size=len(gallery), max_size=len(gallery))) for _ in queries]
    return Case(queries, gallery, scores)


def ranking(scores: Sequence[float], gallery: Sequence[str], without: Sequence[str] = ()) -> list[str]:
    order = sorted(range(len(gallery)), key=lambda column: (-scores[column], column))
    return [gallery[column] for column in order if gallery[column] not in without]


def recall(case: Case, cut: int, *, without_reference: bool) -> float:
    hits = 0
    for query, scores in zip(case.queries, case.scores, strict=True):
        ranked = ranking(scores, case.gallery, (query.reference,) if without_reference else ())
        hits += query.targets[0] in ranked[:cut]
    return 100 * hits / len(case.queries)


def precision(ranked: Sequence[str], answers: Sequence[str], cut: int, denominator: int) -> float:
    total, found = 0.0, 0
    for place, image_id in enumerate(ranked[:cut], start=1):
        if image_id in answers:
            found += 1
            total += found / place
    return total / denominator


def mean_precision(case: Case, cut: int, *, without_reference: bool = False, over_all_answers: bool = False) -> float:
    values = []
    for query, scores in zip(case.queries, case.scores, strict=True):
        ranked = ranking(scores, case.gallery, (query.reference,) if without_reference else ())
        denominator = len(query.targets) if over_all_answers else min(cut, len(query.targets))
        values.append(precision(ranked, query.targets, cut, denominator))
    return 100 * float(np.mean(values))


@given(cases())
def test_fashioniq_counts_targets_with_the_reference_in_the_gallery(case: Case) -> None:
    scores = FashionIQ("val", "original", case.queries, case.gallery, "dress").score(case.matrix)
    assert scores == {f"R@{cut}": recall(case, cut, without_reference=False) for cut in (1, 5, 10, 50)}


@given(cases(excluding=True))
def test_cirr_counts_targets_without_the_reference_and_among_the_image_set(case: Case) -> None:
    scores = Cirr("val", "official", case.queries, case.gallery).score(case.matrix)
    for cut in (1, 5, 10, 50):
        assert scores[f"R@{cut}"] == recall(case, cut, without_reference=True)
    for cut in (1, 2, 3):
        hits = 0
        for query, row in zip(case.queries, case.scores, strict=True):
            outside = set(case.gallery) - set(query.subset)
            hits += query.targets[0] in ranking(row, case.gallery, tuple(outside))[:cut]
        assert scores[f"Rsub@{cut}"] == 100 * hits / len(case.queries)


@given(cases(excluding=True))
def test_cirr_soft_takes_the_best_label_with_the_reference_pushed_down(case: Case) -> None:
    scores = SoftCirr("val", "soft", case.queries, case.gallery).score(case.matrix)
    for cut in (1, 2, 5):
        values = []
        for query, row in zip(case.queries, case.scores, strict=True):
            pushed = list(row)
            pushed[case.gallery.index(query.reference)] = min(row)
            labels = dict(query.soft)
            values.append(max([0.0, *(labels.get(name, 0.0) for name in ranking(pushed, case.gallery)[:cut])]))
        assert scores[f"softR@{cut}"] == pytest.approx(100 * np.mean(values), abs=1e-9)


@given(cases(answers=7))
def test_circo_averages_precision_over_at_most_k_answers(case: Case) -> None:
    scores = Circo("val", "official", case.queries, case.gallery).score(case.matrix)
    for cut in (5, 10, 25, 50):
        assert scores[f"mAP@{cut}"] == pytest.approx(mean_precision(case, cut), abs=1e-9)
        assert scores[f"R@{cut}"] == recall(case, cut, without_reference=False)
    for aspect in ("negation", "viewpoint"):
        own = [i for i, query in enumerate(case.queries) if aspect in query.aspects]
        assert (f"semantic_mAP@10/{aspect}" in scores) == bool(own)
        if own:
            part = Case([case.queries[i] for i in own], case.gallery, [case.scores[i] for i in own])
            assert scores[f"semantic_mAP@10/{aspect}"] == pytest.approx(mean_precision(part, 10), abs=1e-9)


@given(cases(answers=4))
def test_circo_predictions_score_as_the_ranking_they_are_the_head_of(case: Case) -> None:
    numbers = {name: str(index) for index, name in enumerate(case.gallery)}
    queries = [
        Query(q.query_id, numbers[q.reference], q.captions, tuple(numbers[t] for t in q.targets)) for q in case.queries
    ]
    bench = Circo("val", "official", queries, list(numbers.values()))
    lists = {q.query_id: ranking(row, bench.gallery) for q, row in zip(queries, case.scores, strict=True)}
    assert bench.score_predictions(lists) == bench.score(case.matrix)
    assert bench.submission(case.matrix)["circo_val.json"] == {q: list(map(int, ids)) for q, ids in lists.items()}


@given(st.integers(1, 6), st.integers(2, 9), st.data())
def test_genecis_ranks_only_the_querys_candidates_and_the_target_wins_ties(
    queries: int, width: int, data: st.DataObject
) -> None:
    level = st.integers(0, 3).map(lambda k: k / 3)
    rows = data.draw(st.lists(st.lists(level, min_size=width, max_size=width), min_size=queries, max_size=queries))
    bench = genecis(queries, width)
    expected = {
        f"R@{cut}": 100 * sum(sum(s > row[0] for s in row[1:]) < cut for row in rows) / queries for cut in (1, 2, 3)
    }
    assert bench.score(np.array(rows, dtype=np.float32)) == expected


def genecis(queries: int, width: int) -> Genecis:
    rows = [[str(100 * q + c) for c in range(width)] for q in range(queries)]
    query_list = [Query(str(q), "1", ("color",), (row[0],)) for q, row in enumerate(rows)]
    return Genecis(query_list, rows, "focus_object")


@settings(deadline=None)
@given(cases(answers=3, excluding=True), st.integers(0, 3))
def test_features_score_as_their_cosines_even_when_gallery_images_repeat(case: Case, seed: int) -> None:
    rng = np.random.default_rng(seed)
    looks = rng.standard_normal((4, 5)).astype(np.float32)
    gallery = looks[rng.integers(0, 4, len(case.gallery))] * np.float32(3)
    queries = rng.standard_normal((len(case.queries), 5)).astype(np.float32)
    exact = queries.astype(np.float64) @ (gallery / np.linalg.norm(gallery, axis=1, keepdims=True)).astype(np.float64).T
    order = np.unique(exact.round(9), return_inverse=True)[1].reshape(exact.shape)
    levels = Case(case.queries, case.gallery, order.astype(float).tolist())
    for bench in (Cirr("val", "official", case.queries, case.gallery), circo(case.queries, case.gallery)):
        assert bench.score_features(queries, gallery) == bench.score(levels.matrix)


def circo(queries: Sequence[Query], gallery: Sequence[str]) -> Circo:
    return Circo("val", "official", queries, gallery)


def wrong_reading_case() -> Case:
    """One query whose reference scores best of all, with two answers at places 2 and 7."""
    gallery = [f"g{n}" for n in range(12)]
    query = Query("0", "g0", ("c",), ("g1", "g6"), ("g0",), ("g1", "g2", "g3", "g4", "g5"), aspects=("negation",))
    return Case([query], gallery, [[1 - n / 20 for n in range(12)]])


def test_a_reference_kept_in_cirr_lowers_recall() -> None:
    case = wrong_reading_case()
    assert Cirr("val", "official", case.queries, case.gallery).score(case.matrix)["R@1"] == 100
    assert recall(case, 1, without_reference=False) == 0


def test_a_reference_removed_in_circo_raises_precision() -> None:
    case = wrong_reading_case()
    kept = [Query("0", "g0", ("c",), ("g1", "g6"))]
    assert circo(kept, case.gallery).score(case.matrix)["mAP@5"] == pytest.approx(100 * (1 / 2) / 2)
    assert mean_precision(case, 5, without_reference=True) == pytest.approx(100 * (1 / 1) / 2)
    excluded = Circo("val", "reference_excluded", case.queries, case.gallery)
    assert excluded.score(case.matrix)["mAP@5"] == pytest.approx(mean_precision(case, 5, without_reference=True))


def test_average_precision_over_all_answers_instead_of_k_is_too_low() -> None:
    gallery = [f"g{n}" for n in range(12)]
    case = Case([Query("0", "g11", ("c",), tuple(gallery[:8]))], gallery, [[1 - n / 20 for n in range(12)]])
    assert circo(case.queries, gallery).score(case.matrix)["mAP@5"] == 100
    assert mean_precision(case, 5, over_all_answers=True) == 62.5


def test_ties_that_favour_the_target_would_be_too_kind() -> None:
    gallery = [f"g{n}" for n in range(5)]
    bench = FashionIQ("val", "original", [Query("0", "g0", ("a", "b"), ("g4",))], gallery, "dress")
    assert bench.score(np.ones((1, 5), dtype=np.float32))["R@1"] == 0
    assert bench.score(np.ones((1, 5), dtype=np.float32))["R@5"] == 100


def test_a_split_without_answers_gives_no_score() -> None:
    queries = [Query("5", "g0", ("c",), (), ("g0",), ("g1", "g2"))]
    bench = Cirr("test1", "official", queries, ["g0", "g1", "g2"])
    scores = np.zeros((1, 3), dtype=np.float32)
    with pytest.raises(RequestError, match="answers are not in the annotation files"):
        bench.score(scores)
    files = bench.submission(scores)
    assert files["cirr_test1_recall.json"] == {"version": "rc2", "metric": "recall", "5": ["g1", "g2"]}
    assert files["cirr_test1_recall_subset.json"]["5"] == ["g1", "g2"]


@pytest.mark.parametrize(
    ("query", "gallery"), [((2, 3), (5, 3)), ((1, 3), (4, 3)), ((1, 3), (5, 2)), ((3,), (5, 3)), ((1, 0), (5, 0))]
)
def test_features_of_another_shape_are_refused(query: tuple[int, ...], gallery: tuple[int, ...]) -> None:
    bench = FashionIQ("val", "original", [Query("0", "a", ("x", "y"), ("b",))], list("abcde"), "dress")
    with pytest.raises(RequestError, match="features have shape"):
        bench.score_features(np.ones(query, dtype=np.float32), np.ones(gallery, dtype=np.float32))


def test_genecis_takes_features_per_region_or_per_candidate() -> None:
    rng = np.random.default_rng(5)
    bench = genecis(4, 6)
    queries, regions = rng.standard_normal((4, 8)), rng.standard_normal((24, 8))
    assert bench.score_features(queries, regions) == bench.score_features(queries, regions[bench.candidates_QC])
    with pytest.raises(RequestError, match="no server"):
        bench.submission(np.zeros((4, 6), dtype=np.float32))
