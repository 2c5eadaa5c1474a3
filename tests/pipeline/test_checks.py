"""Gates by hand: numbers, their last good values and bounds become verdicts."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zscir.pipeline.checks import (
    QualityChecks,
    RowCountCheck,
    Thresholds,
    evaluate_check,
    evaluate_row_count,
    format_check,
)
from zscir.pipeline.data_statistics import STATISTICS
from zscir.runtime.errors import RequestError

NUMBERS = st.floats(-1e6, 1e6)


def verdict(value, reference, **bounds):
    found = evaluate_check("kept_share", value, reference, Thresholds(**bounds))
    return found.verdict, found.threshold


@pytest.mark.parametrize(
    ("value", "reference", "bounds", "expected"),
    [
        (0.5, None, {"fail_below": 0.5}, ("pass", "fail_below = 0.5")),
        (0.49, None, {"fail_below": 0.5}, ("fail", "fail_below = 0.5")),
        (7.0, None, {"warn_above": 5.0, "fail_above": 6.0}, ("fail", "fail_above = 6")),
        (5.5, None, {"warn_above": 5.0, "fail_above": 6.0}, ("warn", "warn_above = 5")),
        (0.6, 0.8, {"fail_drop": 0.2}, ("pass", "fail_drop = 0.2")),
        (0.59, 0.8, {"fail_drop": 0.2}, ("fail", "fail_drop = 0.2")),
        (0.99, 0.8, {"fail_drop": 0.1}, ("pass", "fail_drop = 0.1")),
        (0.99, 0.8, {"warn_rise": 0.1}, ("warn", "warn_rise = 0.1")),
        (70.0, 100.0, {"fail_shift": 0.25}, ("fail", "fail_shift = 0.25")),
        (130.0, 100.0, {"fail_shift": 0.25}, ("fail", "fail_shift = 0.25")),
        (125.0, 100.0, {"fail_shift": 0.25}, ("pass", "fail_shift = 0.25")),
        (0.1, 0.0, {"warn_shift": 9.0}, ("warn", "warn_shift = 9")),
        (-130.0, -100.0, {"fail_shift": 0.25}, ("fail", "fail_shift = 0.25")),
        (0.0, None, {"fail_drop": 0.0, "warn_shift": 0.0}, ("pass", "fail_drop = 0, warn_shift = 0")),
        (None, 0.5, {"warn_drop": 0.1}, ("warn", "warn_drop = 0.1")),
        (None, None, {"warn_drop": 0.1, "fail_below": 0.1}, ("fail", "fail_below = 0.1")),
    ],
)
def test_a_number_against_its_bounds(value, reference, bounds, expected):
    assert verdict(value, reference, **bounds) == expected


@given(NUMBERS, NUMBERS, st.floats(0, 1e6))
def test_a_number_passes_its_own_value_and_fails_what_it_is_far_from(value, reference, room):
    assert verdict(value, value, fail_shift=0.0, fail_drop=0.0, fail_rise=0.0)[0] == "pass"
    far = not math.isclose(abs(value - reference), room, rel_tol=1e-9, abs_tol=1e-8)
    if far:
        either = {verdict(value, reference, fail_drop=room)[0], verdict(value, reference, fail_rise=room)[0]}
        assert ("fail" in either) == (abs(value - reference) > room)


@given(NUMBERS, NUMBERS, st.floats(0, 10), st.floats(0, 10))
def test_a_wider_bound_never_fails_what_a_narrower_one_lets_pass(value, reference, one, two):
    narrow, wide = sorted((one, two))
    if verdict(value, reference, fail_shift=narrow)[0] == "pass":
        assert verdict(value, reference, fail_shift=wide)[0] == "pass"


def test_every_measure_can_have_bounds_and_nothing_else_can():
    assert set(QualityChecks.model_fields) == {*STATISTICS, "counts"}


@pytest.mark.parametrize(
    ("text", "rows", "of", "expected"),
    [
        ("images == pairs", 10, 10, "pass"), ("images == pairs", 10, 11, "fail"), ("keep <= images", 9, 10, "pass"),
        ("keep <= images", 11, 10, "fail"), ("pairs >= urls.pairs", 11, 10, "pass"),
        ("keep <= images", None, 9, "fail"),
        ("keep <= images", 9, None, "fail"),
    ],
)  # fmt: skip
def test_a_count_against_that_of_an_input(text, rows, of, expected):
    found = evaluate_row_count(text, RowCountCheck.parse(text, "here"), rows, of)
    assert (found.verdict, found.threshold, found.value, found.reference) == (expected, text, rows, of)


def test_a_count_names_its_table_its_input_and_perhaps_the_table_there():
    assert RowCountCheck.parse("images <= download.pairs", "here") == RowCountCheck("images", "<=", "download", "pairs")
    assert RowCountCheck.parse("images == pairs", "here") == RowCountCheck("images", "==", "pairs", "pairs")
    with pytest.raises(RequestError, match="write it as"):
        RowCountCheck.parse("images < pairs", "here")


def test_a_verdict_is_formatted_as_text():
    bounds = Thresholds(fail_drop=0.2)
    assert format_check(evaluate_check("success_rate", 0.41, 0.75, bounds)) == (
        "success_rate is 0.41; the last good run had 0.75; the bound is fail_drop = 0.2"
    )
    assert format_check(evaluate_check("success_rate", None, None, bounds)) == (
        "success_rate could not be measured (no such table, or no rows); the bound is fail_drop = 0.2"
    )
    text = "images == pairs"
    assert format_check(evaluate_row_count(text, RowCountCheck.parse(text, "here"), 9, 10)) == (
        "rows of images is 9; the input has 10; the bound is images == pairs"
    )
