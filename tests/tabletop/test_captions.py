import re

from hypothesis import given
from hypothesis import strategies as st

from tests.tabletop import truths
from zscir.tabletop.captions import caption_of, join_phrases
from zscir.tabletop.scenes import COLOURS, OBJECT_SIZES, SHAPES, TEXTURES, derive_rng, draw_scene

SEEDS = st.integers(min_value=0, max_value=2**32)


@given(SEEDS)
def test_a_caption_says_only_what_is_true(seed):
    scene = draw_scene(derive_rng(seed, "scene"), False)
    text = caption_of(derive_rng(seed, "caption"), scene)
    assert truths.grounds(text) in ([], [scene.ground])
    named = truths.phrases(text)
    assert named
    assert all(truths.shows(scene, phrase) for phrase in named)
    count = re.search(r"(one|two|three|four) (objects|things)", text)
    if count:
        assert truths.COUNTS[count[1]] == len(scene.things) == len(named)


@given(SEEDS)
def test_a_listing_describes_one_thing(seed):
    scene = draw_scene(derive_rng(seed, "scene"), False)
    text = truths.canonical(caption_of(derive_rng(seed, "caption"), scene))
    rows = dict(re.findall(r"(\w+) (shape|color|pattern)", text))
    wanted = {{"shape": "shape", "color": "colour", "pattern": "texture"}[name]: value for value, name in rows.items()}
    assert truths.shows(scene, wanted)


def test_captions_leave_things_out_in_different_ways():
    texts = []
    for n in range(600):
        scene = draw_scene(derive_rng(n, "scene"), False, (2, 3))
        texts.append((scene, truths.canonical(caption_of(derive_rng(n, "caption"), scene))))

    def share(words):
        return sum(any(word in re.findall(r"\w+", text) for word in words) for _, text in texts) / len(texts)

    assert 0.5 < share(OBJECT_SIZES) < 0.95
    assert 0.2 < share(TEXTURES) < 0.9
    assert 0.8 < share(COLOURS) < 1.0
    assert share(SHAPES) > 0.95
    fewer = sum(len(truths.phrases(text)) < len(scene.things) for scene, text in texts)
    assert fewer > 30
    lengths = {len(text.split()) for _, text in texts}
    assert min(lengths) <= 5
    assert max(lengths) >= 20


def test_lists_are_joined_as_in_english():
    assert join_phrases(["a"]) == "a"
    assert join_phrases(["a", "b"]) == "a and b"
    assert join_phrases(["a", "b", "c"]) == "a, b and c"
