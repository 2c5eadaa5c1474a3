"""CIRR in the tabletop world: squares of similar scenes become image sets, walks along their sides become queries.

A set is a root, two edits of it, the scene with both, and a near miss of either edit. So a set holds pictures that
suit the text but not the reference, and pictures that suit the reference but not the text. Sets come in themes whose
roots resemble each other: the reference's nearest neighbours in the gallery are many, and only one is the target.
"""

from dataclasses import dataclass
from random import Random
from typing import Any

from zscir.tabletop.edits import EDITED_ATTRIBUTE, SceneEdit, draw_edit_into, inverse_edit, near_miss_edit, repeat_edit
from zscir.tabletop.exhibits import BenchmarkImage, TabletopBenchmark
from zscir.tabletop.scenes import Scene, derive_rng, draw_scene, held_out
from zscir.tabletop.spec import TabletopBenchmarksSpec
from zscir.tabletop.wording import sentence_of

IMAGES_PER_SET = 6
MAX_QUERIES_PER_SET = 5
SETS_PER_THEME = 5
_INVERTIBLE_KINDS = (*EDITED_ATTRIBUTE, "add", "remove", "ground")
EditPath = tuple[SceneEdit, ...]  # one edit, or two that follow each other


@dataclass(frozen=True)
class ImageSet:
    """Six distinct scenes, and the ways that lead from one to another in one step and in two."""

    scenes: list[Scene]
    steps: list[EditPath]
    double_steps: list[EditPath]


def build_cirr(spec: TabletopBenchmarksSpec) -> TabletopBenchmark:
    """The val and test1 splits; test1 holds no answers."""
    shown = TabletopBenchmark("cirr")
    seen: set[object] = set()
    number = 0
    for split, sets in (("val", spec.cirr_sets), ("test1", spec.cirr_test_sets)):
        rng = derive_rng(spec.seed, "cirr", split)
        queries: list[dict[str, Any]] = []
        exhibits: list[BenchmarkImage] = []
        themes = [draw_scene(rng, True) for _ in range(-(-sets // SETS_PER_THEME))]
        for n in range(sets):
            family = draw_image_set(rng, themes[n // SETS_PER_THEME], seen)
            names = [f"{_prefix(split)}-{number}-{n // 2}-img{n % 2}" for n in range(IMAGES_PER_SET)]
            drawn = _queries(rng, family, names, number, spec.cirr_queries_per_set)
            queries += [query if split == "val" else _unanswered(query) for query in drawn]
            exhibits += [BenchmarkImage(name, f"{name}.png", s) for name, s in zip(names, family.scenes, strict=True)]
            number += 1
        shown.annotations[f"captions/cap.rc2.{split}.json"] = queries
        rng.shuffle(exhibits)
        paths = {one.image_id: f"./{_prefix(split)}/{one.member}" for one in exhibits}
        shown.annotations[f"image_splits/split.rc2.{split}.json"] = paths
        shown.exhibits += exhibits
    return shown


def _prefix(split: str) -> str:
    return {"val": "dev", "test1": "test1"}[split]


def draw_image_set(rng: Random, theme: Scene, seen: set[object]) -> ImageSet:
    """A family near ``theme`` of which no member was seen before; its members are added to ``seen``."""
    while True:
        root = theme
        for _ in range(rng.choice((1, 1, 2))):
            edit = draw_edit_into(rng, root, True)
            root = root if edit is None else edit.after
        family = _draw_square(rng, root)
        if family is not None:
            loose = {scene.unplaced for scene in family.scenes}
            if len(set(family.scenes)) == IMAGES_PER_SET and not loose & seen:
                seen |= loose
                return family


def _draw_square(rng: Random, root: Scene) -> ImageSet | None:
    """The root, two edits, both, and the near misses; ways are the square's sides, its diagonals, and detours."""
    first, second = draw_edit_into(rng, root, True), draw_edit_into(rng, root, True)
    if first is None or second is None:
        return None
    second_after_first, first_after_second = repeat_edit(second, first.after), repeat_edit(first, second.after)
    if second_after_first is None or first_after_second is None:
        return None
    both = second_after_first.after
    misses = [near_miss_edit(rng, first, True), near_miss_edit(rng, second, True)]
    if both != first_after_second.after or not held_out(both) or None in misses:
        return None
    near = [miss for miss in misses if miss is not None]
    steps = [first, second, second_after_first, first_after_second, *near]
    double_steps: list[EditPath] = [(first, second_after_first)]
    double_steps += [(inverse_edit(a), b) for a, b in ((first, second), near) if a.kind in _INVERTIBLE_KINDS]
    scenes = [root, first.after, second.after, both, *(miss.after for miss in near)]
    return ImageSet(scenes, [(step,) for step in steps], double_steps)


def _queries(rng: Random, family: ImageSet, names: list[str], set_id: int, count: int) -> list[dict[str, Any]]:
    """``count`` queries; about half ask for two steps at once, and some single steps are walked backwards."""
    name_of = dict(zip(family.scenes, names, strict=True))
    members = rng.sample(names, IMAGES_PER_SET)
    rank_of = dict(zip(rng.sample(names, IMAGES_PER_SET), range(IMAGES_PER_SET), strict=True))
    double = rng.sample(family.double_steps, min(count // 2, len(family.double_steps)))
    single: list[EditPath] = [
        (inverse_edit(step),) if step.kind in _INVERTIBLE_KINDS and rng.random() < 0.3 else (step,)
        for (step,) in rng.sample(family.steps, count - len(double))
    ]
    return [
        {
            "pairid": set_id * MAX_QUERIES_PER_SET + n,
            "reference": name_of[way[0].before],
            "target_hard": name_of[way[-1].after],
            "target_soft": _soft_targets(rng, way, family, name_of),
            "caption": _caption(rng, way, family),
            "img_set": {
                "id": set_id,
                "members": members,
                "reference_rank": rank_of[name_of[way[0].before]],
                "target_rank": rank_of[name_of[way[-1].after]],
            },
        }
        for n, way in enumerate(double + single)
    ]


def _caption(rng: Random, way: EditPath, family: ImageSet) -> str:
    """What leads from the reference to the target; an addition says where if another member has it elsewhere."""
    place = sum(scene.unplaced == way[-1].after.unplaced for scene in family.scenes) > 1
    if len(way) == 1:
        return sentence_of(rng, way[0], "asking", tell_place=place)
    return " and ".join(sentence_of(rng, edit, "brief", tell_place=place) for edit in way)


def _soft_targets(rng: Random, way: EditPath, family: ImageSet, name_of: dict[Scene, str]) -> dict[str, float]:
    """The target counts 1.0; now and then another member was judged too: half right, or wrong."""
    labels = {name_of[way[-1].after]: 1.0}
    others = [scene for scene in family.scenes if scene not in (way[0].before, way[-1].after)]
    if rng.random() < 0.2:
        judged = rng.choice(others)
        near = any(other[0].before == way[-1].after and other[-1].after == judged for other in family.steps)
        labels[name_of[judged]] = 0.5 if near else -1.0
    return labels


def _unanswered(query: dict[str, Any]) -> dict[str, Any]:
    """The query as a test split shows it."""
    image_set = {key: value for key, value in query["img_set"].items() if key != "target_rank"}
    kept = {key: value for key, value in query.items() if not key.startswith("target_")}
    return {**kept, "img_set": image_set}
