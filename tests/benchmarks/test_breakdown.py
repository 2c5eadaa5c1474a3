from typing import Any

from zscir.benchmarks.breakdown import breakdown


def asked(number: int, words: int, reference_rank: int | None, benchmark: str = "cirr") -> dict[str, Any]:
    place = {"benchmark": benchmark, "split": "val", "query_id": str(number)}
    return {**place, "words": words, "reference_rank": reference_rank}


def found(number: int, value: float, metric: str = "R@1", benchmark: str = "cirr") -> dict[str, Any]:
    place = {"benchmark": benchmark, "split": "val", "query_id": str(number)}
    return {**place, "metric": metric, "value": value}


def test_queries_are_grouped_by_length_and_by_the_rank_of_their_reference() -> None:
    queries = [asked(0, 5, 1), asked(1, 6, 1), asked(2, 21, 2), asked(3, 3, 11)]
    values = [found(0, 1.0), found(1, 0.0), found(2, 1.0), found(3, 0.0), found(0, 0.0, "R@5")]
    groups = {(row["by"], row["group"]): (row["value"], row["n"]) for row in breakdown(queries, values)}
    assert groups == {
        ("words", "1-5 words"): (50.0, 2),
        ("words", "6-10 words"): (0.0, 1),
        ("words", "21 words or more"): (100.0, 1),
        ("reference", "reference first"): (50.0, 2),
        ("reference", "reference 2nd-10th"): (100.0, 1),
        ("reference", "reference later"): (0.0, 1),
    }


def test_each_benchmark_has_its_headline_metric_and_genecis_no_reference_rank() -> None:
    queries = [asked(0, 1, None, "genecis/focus_object"), asked(0, 9, 4, "circo")]
    values = [found(0, 1.0, "R@1", "genecis/focus_object"), found(0, 0.25, "mAP@5", "circo")]
    rows = list(breakdown(queries, values))
    assert [(row["benchmark"], row["metric"], row["by"], row["value"]) for row in rows] == [
        ("genecis/focus_object", "R@1", "words", 100.0),
        ("circo", "mAP@5", "words", 25.0),
        ("circo", "mAP@5", "reference", 25.0),
    ]


def test_queries_without_answers_are_in_no_group() -> None:
    assert list(breakdown([asked(0, 5, 1)], [])) == []
