import json
from hashlib import sha256
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from zscir.runtime.errors import RequestError
from zscir.runtime.specs import Spec, canonical_json, json_digest
from zscir.store.artifacts import make_key


class Inner(Spec):
    width: int = 3
    depth: int | None = None


class Example(Spec):
    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.5
    steps: int = 10
    mode: Literal["fast", "good"] = "fast"
    sizes: tuple[int, ...] = (1, 2)
    inner: Inner = Inner()
    note: str | None = None


class NeedsName(Spec):
    name: str


def loaded(tmp_path, text):
    path = tmp_path / "spec.toml"
    path.write_text(text, encoding="utf-8")
    return Example.load(path)


def refusal(tmp_path, text):
    with pytest.raises(RequestError) as caught:
        loaded(tmp_path, text)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "spec.toml"))
    return message


def test_a_toml_file_becomes_a_frozen_typed_spec(tmp_path):
    spec = loaded(tmp_path, 'ratio = 0.25\nsizes = [4, 5]\nmode = "good"\n[inner]\nwidth = 7\n')
    assert spec == Example(ratio=0.25, sizes=(4, 5), mode="good", inner=Inner(width=7))
    with pytest.raises(ValueError, match="frozen"):
        spec.ratio = 0.75


def test_an_unknown_key_is_named_together_with_the_allowed_ones(tmp_path):
    message = refusal(tmp_path, "ration = 0.5\n")
    assert "unknown key 'ration'" in message
    assert "inner, mode, note, ratio, sizes, steps" in message


def test_an_unknown_key_in_a_table_inside_is_named_by_its_path(tmp_path):
    message = refusal(tmp_path, "[inner]\nheight = 1\n")
    assert "unknown key 'inner.height'" in message
    assert "depth, width" in message


@pytest.mark.parametrize(
    ("line", "field", "got"),
    [
        ('steps = "10"', "steps", "'10'"),
        ("steps = 10.0", "steps", "10.0"),
        ("steps = true", "steps", "True"),
        ('ratio = "half"', "ratio", "'half'"),
        ("ratio = 1.5", "ratio", "1.5"),
        ("ratio = nan", "ratio", "nan"),
        ("ratio = inf", "ratio", "inf"),
        ('mode = "slow"', "mode", "'slow'"),
        ('sizes = [1, "two"]', "sizes.1", "'two'"),
    ],
)
def test_a_wrong_value_is_refused_with_field_value_and_what_is_allowed(tmp_path, line, field, got):
    message = refusal(tmp_path, line + "\n")
    assert f"'{field}' = " in message
    assert got in message
    assert "should be" in message.lower()


def test_a_date_without_quotes_is_refused(tmp_path):
    assert "write them in quotes" in refusal(tmp_path, "note = 2024-01-01\n")


def test_a_value_that_is_not_allowed_is_refused_with_the_allowed_ones(tmp_path):
    assert "'fast' or 'good'" in refusal(tmp_path, 'mode = "slow"\n')
    assert "less than 1" in refusal(tmp_path, "ratio = 1.5\n")


def test_a_whole_number_is_a_float_where_a_float_is_declared(tmp_path):
    class Sized(Spec):
        scale: float

    assert Sized.parse({"scale": 3}, "here").literals() == {"scale": 3.0}


def test_every_wrong_field_is_reported_at_once(tmp_path):
    message = refusal(tmp_path, 'steps = "a"\nratio = 7.0\nextra = 1\n')
    assert len(message.splitlines()) == 3


def test_a_missing_field_is_named():
    with pytest.raises(RequestError, match="there: 'name' is missing"):
        NeedsName.parse({}, "there")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RequestError, match=r"no\.toml: cannot read this spec \(No such file"):
        Example.load(tmp_path / "no.toml")


def test_a_folder_is_no_spec(tmp_path):
    with pytest.raises(RequestError, match="cannot read this spec"):
        Example.load(tmp_path)


def test_a_file_that_is_not_toml_is_refused_with_the_line(tmp_path):
    assert "not valid TOML" in refusal(tmp_path, "ratio = = 3\n")
    assert "line 1" in refusal(tmp_path, "ratio = = 3\n")


def test_a_file_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "spec.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RequestError, match="not valid TOML"):
        Example.load(tmp_path / "spec.toml")


def test_a_password_in_a_url_is_refused_and_not_repeated():
    with pytest.raises(RequestError, match="'name'") as caught:
        NeedsName.parse({"name": "https://me:hunter2@host/v1"}, "there")
    assert "hunter2" not in str(caught.value)
    assert "environment" in str(caught.value)


def test_canonical_json_is_sorted_dense_and_utf_8():
    assert canonical_json({"b": [1, 2.5, None], "a": "ü"}) == '{"a":"ü","b":[1,2.5,null]}'
    assert json_digest({"a": "ü"}) == sha256('{"a":"ü"}'.encode()).hexdigest()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_canonical_json_refuses_what_json_cannot_say(value):
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"a": value})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
).filter(lambda value: "\\ud" not in json.dumps(value))


@given(JSON)
def test_canonical_json_loses_nothing_and_is_its_own_canonical_form(value):
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text


@given(st.dictionaries(st.text("abc", min_size=1), st.integers(), max_size=5), st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_matter(values, random):
    shuffled = list(values.items())
    random.shuffle(shuffled)
    assert canonical_json(dict(shuffled)) == canonical_json(values)


def test_a_key_is_the_digest_of_stage_version_literals_and_input_digests():
    """Worked by hand from the design: sha256(canonical JSON of [name, version, spec without Nones, {role: digest}])."""
    by_hand = '["mask",3,{"inner":{"width":3},"mode":"fast","ratio":0.5,"sizes":[1,2],"steps":10},{"images":"%s"}]' % (
        "d" * 64
    )
    assert make_key("mask", 3, Example(), {"images": "d" * 64}) == sha256(by_hand.encode()).hexdigest()


def test_an_optional_knob_that_is_not_set_re_keys_nothing():
    class Before(Spec):
        steps: int = 10

    class After(Spec):
        steps: int = 10
        knob: float | None = None

    assert make_key("s", 1, Before(), {}) == make_key("s", 1, After(), {})
    assert make_key("s", 1, After(knob=0.5), {}) != make_key("s", 1, After(), {})


def test_each_part_of_the_identity_moves_the_key():
    base = make_key("s", 1, Example(), {"a": "x"})
    others = [
        make_key("t", 1, Example(), {"a": "x"}),
        make_key("s", 2, Example(), {"a": "x"}),
        make_key("s", 1, Example(steps=11), {"a": "x"}),
        make_key("s", 1, Example(), {"a": "y"}),
        make_key("s", 1, Example(), {"b": "x"}),
    ]
    assert len({base, *others}) == 6


def test_a_whole_number_and_its_float_are_one_identity():
    class Sized(Spec):
        scale: float

    assert Sized.parse({"scale": 2}, "").literals() == Sized.parse({"scale": 2.0}, "").literals()
    assert canonical_json(Sized(scale=2).literals()) == '{"scale":2.0}'
