import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zscir.benchmarks.breakdown import breakdown_rows
from zscir.benchmarks.circo import ASPECTS

CIRR = {("cirr", "val"): "official/pli/clip"}


def query_row(
    number: int, words: int, reference_rank: int | None, benchmark: str = "cirr", *aspects: str
) -> dict[str, Any]:
    place = {"benchmark": benchmark, "split": "val", "query_id": str(number)}
    return {**place, "words": words, "reference_rank": reference_rank, "aspects": json.dumps(aspects)}


def found(number: int, value: float, metric: str = "R@1", benchmark: str = "cirr") -> dict[str, Any]:
    place = {"benchmark": benchmark, "split": "val", "query_id": str(number)}
    return {**place, "metric": metric, "value": value}


def test_queries_are_grouped_by_length_and_by_the_rank_of_their_reference() -> None:
    queries = [query_row(0, 5, 1), query_row(1, 6, 1), query_row(2, 21, 2), query_row(3, 3, 11)]
    values = [found(0, 1.0), found(1, 0.0), found(2, 1.0), found(3, 0.0), found(0, 0.0, "R@5")]
    rows = list(breakdown_rows(queries, values, CIRR))
    assert {(row["by"], row["group"]): (row["value"], row["hits"], row["n"]) for row in rows} == {
        ("words", "1-5 words"): (50.0, 1, 2),
        ("words", "6-10 words"): (0.0, 0, 1),
        ("words", "21 words or more"): (100.0, 1, 1),
        ("reference", "reference first"): (50.0, 1, 2),
        ("reference", "reference 2nd-10th"): (100.0, 1, 1),
        ("reference", "reference later"): (0.0, 0, 1),
    }
    assert {row["protocol"] for row in rows} == {"official/pli/clip"}
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)


def test_each_benchmark_has_its_headline_metric_and_genecis_no_reference_rank() -> None:
    queries = [query_row(0, 1, None, "genecis/focus_object"), query_row(0, 9, 4, "circo")]
    values = [found(0, 1.0, "R@1", "genecis/focus_object"), found(0, 0.25, "mAP@5", "circo")]
    rows = list(breakdown_rows(queries, values, {}))
    assert [(row["benchmark"], row["metric"], row["by"], row["value"], row["hits"]) for row in rows] == [
        ("genecis/focus_object", "R@1", "words", 100.0, 1),
        ("circo", "mAP@5", "words", 25.0, None),
        ("circo", "mAP@5", "reference", 25.0, None),
    ]


def test_circo_is_grouped_by_aspect_with_the_metric_of_its_authors() -> None:
    queries = [
        query_row(0, 3, None, "circo", "viewpoint", "negation"),
        query_row(1, 3, None, "circo", "negation", "new kind"),
    ]
    values = [found(0, 0.5, "mAP@10", "circo"), found(1, 0.0, "mAP@10", "circo"), found(0, 1.0, "mAP@5", "circo")]
    rows = [row for row in breakdown_rows(queries, values, {}) if row["by"] == "aspect"]
    assert [(row["group"], row["metric"], row["value"], row["n"]) for row in rows] == [
        ("negation", "mAP@10", 25.0, 2), ("viewpoint", "mAP@10", 50.0, 1), ("new kind", "mAP@10", 0.0, 1),
    ]  # fmt: skip
    assert ASPECTS.index("negation") < ASPECTS.index("viewpoint")


def test_categories_are_also_taken_together_where_the_benchmark_averages_over_them() -> None:
    queries = [
        query_row(0, 3, 1, "fashioniq/dress"),
        query_row(0, 4, 1, "fashioniq/shirt"),
        query_row(1, 4, 9, "fashioniq/shirt"),
    ]
    values = [
        found(0, 1.0, "R@10", "fashioniq/dress"), found(0, 0.0, "R@10", "fashioniq/shirt"),
        found(1, 1.0, "R@10", "fashioniq/shirt"),
    ]  # fmt: skip
    whole = {(f"fashioniq/{name}", "val"): "original/pli/clip" for name in ("dress", "shirt", "mean")}
    rows = list(breakdown_rows(queries, values, whole))
    words = {row["benchmark"]: (row["hits"], row["n"]) for row in rows if row["by"] == "words"}
    assert words == {"fashioniq/dress": (1, 1), "fashioniq/shirt": (1, 2), "fashioniq/all": (2, 3)}
    assert {row["protocol"] for row in rows} == {"original/pli/clip"}
    without_mean = breakdown_rows(queries, values, {})
    assert {row["benchmark"] for row in without_mean} == {"fashioniq/dress", "fashioniq/shirt"}


def test_queries_without_answers_are_in_no_group() -> None:
    assert list(breakdown_rows([query_row(0, 5, 1)], [], CIRR)) == []


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 40), st.booleans()), min_size=1, max_size=30))
def test_groups_part_the_queries_and_average_to_the_whole(drawn: list[tuple[int, int, bool]]) -> None:
    queries = [query_row(number, words, rank) for number, (words, rank, _) in enumerate(drawn)]
    rows = list(breakdown_rows(queries, [found(number, float(hit)) for number, (_, _, hit) in enumerate(drawn)], CIRR))
    for by in ("words", "reference"):
        own = [row for row in rows if row["by"] == by]
        assert sum(row["n"] for row in own) == len(drawn)
        whole = sum(row["value"] * row["n"] for row in own) / len(drawn)
        assert whole == pytest.approx(100 * sum(hit for _, _, hit in drawn) / len(drawn))
