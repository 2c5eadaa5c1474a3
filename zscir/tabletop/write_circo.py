"""CIRCO in the tabletop world: wishes and a gallery become queries with all their ground truths, found exhaustively."""

from random import Random
from typing import Any

from zscir.tabletop.exhibits import BenchmarkImage, TabletopBenchmark
from zscir.tabletop.scenes import Scene, derive_rng, draw_scene
from zscir.tabletop.spec import TabletopBenchmarksSpec
from zscir.tabletop.wishes import TargetCondition, draw_condition, draw_matching_scene, draw_near_miss

MAX_GROUND_TRUTHS = 6
MAX_NEAR_MISSES = 3
_MAX_ID = 600_000


class _GrowingGallery:
    """The gallery while it grows: no scene comes twice, and no wish is met by more than MAX_ANSWERS scenes."""

    def __init__(self) -> None:
        self.scenes: dict[Scene, None] = {}
        self.wishes: list[TargetCondition] = []
        self.answers: list[int] = []

    def takes(self, scenes: list[Scene], wish: TargetCondition | None = None) -> bool:
        """Hang ``scenes`` and note ``wish``, unless that would break one of the two rules."""
        if len(set(scenes)) < len(scenes) or any(scene in self.scenes for scene in scenes):
            return False
        answers = [
            known + sum(earlier.met_by(scene) for scene in scenes)
            for earlier, known in zip(self.wishes, self.answers, strict=True)
        ]
        own = sum(wish.met_by(scene) for scene in (*self.scenes, *scenes)) if wish is not None else 0
        if max([own, *answers]) > MAX_GROUND_TRUTHS:
            return False
        self.answers = answers
        self.scenes.update(dict.fromkeys(scenes))
        if wish is not None:
            self.wishes.append(wish)
            self.answers.append(own)
        return True


def build_circo(spec: TabletopBenchmarksSpec) -> TabletopBenchmark:
    """The val split with its ground truths, the test split without, and the gallery's image info."""
    rng = derive_rng(spec.seed, "circo")
    hall = _GrowingGallery()
    asked = [_add_query_scenes(rng, hall) for _ in range(spec.circo_queries + spec.circo_test_queries)]
    while len(hall.scenes) < spec.circo_gallery:
        hall.takes([draw_scene(rng, True)])
    scenes = list(hall.scenes)
    id_of = dict(zip(scenes, rng.sample(range(1000, _MAX_ID), len(scenes)), strict=True))
    val = [_answered(n, *one, id_of) for n, one in enumerate(asked[: spec.circo_queries])]
    test = [_query(n, *one, id_of) for n, one in enumerate(asked[spec.circo_queries :])]
    rng.shuffle(scenes)
    images = [{"id": id_of[scene], "file_name": f"{id_of[scene]:012d}.jpg"} for scene in scenes]
    shown = TabletopBenchmark("circo")
    shown.annotations = {
        "annotations/val.json": val,
        "annotations/test.json": test,
        "image_info.json": {"images": images},
    }
    shown.exhibits = [BenchmarkImage(str(id_of[scene]), f"{id_of[scene]:012d}.jpg", scene) for scene in scenes]
    return shown


def _add_query_scenes(rng: Random, hall: _GrowingGallery) -> tuple[TargetCondition, Scene, Scene]:
    """A wish, its reference and its target, hung with some more answers and some near misses."""
    while True:
        reference = draw_scene(rng, True, (1, 2))
        wish = draw_condition(rng, reference)
        if wish is None:
            continue
        answers = _distinct([draw_matching_scene(rng, wish, reference.ground) for _ in range(rng.randint(1, 4))])
        misses = _distinct([draw_near_miss(rng, wish, reference) for _ in range(MAX_NEAR_MISSES)])
        if answers and hall.takes([reference, *answers, *misses], wish):
            return wish, reference, answers[0]


def _distinct(drawn: list[Scene | None]) -> list[Scene]:
    """The scenes that could be drawn, once each."""
    return list(dict.fromkeys(scene for scene in drawn if scene is not None))


def _query(
    number: int, wish: TargetCondition, reference: Scene, _target: Scene, id_of: dict[Scene, int]
) -> dict[str, Any]:
    """A query as the test split shows it."""
    return {
        "reference_img_id": id_of[reference],
        "relative_caption": wish.caption,
        "shared_concept": wish.concept,
        "id": number,
    }


def _answered(
    number: int, wish: TargetCondition, reference: Scene, target: Scene, id_of: dict[Scene, int]
) -> dict[str, Any]:
    """A query of the val split: every scene of the gallery that meets the wish is a ground truth, the target first."""
    met = sorted(image_id for scene, image_id in id_of.items() if scene != target and wish.met_by(scene))
    return {
        "reference_img_id": id_of[reference],
        "target_img_id": id_of[target],
        "relative_caption": wish.caption,
        "shared_concept": wish.concept,
        "gt_img_ids": [id_of[target], *met],
        "id": number,
        "semantic_aspects": list(wish.aspects),
    }
