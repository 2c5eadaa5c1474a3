from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from zscir.tabletop.edits import (
    EDIT_WEIGHTS,
    EDITED_ATTRIBUTE,
    draw_edit,
    draw_edit_into,
    inverse_edit,
    near_miss_edit,
    repeat_edit,
)
from zscir.tabletop.scenes import (
    COLOURS,
    GROUNDS,
    SHAPES,
    Scene,
    SceneObject,
    derive_rng,
    draw_scene,
    held_out,
    is_sound,
    make_scene,
    with_object,
    without_object,
)

SEEDS = st.integers(min_value=0, max_value=2**32)
RED_CUBE = SceneObject("top left", "cube", "red", "plain", "big")
BLUE_STAR = SceneObject("bottom right", "star", "blue", "striped", "small")


def scene_of(seed: int, for_benchmarks: bool = False) -> Scene:
    return draw_scene(derive_rng(seed, "test"), for_benchmarks)


def test_a_scene_lists_its_things_in_one_order():
    assert make_scene("sand", [BLUE_STAR, RED_CUBE]) == make_scene("sand", (RED_CUBE, BLUE_STAR))
    assert make_scene("sand", [BLUE_STAR, RED_CUBE]).key == (
        "sand; small striped blue star bottom right; big plain red cube top left"
    )


def test_two_things_in_one_place_or_of_one_kind_are_not_sound():
    assert is_sound(make_scene("sand", [RED_CUBE, BLUE_STAR]))
    same_place = SceneObject("top left", "star", "blue", "striped", "small")
    same_kind = SceneObject("bottom right", "cube", "red", "striped", "small")
    assert not is_sound(make_scene("sand", [RED_CUBE, same_place]))
    assert not is_sound(make_scene("sand", [RED_CUBE, same_kind]))
    assert not is_sound(make_scene("sand", []))


@given(SEEDS)
def test_a_drawn_scene_is_sound_and_from_the_wanted_part_of_the_world(seed):
    for part in (True, False):
        scene = scene_of(seed, part)
        assert is_sound(scene)
        assert held_out(scene) is part


def test_about_a_quarter_of_all_scenes_is_held_out():
    rng = derive_rng(3, "any")
    scenes = [
        make_scene(rng.choice(GROUNDS), [SceneObject("top left", s, c, "plain", "big")])
        for s in SHAPES
        for c in COLOURS
    ]
    share = sum(held_out(scene) for scene in scenes) / len(scenes)
    assert 0.1 < share < 0.45


def test_streams_of_other_names_or_seeds_are_others():
    draws = {derive_rng(seed, *names).random() for seed in (0, 1) for names in (("a",), ("b",), ("a", 1), ("a", 11))}
    assert len(draws) == 8


def test_every_kind_of_edit_comes_up():
    rng = derive_rng(0, "edits")
    drawn = Counter(
        edit.kind for edit in (draw_edit(rng, draw_scene(rng, False)) for _ in range(3000)) if edit is not None
    )
    assert set(drawn) == set(EDIT_WEIGHTS)


@given(SEEDS)
def test_an_edit_changes_exactly_what_its_kind_says(seed):
    rng = derive_rng(seed, "edit")
    edit = draw_edit_into(rng, scene_of(seed), for_benchmarks=False)
    assert edit is not None
    before, after = set(edit.before.things), set(edit.after.things)
    assert is_sound(edit.after)
    assert edit.after != edit.before
    assert (edit.before.ground != edit.after.ground) == (edit.kind == "ground")
    if edit.kind == "ground":
        assert before == after
    elif edit.kind == "add":
        assert after - before == {edit.new}
        assert not before - after
    elif edit.kind == "remove":
        assert before - after == {edit.old}
        assert not after - before
    elif edit.kind in EDITED_ATTRIBUTE:
        assert (before - after, after - before) == ({edit.old}, {edit.new})
        name = EDITED_ATTRIBUTE[edit.kind]
        differing = [f for f in vars(edit.old) if getattr(edit.old, f) != getattr(edit.new, f)]
        assert differing == [name]
    else:
        assert {thing.place for thing in before} == {thing.place for thing in after}


@given(SEEDS)
def test_an_edit_undone_leads_back(seed):
    edit = draw_edit_into(derive_rng(seed, "undo"), scene_of(seed), False)
    assert edit is not None
    if edit.kind in ("recolour all", "retexture all"):
        return
    back = inverse_edit(edit)
    assert (back.before, back.after) == (edit.after, edit.before)
    assert repeat_edit(back, back.before) == back


def test_an_edit_repeated_on_another_scene_makes_the_same_change():
    scene = make_scene("sand", [RED_CUBE, BLUE_STAR])
    on_snow = make_scene("snow", scene.things)
    rng = derive_rng(1, "repeat")
    for kind in ("recolour", "reshape", "retexture", "resize", "move", "add", "remove"):
        edit = next(e for e in (draw_edit(rng, scene, (kind,)) for _ in range(100)) if e is not None)
        again = repeat_edit(edit, on_snow)
        assert again is not None
        assert again.after == make_scene("snow", edit.after.things)


def test_the_last_thing_cannot_be_removed_again():
    scene = make_scene("sand", [RED_CUBE, BLUE_STAR])
    edit = next(e for e in (draw_edit(derive_rng(2, "remove", n), scene, ("remove",)) for n in range(9)) if e)
    assert edit.old is not None
    assert repeat_edit(edit, make_scene("sand", [edit.old])) is None


def test_a_rival_is_the_same_kind_of_edit_with_another_result():
    rng = derive_rng(4, "rival")
    scene = draw_scene(rng, True)
    edit = draw_edit_into(rng, scene, True, ("recolour",))
    assert edit is not None
    rival = near_miss_edit(rng, edit, True)
    assert rival is not None
    assert rival.kind == "recolour"
    assert rival.before == edit.before
    assert rival.after.unplaced != edit.after.unplaced


def test_small_changes_by_hand():
    scene = make_scene("sand", [RED_CUBE, BLUE_STAR])
    assert without_object(scene, BLUE_STAR).things == (RED_CUBE,)
    assert with_object(scene, RED_CUBE, colour="pink").unplaced == (
        "sand",
        (("cube", "pink", "plain", "big"), ("star", "blue", "striped", "small")),
    )
