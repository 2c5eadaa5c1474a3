import hashlib
from collections import Counter

import pytest

from zscir.runtime.errors import RequestError
from zscir.tabletop.scenes import held_out
from zscir.tabletop.spec import TabletopSpec, url_fault_shares
from zscir.tabletop.web import SCENES_PER_FAMILY, is_sibling, url_fault, url_of, web_caption, web_jpeg, web_scene

SPEC = TabletopSpec(scenes=400)


def test_picture_and_caption_depend_on_seed_and_index_alone():
    longer = TabletopSpec(scenes=10_000_000, missing_share=0.5, hang_s=1.0)
    other = TabletopSpec(seed=1, scenes=400)
    for index in (0, 1, 2, 3, 77, 399):
        assert web_jpeg(SPEC, index) == web_jpeg(longer, index)
        assert web_caption(SPEC, index) == web_caption(longer, index)
        assert web_jpeg(SPEC, index) != web_jpeg(other, index)
    assert web_jpeg(longer, 9_999_999).startswith(b"\xff\xd8\xff")


def test_the_world_has_not_changed():
    """A golden row: whoever changes the drawing of scenes or captions must raise the stages' versions."""
    rows = "\n".join(f"{web_scene(SPEC, n).key}|{web_caption(SPEC, n)}|{url_fault(SPEC, n)}" for n in range(100))
    assert hashlib.sha256(rows.encode()).hexdigest()[:16] == "843c4e6e759c383b"


def test_no_web_scene_is_held_out():
    assert not any(held_out(web_scene(SPEC, index)) for index in range(400))


def test_siblings_are_near_their_first_and_about_as_many_as_the_spec_says():
    spec = TabletopSpec(scenes=4000, sibling_share=0.4)
    siblings = [index for index in range(4000) if is_sibling(spec, index)]
    assert 0.37 < len(siblings) / 4000 < 0.43
    assert all(index % SCENES_PER_FAMILY for index in siblings)
    for index in siblings[:200]:
        first, scene = web_scene(spec, index - index % SCENES_PER_FAMILY), web_scene(spec, index)
        changed = set(first.things) ^ set(scene.things)
        one_attribute = len(changed) <= 4 or len({t.texture for t in scene.things}) == 1
        assert one_attribute or len({t.colour for t in scene.things}) == 1
        assert (first.ground == scene.ground) or len(changed) <= 8


def test_without_siblings_every_scene_is_fresh():
    spec = TabletopSpec(sibling_share=0.0)
    assert not any(is_sibling(spec, index) for index in range(200))


def test_fates_come_in_the_shares_of_the_spec():
    spec = TabletopSpec(
        missing_share=0.2,
        server_error_share=0.1,
        html_share=0.1,
        truncated_share=0.1,
        reset_share=0.05,
        hang_share=0.05,
    )
    seen = Counter(url_fault(spec, index) for index in range(4000))
    for fate, share in url_fault_shares(spec):
        assert abs(seen[fate] / 4000 - share) < 0.025
    assert abs(seen["ok"] / 4000 - 0.4) < 0.03


def test_an_address_names_seed_and_index_and_no_port():
    assert url_of(TabletopSpec(seed=7), 12) == "http://tabletop.test/7/12.jpg"


def test_shares_above_one_are_refused():
    with pytest.raises(RequestError, match="add up to"):
        TabletopSpec.parse({"missing_share": 0.7, "html_share": 0.4}, "here")
    with pytest.raises(RequestError, match="sibling_share"):
        TabletopSpec.parse({"sibling_share": 0.9}, "here")
