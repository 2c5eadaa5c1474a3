from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zscir.benchmarks.comparability import (
    EASIER_TEXTS,
    NO_TEXTS,
    ComparisonGroup,
    comparison_group_of,
    control_from_label,
)
from zscir.benchmarks.query import Query
from zscir.benchmarks.registry import BENCHMARKS, benchmark_info

NAMES = [(name, protocol) for name, info in BENCHMARKS.items() for protocol in info.text_makers]


def row(protocol: str, benchmark: str = "cirr", split: str = "val") -> dict[str, str]:
    return {"benchmark": benchmark, "split": split, "protocol": protocol}


def test_a_sheet_is_titled_by_all_that_parts_it() -> None:
    assert comparison_group_of(row("official/pli/clip")).title == "cirr val (official, clip)"
    assert comparison_group_of(row("official/shared_concept/targetpad", "circo")).title == (
        "circo val (official, shared_concept, targetpad)"
    )
    assert comparison_group_of(row("official")) == ComparisonGroup("cirr", "val", "official")


PARTS = st.tuples(
    st.sampled_from(["official", "soft", "official without 2 images"]),
    st.sampled_from(["pli", "searle", NO_TEXTS, *EASIER_TEXTS]),
    st.sampled_from(["clip", "targetpad", "warp"]),
)


@given(PARTS, PARTS)
def test_rankings_easier_texts_and_preprocessings_are_never_in_one_sheet(
    one: tuple[str, str, str], two: tuple[str, str, str]
) -> None:
    easy = [texts if texts in EASIER_TEXTS else "" for _, texts, _ in (one, two)]
    alike = (one[0], easy[0], one[2]) == (two[0], easy[1], two[2])
    assert (comparison_group_of(row("/".join(one))) == comparison_group_of(row("/".join(two)))) == alike


@pytest.mark.parametrize(("benchmark", "protocol"), NAMES)
def test_texts_that_say_more_than_the_modification_are_known_as_easier(benchmark: str, protocol: str) -> None:
    """What may share a column with the others has queries of the captions alone, whatever its template."""
    query = Query("0", "r", ("is red", "has stripes") if benchmark == "fashioniq" else ("is red",), ("t",))
    other = replace(query, shared_concept="a dog", targets=("x",), aspects=("negation",), reference="y")
    texts_of = benchmark_info(benchmark).text_makers[protocol]
    says_more = texts_of(query) != texts_of(other)
    assert says_more == (protocol in EASIER_TEXTS)


@pytest.mark.parametrize(
    ("label", "control"),
    [("image only", "image"), ("text only", "text"), ("sum, lambda 0.5", "sum"), ("sum, lambda 1 (tuned)", "sum"),
     ("pli: sum, lambda 1", None), ("pli", None), ("my image only", None)],
)  # fmt: skip
def test_an_untrained_control_is_known_by_its_label(label: str, control: str | None) -> None:
    assert control_from_label(label) == control
