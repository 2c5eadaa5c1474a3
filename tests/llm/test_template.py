import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zscir.llm.backend_protocol import LlmRequest
from zscir.llm.caption_parser import parse_caption, singular
from zscir.llm.filters import instruction_reject_reason
from zscir.llm.template import TemplateBackend, describe_change
from zscir.tabletop.captions import caption_of
from zscir.tabletop.edits import draw_edit_into
from zscir.tabletop.scenes import derive_rng, draw_scene


def test_a_caption_is_parsed_into_things_with_attributes_and_settings() -> None:
    parsed = parse_caption("A photo of a small red striped cube at the top left and two blue balls on a wooden table")
    cube, balls = parsed.noun_phrases
    assert (cube.head, cube.position, cube.count) == ("cube", "top left", 1)
    assert cube.attributes == (("size", "small"), ("colour", "red"), ("pattern", "striped"))
    assert (balls.head, balls.count, balls.plural, balls.name) == ("sphere", 2, True, "blue balls")
    assert [setting.text for setting in parsed.settings] == ["on a wooden table"]


def test_web_captions_lose_links_tags_and_agency_phrases() -> None:
    parsed = parse_caption(
        "<b>Kitten</b> sitting on a grey sofa - royalty free stock photo http://x.example/1.jpg #cat"
    )
    assert [(thing.head, thing.participle) for thing in parsed.noun_phrases] == [("cat", "sitting")]
    assert [setting.text for setting in parsed.settings] == ["on a grey sofa"]


DIRECT, PLACE = "direct addressing", "spatial & background"
LEFT, RIGHT = "cube at the top left, sand", "cube at the bottom right, sand"


# Worked by hand: what differs, and a word that each of the three requests must hold.
@pytest.mark.parametrize(
    ("reference", "target", "changed", "kind", "word"),
    [
        ("a red cube and a star on sand", "a blue cube, star, sand", "red -> blue", DIRECT, "blue"),
        ("a ball and a cone on grass", "a cone and a ball in the snow", "on grass -> in snow", PLACE, "snow"),
        (
            "a big red cube and a ring",
            "a big red cone and a ring",
            "cube -> a big red cone",
            "compare & change",
            "cone",
        ),
        ("a cube on sand", "a cube and a striped heart on sand", "+ a striped heart", "addition", "heart"),
        ("a cube and a ring on sand", "a cube on sand", "no ring", "negation", "ring"),
        ("a big cube on sand", "a small cube on sand", "big -> small", "comparative", "small"),
        ("two dogs on a beach", "three dogs on a beach", "two dogs -> three dogs", "cardinality", "three dogs"),
        ("a red cube and a red ring", "a pink cube and a pink ring", "-> pink", DIRECT, "pink"),
        ("a dog sleeping on a bed", "a dog runs on a bed", "sleeping -> running", DIRECT, "running"),
        (LEFT, RIGHT, "top left -> bottom right", PLACE, "bottom right"),
    ],
)
def test_hand_worked_differences(reference: str, target: str, changed: str, kind: str, word: str) -> None:
    answer = describe_change(reference, target, seed=0)
    assert answer.valid
    assert answer.changed == (changed,)
    assert answer.edit_type == kind
    assert len(set(answer.instructions)) == 3
    assert all(word in text for text in answer.instructions)


def test_of_two_like_things_the_request_names_the_one_that_changes() -> None:
    answer = describe_change("a red cube and a blue cube on sand", "a red cube and a green cube on sand", 0)
    assert answer.changed == ("blue -> green",)
    assert all("green" in text for text in answer.instructions)
    assert any("the blue cube" in text for text in answer.instructions)


def test_several_new_attributes_of_one_thing_are_said_in_one_breath() -> None:
    answer = describe_change("a big plain red cube on sand", "a small striped red cube on sand", 0)
    assert answer.changed == ("cube -> small striped",)
    assert any("small and striped" in text for text in answer.instructions)


