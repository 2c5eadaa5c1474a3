"""Write CIRR in the tabletop world: image sets of six similar scenes, and queries along the edits between them.

A set is a root, two edits of it, the scene with both, and a near miss of either edit. So a set holds pictures that
suit the text but not the reference, and pictures that suit the reference but not the text. Sets come in themes whose
roots resemble each other: the reference's nearest neighbours in the gallery are many, and only one is the target.
"""

from dataclasses import dataclass
from random import Random
from typing import Any

from zscir.tabletop.benchmark_content import BenchmarkImage, TabletopBenchmark
from zscir.tabletop.edits import EDITED_ATTRIBUTE, SceneEdit, draw_edit_into, inverse_edit, near_miss_edit, repeat_edit
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
    """Six distinct scenes, and the paths that lead from one to another by one edit and by two."""

    scenes: list[Scene]
    single_edits: list[EditPath]
    double_edits: list[EditPath]


def build_cirr(spec: TabletopBenchmarksSpec) -> TabletopBenchmark:
    """The val and test1 splits; test1 holds no answers."""
    benchmark = TabletopBenchmark("cirr")
    used_scenes: set[object] = set()
    number = 0
    for split, sets in (("val", spec.cirr_sets), ("test1", spec.cirr_test_sets)):
        rng = derive_rng(spec.seed, "cirr", split)
        queries: list[dict[str, Any]] = []
        images: list[BenchmarkImage] = []
        themes = [draw_scene(rng, True) for _ in range(-(-sets // SETS_PER_THEME))]
        for n in range(sets):
            image_set = draw_image_set(rng, themes[n // SETS_PER_THEME], used_scenes)
            # As NLVR2, whose images CIRR uses, names them: split, set, pair, side.
            names = [f"{_prefix(split)}-{number}-{n // 2}-img{n % 2}" for n in range(IMAGES_PER_SET)]
            drawn = _queries(rng, image_set, names, number, spec.cirr_queries_per_set)
            queries += [query if split == "val" else _unanswered(query) for query in drawn]
            images += [BenchmarkImage(name, f"{name}.png", s) for name, s in zip(names, image_set.scenes, strict=True)]
            number += 1
        benchmark.annotations[f"captions/cap.rc2.{split}.json"] = queries
        rng.shuffle(images)
        paths = {image.image_id: f"./{_prefix(split)}/{image.member}" for image in images}
        benchmark.annotations[f"image_splits/split.rc2.{split}.json"] = paths
        benchmark.images += images
    return benchmark


def _prefix(split: str) -> str:
    return {"val": "dev", "test1": "test1"}[split]


def draw_image_set(rng: Random, theme: Scene, used_scenes: set[object]) -> ImageSet:
    """An image set near ``theme`` of unused scenes only; they are added to ``used_scenes``."""
    while True:
        root = theme
        for _ in range(rng.choice((1, 1, 2))):
            edit = draw_edit_into(rng, root, True)
            root = root if edit is None else edit.after
        image_set = _draw_square(rng, root)
        if image_set is not None:
            loose = {scene.unplaced for scene in image_set.scenes}
            if len(set(image_set.scenes)) == IMAGES_PER_SET and not loose & used_scenes:
                used_scenes |= loose
                return image_set


def _draw_square(rng: Random, root: Scene) -> ImageSet | None:
    """The root, two edits, both, and the near misses; paths are the square's sides, its diagonals, and detours."""
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
    single_edits = [first, second, second_after_first, first_after_second, *near]
    double_edits: list[EditPath] = [(first, second_after_first)]
    double_edits += [(inverse_edit(a), b) for a, b in ((first, second), near) if a.kind in _INVERTIBLE_KINDS]
    scenes = [root, first.after, second.after, both, *(miss.after for miss in near)]
    return ImageSet(scenes, [(edit,) for edit in single_edits], double_edits)


def _queries(rng: Random, image_set: ImageSet, names: list[str], set_id: int, count: int) -> list[dict[str, Any]]:
    """``count`` queries; about half ask for two edits at once, and some single edits lead backwards."""
    name_of = dict(zip(image_set.scenes, names, strict=True))
    members = rng.sample(names, IMAGES_PER_SET)
    rank_of = dict(zip(rng.sample(names, IMAGES_PER_SET), range(IMAGES_PER_SET), strict=True))
    double = rng.sample(image_set.double_edits, min(count // 2, len(image_set.double_edits)))
    single: list[EditPath] = [
        (inverse_edit(edit),) if edit.kind in _INVERTIBLE_KINDS and rng.random() < 0.3 else (edit,)
        for (edit,) in rng.sample(image_set.single_edits, count - len(double))
    ]
    return [
        {
            "pairid": set_id * MAX_QUERIES_PER_SET + n,
            "reference": name_of[path[0].before],
            "target_hard": name_of[path[-1].after],
            "target_soft": _soft_targets(rng, path, image_set, name_of),
            "caption": _caption(rng, path, image_set),
            "img_set": {
                "id": set_id,
                "members": members,
                "reference_rank": rank_of[name_of[path[0].before]],
                "target_rank": rank_of[name_of[path[-1].after]],
            },
        }
        for n, path in enumerate(double + single)
    ]


def _caption(rng: Random, path: EditPath, image_set: ImageSet) -> str:
    """What leads from the reference to the target; an addition says where if another member has it elsewhere."""
    place = sum(scene.unplaced == path[-1].after.unplaced for scene in image_set.scenes) > 1
    if len(path) == 1:
        return sentence_of(rng, path[0], "asking", include_place=place)
    return " and ".join(sentence_of(rng, edit, "brief", include_place=place) for edit in path)


def _soft_targets(rng: Random, path: EditPath, image_set: ImageSet, name_of: dict[Scene, str]) -> dict[str, float]:
    """The target counts 1.0; now and then another member was judged too: half right, or wrong."""
    labels = {name_of[path[-1].after]: 1.0}
    others = [scene for scene in image_set.scenes if scene not in (path[0].before, path[-1].after)]
    if rng.random() < 0.2:
        judged = rng.choice(others)
        near = any(other[0].before == path[-1].after and other[-1].after == judged for other in image_set.single_edits)
        labels[name_of[judged]] = 0.5 if near else -1.0
    return labels


def _unanswered(query: dict[str, Any]) -> dict[str, Any]:
    """The query as a test split shows it."""
    image_set = {key: value for key, value in query["img_set"].items() if key != "target_rank"}
    kept = {key: value for key, value in query.items() if not key.startswith("target_")}
    return {**kept, "img_set": image_set}
