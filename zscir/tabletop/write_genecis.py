"""Write GeneCIS in the tabletop world: attribute tasks over things in pictures, object tasks over whole scenes.

Attribute tasks know a thing as Visual Genome does (an image id and a box), object tasks know a picture by its COCO id.
Each query has a gallery of its own: what looks like the reference, what suits the condition alone, and others.
"""

from dataclasses import dataclass
from random import Random
from typing import Any

from zscir.tabletop.benchmark_content import BenchmarkImage, TabletopBenchmark, object_boxes
from zscir.tabletop.genecis_objects import COCO_IDS, ScenePool, change_object, focus_object
from zscir.tabletop.scenes import SceneObject, derive_rng, draw_scene
from zscir.tabletop.spec import TabletopBenchmarksSpec

AttributeTaskEntry = dict[str, Any]
FOCUS_GALLERY_SIZE, CHANGE_GALLERY_SIZE = 9, 14  # distractors; the target makes the official 10 and 15
VG_IDS = range(COCO_IDS.stop, 3_000_000)  # apart from COCO's, so that no id names two pictures
_CONDITION_OF = {"colour": "color", "shape": "shape", "texture": "pattern"}
_ATTRIBUTES = tuple(_CONDITION_OF)


@dataclass(frozen=True)
class Instance:
    """One thing in one picture."""

    scene_object: SceneObject
    image_id: str
    box: tuple[int, int, int, int]

    @property
    def gallery_entry(self) -> AttributeTaskEntry:
        """As the annotations name it."""
        return {"image_id": self.image_id, "instance_bbox": list(self.box)}

    def shared_attributes(self, other: "Instance") -> int:
        """In how many of colour, shape and texture two instances agree."""
        return sum(getattr(self.scene_object, look) == getattr(other.scene_object, look) for look in _ATTRIBUTES)


def build_genecis(spec: TabletopBenchmarksSpec) -> TabletopBenchmark:
    """The four task files and the pictures of both sorts."""
    benchmark = TabletopBenchmark("genecis")
    rng = derive_rng(spec.seed, "genecis")
    instances = _instances(rng, spec, benchmark)
    count = range(spec.genecis_queries)
    benchmark.annotations["focus_attribute.json"] = [_focus_attribute(rng, instances) for _ in count]
    benchmark.annotations["change_attribute.json"] = [_change_attribute(rng, instances) for _ in count]
    scene_pool = ScenePool(rng, spec.genecis_queries)
    benchmark.annotations["focus_object.json"] = [focus_object(rng, scene_pool) for _ in count]
    benchmark.annotations["change_object.json"] = [change_object(rng, scene_pool) for _ in count]
    benchmark.images += [
        BenchmarkImage(str(name), f"coco/{name:012d}.jpg", scene) for scene, name in scene_pool.id_of.items()
    ]
    return benchmark


def _instances(rng: Random, spec: TabletopBenchmarksSpec, benchmark: TabletopBenchmark) -> list[Instance]:
    found = []
    for image_id in map(str, rng.sample(VG_IDS, spec.genecis_vg_images)):
        image = BenchmarkImage(image_id, f"vg/{image_id}.jpg", draw_scene(rng, True, (1, 2, 3)))
        benchmark.images.append(image)
        placed, (width, height) = object_boxes(spec.seed, spec.size_px, "genecis", image)
        for placed_object in placed:
            x, y, w, h = placed_object.box
            # Cut off at the picture, as annotators' boxes are.
            left, top = max(0, round(x)), max(0, round(y))
            box = (left, top, min(width, round(x + w)) - left, min(height, round(y + h)) - top)
            found.append(Instance(placed_object.thing, image_id, box))
    return found


def _focus_attribute(rng: Random, instances: list[Instance]) -> AttributeTaskEntry:
    """The target shares with the reference what the condition names and nothing else; the others do not share it."""
    while True:
        reference = rng.choice(instances)
        look = rng.choice(_ATTRIBUTES)
        value = getattr(reference.scene_object, look)
        others = [instance for instance in instances if instance.image_id != reference.image_id]
        targets = [
            instance
            for instance in others
            if getattr(instance.scene_object, look) == value and instance.shared_attributes(reference) == 1
        ]
        wrong = [instance for instance in others if getattr(instance.scene_object, look) != value]
        alike = [instance for instance in wrong if instance.shared_attributes(reference) == 2]
        if targets and alike and len(wrong) >= FOCUS_GALLERY_SIZE:
            distractors = _sample_pools(rng, FOCUS_GALLERY_SIZE, [(alike, 5), (wrong, FOCUS_GALLERY_SIZE)])
            return _query(_CONDITION_OF[look], reference, rng.choice(targets), distractors)


def _change_attribute(rng: Random, instances: list[Instance]) -> AttributeTaskEntry:
    """The target is the reference but for the look that the condition names; no other is its shape with that look."""
    while True:
        reference = rng.choice(instances)
        look = rng.choice(("colour", "colour", "texture"))
        kept = "texture" if look == "colour" else "colour"
        condition = getattr(rng.choice(instances).scene_object, look)
        others = [instance for instance in instances if instance.image_id != reference.image_id]
        fitting = [instance for instance in others if getattr(instance.scene_object, look) == condition]
        right = [instance for instance in fitting if instance.scene_object.shape == reference.scene_object.shape]
        targets = [
            instance
            for instance in right
            if getattr(instance.scene_object, kept) == getattr(reference.scene_object, kept)
        ]
        alike = [
            instance
            for instance in others
            if instance.scene_object.shape == reference.scene_object.shape and instance not in right
        ]
        rest = [instance for instance in others if instance not in right]
        if targets and getattr(reference.scene_object, look) != condition and len(rest) >= CHANGE_GALLERY_SIZE:
            text_only = [instance for instance in fitting if instance not in right]
            distractors = _sample_pools(
                rng, CHANGE_GALLERY_SIZE, [(alike, 5), (text_only, 5), (rest, CHANGE_GALLERY_SIZE)]
            )
            return _query(condition, reference, rng.choice(targets), distractors)


def _sample_pools(rng: Random, total: int, wanted: list[tuple[list[Instance], int]]) -> list[Instance]:
    """``total`` distinct instances: up to so many of each pool in turn, shuffled."""
    picked: list[Instance] = []
    for pool, most in wanted:
        free = [instance for instance in pool if instance not in picked]
        picked += rng.sample(free, min(most, len(free), total - len(picked)))
    rng.shuffle(picked)
    return picked


def _query(condition: str, reference: Instance, target: Instance, distractors: list[Instance]) -> AttributeTaskEntry:
    return {
        "condition": condition,
        "gallery": [instance.gallery_entry for instance in distractors],
        "reference": reference.gallery_entry,
        "target": target.gallery_entry,
    }