@pytest.mark.parametrize(
    ("reference", "target", "reason"),
    [
        ("a kitten sits on a gray couch", "A kitten sitting on a grey sofa, stock photo", "both captions say the same"),
        ("a sphere on sand", "a ball on the sand", "both captions say the same"),
        ("a small red cube on sand", "a cube", "both captions say the same"),
        ("sales meeting in an office", "strawberries in a white bowl", "the captions share nothing"),
        ("", "a cube", "the captions share nothing"),
        ("a cube", "", "both captions say the same"),
        (
            "a cube, a ring, a star and a dog on sand",
            "a red cat, a pot, a pan, a jar and a cube on grass",
            "differ in 5 ways",
        ),
    ],
)
def test_a_pair_without_a_sayable_change_is_refused(reference: str, target: str, reason: str) -> None:
    answer = describe_change(reference, target, 0)
    assert not answer.valid
    assert answer.instructions == ()
    assert reason in answer.reason


def test_what_the_target_leaves_out_is_not_a_change_but_a_detail_it_adds_may_be_requested() -> None:
    assert not describe_change("a striped cube on sand", "a cube on sand", 0).valid
    assert describe_change("a cube on sand", "a striped cube on sand", 0).changed == ("cube -> striped",)


def test_equal_arguments_give_equal_answers_and_seeds_vary_the_wording() -> None:
    pair = ("a red cube and a star on sand", "a blue cube and a star on sand")
    assert describe_change(*pair, 5) == describe_change(*pair, 5)
    assert len({describe_change(*pair, seed).instructions for seed in range(20)}) > 10


def test_requests_about_tabletop_edits_are_short_clean_and_mostly_there() -> None:
    answered = 0
    for number in range(400):
        rng = derive_rng(3, "template", number)
        before = draw_scene(rng, False)
        edit = draw_edit_into(rng, before, False)
        assert edit is not None
        answer = describe_change(caption_of(rng, edit.before), caption_of(rng, edit.after), 0)
        answered += answer.valid
        for text in answer.instructions:
            assert instruction_reject_reason(text, 3, 20) == ""
    assert answered > 300


SALAD = """a an the two red big striped cube ball dogs grass snow man , . and or with on in at of left running riding
photo ' \u2019 3 \u65e5\u672c -"""
_words = st.sampled_from(SALAD.split())


@given(st.lists(_words, max_size=25), st.lists(_words, max_size=25), st.integers(0, 3))
def test_word_salad_gives_a_whole_answer_or_a_refusal(one: list[str], other: list[str], seed: int) -> None:
    answer = describe_change(" ".join(one), " ".join(other), seed)
    assert answer.valid == bool(answer.instructions)
    for text in answer.instructions:
        assert 3 <= len(text.split()) <= 20


@given(st.text(st.characters(codec=None, categories=None), max_size=300), st.text(max_size=300))
def test_any_text_gives_an_answer(one: str, other: str) -> None:
    assert isinstance(describe_change(one, other, 0).valid, bool)


@pytest.mark.parametrize(
    ("plural", "one"),
    [
        ("dogs", "dog"),
        ("boxes", "box"),
        ("cherries", "cherry"),
        ("grass", "grass"),
        ("cross", "cross"),
        ("people", "person"),
    ],
)
def test_plurals(plural: str, one: str) -> None:
    assert singular(plural) == one


def test_the_backend_answers_each_request_in_the_schema() -> None:
    requests = [
        LlmRequest(f"id{n}", "a red cube on sand", f"a {c} cube on sand", None, (), 0)
        for n, c in enumerate(["blue", "red"])
    ]
    replies = list(TemplateBackend().answer(requests))
    assert [reply.request_id for reply in replies] == ["id0", "id1"]
    assert [json.loads(reply.text or "")["valid"] for reply in replies] == [True, False]


def test_the_words_of_a_request_come_from_the_target() -> None:
    rng = Random(0)
    colours = ["red", "green", "blue", "pink", "black"]
    for _ in range(50):
        old, new = rng.sample(colours, 2)
        answer = describe_change(f"a {old} hat on a table", f"a {new} hat on a table", rng.randrange(1000))
        assert all(new in text for text in answer.instructions)
        assert not any(other in text for text in answer.instructions for other in colours if other not in (old, new))
