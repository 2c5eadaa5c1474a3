"""GeneCIS in the tabletop world: things in pictures become the attribute tasks, whole scenes become the object tasks.

Attribute tasks know a thing as Visual Genome does (an image id and a box), object tasks know a picture by its COCO id.
Each query has a gallery of its own: what looks like the reference, what suits the condition alone, and others.
"""

from dataclasses import dataclass
from random import Random
from typing import Any

from zscir.tabletop.exhibits import Exhibit, Exhibition, boxes_of
from zscir.tabletop.genecis_objects import COCO_IDS, Wall, change_object, focus_object
from zscir.tabletop.scenes import Thing, draw_scene, rng_of
from zscir.tabletop.spec import TabletopBenchmarksSpec

Query = dict[str, Any]
FOCUS_LISTED, CHANGE_LISTED = 9, 14  # gallery items; the target is shown beside them
VG_IDS = range(COCO_IDS.stop, 3_000_000)
_CONDITION_OF = {"colour": "color", "shape": "shape", "texture": "pattern"}
_LOOKS = tuple(_CONDITION_OF)


@dataclass(frozen=True)
class Instance:
    """One thing in one picture."""

    thing: Thing
    image_id: str
    box: tuple[int, int, int, int]

    @property
    def item(self) -> Query:
        """As the annotations name it."""
        return {"image_id": self.image_id, "instance_bbox": list(self.box)}

    def shared(self, other: "Instance") -> int:
        """In how many of colour, shape and texture two instances agree."""
        return sum(getattr(self.thing, look) == getattr(other.thing, look) for look in _LOOKS)


def build_genecis(spec: TabletopBenchmarksSpec) -> Exhibition:
    """The four task files and the pictures of both sorts."""
    shown = Exhibition("genecis")
    rng = rng_of(spec.seed, "genecis")
    instances = _instances(rng, spec, shown)
    count = range(spec.genecis_queries)
    shown.annotations["focus_attribute.json"] = [_focus_attribute(rng, instances) for _ in count]
    shown.annotations["change_attribute.json"] = [_change_attribute(rng, instances) for _ in count]
    wall = Wall(rng, spec.genecis_queries)
    shown.annotations["focus_object.json"] = [focus_object(rng, wall) for _ in count]
    shown.annotations["change_object.json"] = [change_object(rng, wall) for _ in count]
    shown.exhibits += [Exhibit(str(name), f"coco/{name:012d}.jpg", scene) for scene, name in wall.id_of.items()]
    return shown


def _instances(rng: Random, spec: TabletopBenchmarksSpec, shown: Exhibition) -> list[Instance]:
    found = []
    for image_id in map(str, rng.sample(VG_IDS, spec.genecis_vg_images)):
        exhibit = Exhibit(image_id, f"vg/{image_id}.jpg", draw_scene(rng, True, (1, 2, 3)))
        shown.exhibits.append(exhibit)
        placed, (width, height) = boxes_of(spec.seed, spec.size_px, "genecis", exhibit)
        for one in placed:
            x, y, w, h = one.box
            left, top = max(0, round(x)), max(0, round(y))
            box = (left, top, min(width, round(x + w)) - left, min(height, round(y + h)) - top)
            found.append(Instance(one.thing, image_id, box))
    return found


def _focus_attribute(rng: Random, instances: list[Instance]) -> Query:
    """The target shares with the reference what the condition names and nothing else; the others do not share it."""
    while True:
        reference = rng.choice(instances)
        look = rng.choice(_LOOKS)
        value = getattr(reference.thing, look)
        others = [one for one in instances if one.image_id != reference.image_id]
        targets = [one for one in others if getattr(one.thing, look) == value and one.shared(reference) == 1]
        wrong = [one for one in others if getattr(one.thing, look) != value]
        alike = [one for one in wrong if one.shared(reference) == 2]
        if targets and alike and len(wrong) >= FOCUS_LISTED:
            listed = _pick(rng, FOCUS_LISTED, [(alike, 5), (wrong, FOCUS_LISTED)])
            return _query(_CONDITION_OF[look], reference, rng.choice(targets), listed)


def _change_attribute(rng: Random, instances: list[Instance]) -> Query:
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
        if targets and getattr(reference.thing, look) != condition and len(rest) >= CHANGE_LISTED:
            text_only = [one for one in fitting if one not in right]
            listed = _pick(rng, CHANGE_LISTED, [(alike, 5), (text_only, 5), (rest, CHANGE_LISTED)])
            return _query(condition, reference, rng.choice(targets), listed)


def _pick(rng: Random, total: int, wanted: list[tuple[list[Instance], int]]) -> list[Instance]:
    """``total`` distinct instances: up to so many of each pool in turn, shuffled."""
    picked: list[Instance] = []
    for pool, most in wanted:
        free = [one for one in pool if one not in picked]
        picked += rng.sample(free, min(most, len(free), total - len(picked)))
    rng.shuffle(picked)
    return picked


def _query(condition: str, reference: Instance, target: Instance, listed: list[Instance]) -> Query:
    return {
        "condition": condition,
        "gallery": [one.item for one in listed],
        "reference": reference.item,
        "target": target.item,
    }
