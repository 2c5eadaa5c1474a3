import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zscir.llm.answer import Answer, AnswerError, json_schema, read_answer, refusal_answer

GOOD = {
    "valid": True,
    "reason": "",
    "preserved": ["dog", "beach"],
    "changed": ["asleep -> running"],
    "edit_type": "compare & change",
    "instructions": ["make it run at sunset", "the same dog running", "have it running instead of sleeping"],
    "target_caption": "a dog runs on a beach at sunset",
}


def test_an_answer_of_the_schema_is_read() -> None:
    answer = read_answer(json.dumps(GOOD))
    assert answer.instructions[0] == "make it run at sunset"
    assert answer.edit_type == "compare & change"


@pytest.mark.parametrize(
    "wrapping",
    [
        "```json\n{}\n```",
        "Sure! Here it is:\n{}",
        "<think>the {{ captions }} differ</think>\n{}",
        "{}\n\nAnything else?",
    ],
)
def test_the_wrapping_of_an_answer_may_vary(wrapping: str) -> None:
    text = wrapping.replace("{{", "{").replace("}}", "}").replace("{}", json.dumps(GOOD))
    assert read_answer(text) == read_answer(json.dumps(GOOD))


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"extra": 1}, "extra"),
        ({"instructions": ["one only"]}, "answer"),
        ({"edit_type": "Viewpoint"}, "edit_type"),
        ({"valid": "true"}, "valid"),
        ({"instructions": ["a" * 161] * 3}, "instructions.0"),
        ({"preserved": ["x"] * 6}, "preserved"),
        ({"reason": None}, "reason"),
    ],
)
def test_the_content_of_an_answer_may_not_vary(change: dict[str, object], where: str) -> None:
    with pytest.raises(AnswerError) as caught:
        read_answer(json.dumps(GOOD | change))
    assert caught.value.reason == "schema"
    assert where in caught.value.detail


def test_a_missing_field_is_named() -> None:
    with pytest.raises(AnswerError, match=r"schema: preserved: Field required"):
        read_answer(json.dumps({name: value for name, value in GOOD.items() if name != "preserved"}))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not_json"),
        ("no", "not_json"),
        ('{"valid": tru}', "not_json"),
        ("{" * 9_000 + "}" * 9_000, "not_json"),
        ('{"a":' * 3_000 + "1" + "}" * 3_000, "not_json"),
        ('{"valid": "\ud800"}', "not_json"),
        ("x" * 30_000, "too_long"),
    ],
)
def test_a_text_that_is_no_answer_has_a_reason(text: str, reason: str) -> None:
    with pytest.raises(AnswerError) as caught:
        read_answer(text)
    assert caught.value.reason == reason


def test_a_refusal_is_an_answer() -> None:
    assert read_answer(refusal_answer("nothing in common").model_dump_json()).valid is False


_texts = st.text(st.characters(codec=None, categories=None), max_size=60)
_json = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | _texts,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(_texts | st.sampled_from(list(GOOD)), inner, max_size=8)
    ),
    max_leaves=6,
)


@settings(max_examples=60)
@given(
    _texts
    | _json.map(json.dumps)
    | st.dictionaries(st.sampled_from(list(GOOD)), _json).map(lambda d: json.dumps(GOOD | d))
)
def test_no_text_makes_reading_fail_in_another_way(text: str) -> None:
    try:
        answer = read_answer(text)
    except AnswerError as error:
        f"{error.reason} {error.detail}".encode()
    else:
        assert isinstance(answer, Answer)
        answer.model_dump_json().encode()


def test_the_json_schema_is_closed_and_names_the_fields_of_an_answer_in_order() -> None:
    schema = json_schema()
    assert schema["additionalProperties"] is False
    assert list(schema["properties"]) == schema["required"] == list(Answer.model_fields)
    assert schema["properties"]["instructions"]["items"]["maxLength"] == 160
    assert "maxLength" not in json.dumps(json_schema(lengths=False))
