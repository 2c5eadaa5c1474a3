"""A benchmark without some of its images: fewer queries, a smaller gallery, and a protocol that says so."""

import numpy as np
import pytest

from zscir.benchmarks.circo import Circo
from zscir.benchmarks.cirr import Cirr, SoftCirr
from zscir.benchmarks.genecis import Genecis
from zscir.benchmarks.query import Query
from zscir.runtime.errors import RequestError

GALLERY = list("abcdef")
QUERIES = [
    Query("0", "a", ("t",), ("b", "c"), ("a",), ("b", "c", "d"), (("b", 1.0), ("c", 0.5))),
    Query("1", "b", ("t",), ("d",), ("b",), ("a", "d"), (("d", 1.0),)),
    Query("2", "e", ("t",), ("f", "a"), ("e",), ("f", "a"), (("f", 1.0),)),
]


def test_queries_without_their_reference_or_target_are_gone() -> None:
    bench = Circo("val", "official", QUERIES, GALLERY).without_images({"b", "c"})
    assert [query.query_id for query in bench.queries] == ["2"]
    assert bench.gallery == list("adef")
    assert bench.protocol == "official without 2 images"


def test_further_answers_and_members_leave_with_their_images() -> None:
    bench = Cirr("val", "official", QUERIES, GALLERY).without_images({"c", "z"})
    assert (bench.queries[0].targets, bench.queries[0].subset) == (("b",), ("b", "d"))
    scores = np.array([[9, 5, 4, 3, 2], [1, 9, 5, 4, 3], [1, 2, 3, 9, 8]], dtype=np.float32)
    assert bench.score(scores) == Cirr(
        "val", "official", [query.without_images("c") for query in QUERIES], list("abdef")
    ).score(scores)
    assert bench.protocol == "official without 1 images"


def test_graded_answers_leave_with_their_images() -> None:
    bench = SoftCirr("val", "soft", QUERIES, GALLERY).without_images({"c"})
    assert dict(bench.queries[0].soft) == {"b": 1.0}
    assert bench.score(np.eye(3, 5, dtype=np.float32)).keys()


def test_a_genecis_query_needs_all_of_its_candidates() -> None:
    rows = [["a", "b"], ["c", "d"], ["e", "b"]]
    queries = [Query(str(n), "f", ("t",), (row[0],)) for n, row in enumerate(rows)]
    bench = Genecis(queries, rows, "focus_object")
    left = bench.without_images({"b", "z"})
    assert [query.query_id for query in left.queries] == ["1"]
    assert (left.gallery, left.protocol) == (["c", "d"], "official without 1 images")
    with pytest.raises(RequestError, match="no query is left"):
        bench.without_images({"f"})


def test_nothing_changes_when_nothing_of_it_is_absent() -> None:
    bench = Cirr("val", "official", QUERIES, GALLERY)
    assert bench.without_images({"z"}) is bench


def test_nothing_may_be_absent_where_a_server_counts() -> None:
    hidden = [Query("0", "a", ("t",), (), ("a",), ("b", "c"))]
    with pytest.raises(RequestError, match="a server counts every image and query"):
        Cirr("test1", "official", hidden, GALLERY).without_images({"f"})
    with pytest.raises(RequestError, match="no query is left"):
        Cirr("val", "official", QUERIES[:1], GALLERY).without_images({"a"})
