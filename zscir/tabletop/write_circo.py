"""Write CIRCO in the tabletop world: conditions over a gallery, with all their ground truths, found exhaustively."""

from random import Random
from typing import Any

from zscir.tabletop.benchmark_content import BenchmarkImage, TabletopBenchmark
from zscir.tabletop.conditions import TargetCondition, draw_condition, draw_matching_scene, draw_near_miss
from zscir.tabletop.scenes import Scene, derive_rng, draw_scene
from zscir.tabletop.spec import TabletopBenchmarksSpec

MAX_GROUND_TRUTHS = 6  # real CIRCO has 4.2 a query on its val split
MAX_NEAR_MISSES = 3
_MAX_ID = 600_000  # COCO's ids end below that


class _GrowingGallery:
    """A gallery in which no scene comes twice and no condition is met by more than MAX_GROUND_TRUTHS scenes."""

    def __init__(self) -> None:
        self.scenes: dict[Scene, None] = {}
        self.conditions: list[TargetCondition] = []
        self.answers: list[int] = []

    def try_add(self, scenes: list[Scene], condition: TargetCondition | None = None) -> bool:
        """Add ``scenes`` and a query's ``condition``; False where that would break one of the two rules."""
        if len(set(scenes)) < len(scenes) or any(scene in self.scenes for scene in scenes):
            return False
        answers = [
            known + sum(earlier.is_met_by(scene) for scene in scenes)
            for earlier, known in zip(self.conditions, self.answers, strict=True)
        ]
        own = sum(condition.is_met_by(scene) for scene in (*self.scenes, *scenes)) if condition is not None else 0
        if max([own, *answers]) > MAX_GROUND_TRUTHS:
            return False
        self.answers = answers
        self.scenes.update(dict.fromkeys(scenes))
        if condition is not None:
            self.conditions.append(condition)
            self.answers.append(own)
        return True


def build_circo(spec: TabletopBenchmarksSpec) -> TabletopBenchmark:
    """The val split with its ground truths, the test split without, and the gallery's image info."""
    rng = derive_rng(spec.seed, "circo")
    gallery = _GrowingGallery()
    drawn_queries = [_add_query_scenes(rng, gallery) for _ in range(spec.circo_queries + spec.circo_test_queries)]
    while len(gallery.scenes) < spec.circo_gallery:
        gallery.try_add([draw_scene(rng, True)])
    scenes = list(gallery.scenes)
    id_of = dict(zip(scenes, rng.sample(range(1000, _MAX_ID), len(scenes)), strict=True))
    val = [_answered(n, *query, id_of) for n, query in enumerate(drawn_queries[: spec.circo_queries])]
    test = [_query(n, *query, id_of) for n, query in enumerate(drawn_queries[spec.circo_queries :])]
    rng.shuffle(scenes)  # else ground truths would stand side by side in the gallery's order, which breaks ties
    images = [{"id": id_of[scene], "file_name": f"{id_of[scene]:012d}.jpg"} for scene in scenes]
    benchmark = TabletopBenchmark("circo")
    benchmark.annotations = {
        "annotations/val.json": val,
        "annotations/test.json": test,
        "image_info.json": {"images": images},
    }
    benchmark.images = [BenchmarkImage(str(id_of[scene]), f"{id_of[scene]:012d}.jpg", scene) for scene in scenes]
    return benchmark


def _add_query_scenes(rng: Random, gallery: _GrowingGallery) -> tuple[TargetCondition, Scene, Scene]:
    """A condition, its reference and its target; all are added, with further ground truths and near misses."""
    while True:
        reference = draw_scene(rng, True, (1, 2))
        condition = draw_condition(rng, reference)
        if condition is None:
            continue
        answers = _distinct([draw_matching_scene(rng, condition, reference.ground) for _ in range(rng.randint(1, 4))])
        misses = _distinct([draw_near_miss(rng, condition, reference) for _ in range(MAX_NEAR_MISSES)])
        if answers and gallery.try_add([reference, *answers, *misses], condition):
            return condition, reference, answers[0]


def _distinct(drawn: list[Scene | None]) -> list[Scene]:
    """The scenes that could be drawn, once each."""
    return list(dict.fromkeys(scene for scene in drawn if scene is not None))


def _query(
    number: int, condition: TargetCondition, reference: Scene, _target: Scene, id_of: dict[Scene, int]
) -> dict[str, Any]:
    """A query as the test split shows it."""
    return {
        "reference_img_id": id_of[reference],
        "relative_caption": condition.caption,
        "shared_concept": condition.concept,
        "id": number,
    }


def _answered(
    number: int, condition: TargetCondition, reference: Scene, target: Scene, id_of: dict[Scene, int]
) -> dict[str, Any]:
    """A query of the val split: every scene that meets the condition is a ground truth, the target first."""
    met = sorted(image_id for scene, image_id in id_of.items() if scene != target and condition.is_met_by(scene))
    return {
        "reference_img_id": id_of[reference],
        "target_img_id": id_of[target],
        "relative_caption": condition.caption,
        "shared_concept": condition.concept,
        "gt_img_ids": [id_of[target], *met],
        "id": number,
        "semantic_aspects": list(condition.aspects),
    }
