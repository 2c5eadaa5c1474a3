"""GeneCIS in the tabletop world: things in pictures become the attribute tasks, whole scenes become the object tasks.

Attribute tasks know a thing as Visual Genome does (an image id and a box), object tasks know a picture by its COCO id.
Each query has a gallery of its own: what looks like the reference, what suits the condition alone, and others.
"""

from dataclasses import dataclass
from random import Random
from typing import Any

from zscir.tabletop.exhibits import BenchmarkImage, TabletopBenchmark, object_boxes
from zscir.tabletop.genecis_objects import COCO_IDS, ScenePool, change_object, focus_object
from zscir.tabletop.scenes import SceneObject, derive_rng, draw_scene
from zscir.tabletop.spec import TabletopBenchmarksSpec

AttributeTaskEntry = dict[str, Any]
FOCUS_GALLERY_SIZE, CHANGE_GALLERY_SIZE = 9, 14  # gallery items; the target is shown beside them
VG_IDS = range(COCO_IDS.stop, 3_000_000)
_CONDITION_OF = {"colour": "color", "shape": "shape", "texture": "pattern"}
_ATTRIBUTES = tuple(_CONDITION_OF)


@dataclass(frozen=True)
class Instance:
    """One thing in one picture."""

    thing: SceneObject
    image_id: str
    box: tuple[int, int, int, int]

    @property
    def item(self) -> AttributeTaskEntry:
        """As the annotations name it."""
        return {"image_id": self.image_id, "instance_bbox": list(self.box)}

    def shared(self, other: "Instance") -> int:
        """In how many of colour, shape and texture two instances agree."""
        return sum(getattr(self.thing, look) == getattr(other.thing, look) for look in _ATTRIBUTES)


def build_genecis(spec: TabletopBenchmarksSpec) -> TabletopBenchmark:
    """The four task files and the pictures of both sorts."""
    shown = TabletopBenchmark("genecis")
    rng = derive_rng(spec.seed, "genecis")
    instances = _instances(rng, spec, shown)
    count = range(spec.genecis_queries)
    shown.annotations["focus_attribute.json"] = [_focus_attribute(rng, instances) for _ in count]
    shown.annotations["change_attribute.json"] = [_change_attribute(rng, instances) for _ in count]
    wall = ScenePool(rng, spec.genecis_queries)
    shown.annotations["focus_object.json"] = [focus_object(rng, wall) for _ in count]
    shown.annotations["change_object.json"] = [change_object(rng, wall) for _ in count]
    shown.exhibits += [BenchmarkImage(str(name), f"coco/{name:012d}.jpg", scene) for scene, name in wall.id_of.items()]
    return shown


def _instances(rng: Random, spec: TabletopBenchmarksSpec, shown: TabletopBenchmark) -> list[Instance]:
    found = []
    for image_id in map(str, rng.sample(VG_IDS, spec.genecis_vg_images)):
        exhibit = BenchmarkImage(image_id, f"vg/{image_id}.jpg", draw_scene(rng, True, (1, 2, 3)))
        shown.exhibits.append(exhibit)
        placed, (width, height) = object_boxes(spec.seed, spec.size_px, "genecis", exhibit)
        for one in placed:
            x, y, w, h = one.box
            left, top = max(0, round(x)), max(0, round(y))
            box = (left, top, min(width, round(x + w)) - left, min(height, round(y + h)) - top)
            found.append(Instance(one.thing, image_id, box))
    return found


def _focus_attribute(rng: Random, instances: list[Instance]) -> AttributeTaskEntry:
    """The target shares with the reference what the condition names and nothing else; the others do not share it."""
    while True:
        reference = rng.choice(instances)
        look = rng.choice(_ATTRIBUTES)
        value = getattr(reference.thing, look)
        others = [one for one in instances if one.image_id != reference.image_id]
        targets = [one for one in others if getattr(one.thing, look) == value and one.shared(reference) == 1]
        wrong = [one for one in others if getattr(one.thing, look) != value]
        alike = [one for one in wrong if one.shared(reference) == 2]
        if targets and alike and len(wrong) >= FOCUS_GALLERY_SIZE:
            listed = _sample_pools(rng, FOCUS_GALLERY_SIZE, [(alike, 5), (wrong, FOCUS_GALLERY_SIZE)])
            return _query(_CONDITION_OF[look], reference, rng.choice(targets), listed)


def _change_attribute(rng: Random, instances: list[Instance]) -> AttributeTaskEntry:
    """The target is the reference but for the look that the condition names; no other is its shape with that look."""
    while True:
        reference = rng.choice(instances)
        look = rng.choice(("colour", "colour", "texture"))
        kept = "texture" if look == "colour" else "colour"
        condition = getattr(rng.choice(instances).thing, look)
        others = [one for one in instances if one.image_id != reference.image_id]
        fitting = [one for one in others if getattr(one.thing, look) == condition]
        right = [one for one in fitting if one.thing.shape == reference.thing.shape]
        targets = [one for one in right if getattr(one.thing, kept) == getattr(reference.thing, kept)]
        alike = [one for one in others if one.thing.shape == reference.thing.shape and one not in right]
        rest = [one for one in others if one not in right]
        if targets and getattr(reference.thing, look) != condition and len(rest) >= CHANGE_GALLERY_SIZE:
            text_only = [one for one in fitting if one not in right]
            listed = _sample_pools(rng, CHANGE_GALLERY_SIZE, [(alike, 5), (text_only, 5), (rest, CHANGE_GALLERY_SIZE)])
            return _query(condition, reference, rng.choice(targets), listed)


def _sample_pools(rng: Random, total: int, wanted: list[tuple[list[Instance], int]]) -> list[Instance]:
    """``total`` distinct instances: up to so many of each pool in turn, shuffled."""
    picked: list[Instance] = []
    for pool, most in wanted:
        free = [one for one in pool if one not in picked]
        picked += rng.sample(free, min(most, len(free), total - len(picked)))
    rng.shuffle(picked)
    return picked


def _query(condition: str, reference: Instance, target: Instance, listed: list[Instance]) -> AttributeTaskEntry:
    return {
        "condition": condition,
        "gallery": [one.item for one in listed],
        "reference": reference.item,
        "target": target.item,
    }
