import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tabletop import truths
from zscir.tabletop.edits import EDIT_WEIGHTS, EDITED_ATTRIBUTE, SceneEdit, draw_edit
from zscir.tabletop.scenes import SceneObject, derive_rng, draw_scene, make_scene
from zscir.tabletop.wording import SENTENCES, sentence_of

SEEDS = st.integers(min_value=0, max_value=2**32)
RED_CUBE = SceneObject("top left", "cube", "red", "plain", "big")
BLUE_STAR = SceneObject("bottom right", "star", "blue", "striped", "small")
TWO = make_scene("sand", [RED_CUBE, BLUE_STAR])


def an_edit(seed: int) -> SceneEdit:
    rng = derive_rng(seed, "edit")
    while True:
        edit = draw_edit(rng, draw_scene(rng, True))
        if edit is not None:
            return edit


def test_every_edit_has_several_wordings_in_every_style():
    for style, by_kind in SENTENCES.items():
        assert set(by_kind) == set(EDIT_WEIGHTS)
        if style == "asking":
            assert all(len(templates) >= 3 for templates in by_kind.values())


@given(SEEDS, st.sampled_from(sorted(SENTENCES)))
def test_a_sentence_names_only_what_was_or_what_will_be(seed, style):
    edit = an_edit(seed)
    text = sentence_of(derive_rng(seed, "text"), edit, style)
    assert "{" not in text
    assert "  " not in text
    assert set(truths.grounds(text)) <= {edit.before.ground, edit.after.ground}
    for phrase in truths.phrases(text):
        named_anew = {k: v for k, v in phrase.items() if k in ("size", "texture")}
        known = truths.shows(edit.before, phrase) or truths.shows(edit.after, phrase)
        # "give me a striped red cube instead of a plain one" mixes the new look with the old name
        mixed = (
            edit.old is not None
            and edit.new is not None
            and named_anew
            and truths.shows(edit.before, {k: v for k, v in phrase.items() if k not in named_anew})
        )
        assert known or mixed, (text, edit)


@given(SEEDS)
def test_an_asking_sentence_says_what_is_new_and_the_reference_lacks_it(seed):
    """The words that carry the change hold of the target and not of the reference."""
    edit = an_edit(seed)
    text = truths.canonical(sentence_of(derive_rng(seed, "text"), edit, "asking"))
    if edit.kind in EDITED_ATTRIBUTE:
        name = EDITED_ATTRIBUTE[edit.kind]
        value = getattr(edit.new, name)
        assert re.search(rf"\b{value}\b", text)
        assert edit.new in edit.after.things
        assert edit.new not in edit.before.things
    elif edit.kind == "add":
        phrase = next(p for p in truths.phrases(text) if "colour" in p and "size" in p)
        assert (phrase["shape"], phrase["colour"], phrase["size"]) == (
            edit.new.shape, edit.new.colour, edit.new.size)  # fmt: skip
        assert truths.shows(edit.after, phrase)
        assert not truths.shows(edit.before, {"shape": phrase["shape"], "colour": phrase["colour"]})
    elif edit.kind == "ground":
        assert edit.after.ground in truths.grounds(text)
    elif edit.kind == "remove" and not text.startswith(("leave only", "just")):
        (phrase,) = truths.phrases(text)
        assert truths.shows(edit.before, phrase)
        assert not truths.shows(edit.after, phrase)
    elif edit.kind == "remove":
        rest = truths.phrases(text.split(", no ")[0])
        assert len(rest) == len(edit.after.things)
        assert all(truths.shows(edit.after, phrase) for phrase in rest)


@given(SEEDS, st.sampled_from(["asking", "brief"]))
def test_a_thing_is_named_so_that_only_one_can_be_meant(seed, style):
    edit = an_edit(seed)
    if edit.old is None or edit.kind == "remove":
        return
    text = truths.canonical(sentence_of(derive_rng(seed, "text"), edit, style))
    for found in re.finditer(r"the ((?:red|orange|yellow|green|blue|purple|pink|black) )?([a-z]+)", text):
        phrase = {"shape": found[2]} | ({"colour": found[1].strip()} if found[1] else {})
        alike = [t for t in edit.before.things if all(getattr(t, k) == v for k, v in phrase.items())]
        assert len(alike) <= 1 or found[2] not in {thing.shape for thing in edit.before.things}


@pytest.mark.parametrize(
    ("kind", "allowed"),
    [
        ("remove", {
            "remove the star", "take the star away", "the same without the star", "get rid of the star",
            "leave only the cube", "just the cube, no star",
        }),
    ],
)  # fmt: skip
def test_wordings_by_hand(kind, allowed):
    edit = SceneEdit(kind, TWO, make_scene("sand", [RED_CUBE]), BLUE_STAR, None)
    said = {sentence_of(derive_rng(n, "by hand"), edit, "asking") for n in range(300)}
    assert allowed <= said
    assert {text.replace("blue star", "star").replace("red cube", "cube") for text in said} == allowed


def test_a_lone_thing_is_mostly_called_it_so_that_the_picture_is_needed():
    lone = make_scene("sand", [RED_CUBE])
    blue = SceneObject("top left", "cube", "blue", "plain", "big")
    edit = SceneEdit("recolour", lone, make_scene("sand", [blue]), RED_CUBE, blue)
    texts = [sentence_of(derive_rng(n, "lone"), edit, "asking") for n in range(200)]
    assert sum("it" in text.split() for text in texts) > 80


def test_of_several_things_a_terse_caption_says_which():
    blue = SceneObject("top left", "cube", "blue", "plain", "big")
    edit = SceneEdit("recolour", TWO, make_scene("sand", [blue, BLUE_STAR]), RED_CUBE, blue)
    texts = {sentence_of(derive_rng(n, "terse"), edit, "terse") for n in range(100)}
    assert all(text.startswith(("the cube ", "the red cube ")) for text in texts)
    assert "the cube is blue" in texts


def test_an_addition_says_where_when_the_place_is_included():
    edit = SceneEdit("add", make_scene("sand", [RED_CUBE]), TWO, None, BLUE_STAR)
    assert all(
        "bottom right" in sentence_of(derive_rng(n, "where"), edit, "asking", include_place=True) for n in range(60)
    )
