import numpy as np

from zscir.benchmarks import Query
from zscir.benchmarks.cirr import Cirr
from zscir.benchmarks.fashioniq import FashionIQ
from zscir.benchmarks.score_rows import ScoreLabel, macro_mean, metric_scores, protocol_label


def test_the_mean_over_categories_is_unweighted_and_n_is_their_sum() -> None:
    parts = []
    for category, ranks in (("dress", [1, 2]), ("shirt", [1, 1, 1, 2])):
        queries = [Query(str(i), "a", ("x", "y"), ("b",)) for i in range(len(ranks))]
        bench = FashionIQ("val", "original", queries, ["a", "b"], category)
        scores = np.array([[0.5, 1.0] if rank == 1 else [0.5, 0.0] for rank in ranks], dtype=np.float32)
        parts.append((bench, bench.metric_values(scores)))
    mean = macro_mean(parts, ScoreLabel("original"))[0]
    assert (mean.benchmark, mean.metric, mean.value, mean.n, mean.hits) == ("fashioniq/mean", "R@1", 62.5, 6, 4)
    assert mean.low < 62.5 < mean.high


def test_adding_a_metric_moves_no_other_interval() -> None:
    queries = [Query(str(i), "a", ("x",), ("b",), ("a",), ("b", "c")) for i in range(9)]
    bench = Cirr("val", "official", queries, ["a", "b", "c"])
    measures = bench.metric_values(np.random.default_rng(0).random((9, 3), dtype=np.float32))
    every, some = (
        metric_scores(bench, measures, ScoreLabel("official")),
        metric_scores(bench, measures[:1], ScoreLabel("official")),
    )
    assert every[0] == some[0]


def test_a_protocol_label_joins_what_is_named() -> None:
    assert protocol_label("original", "searle", "targetpad") == "original/searle/targetpad"
    assert protocol_label("official", "", "") == "official"
