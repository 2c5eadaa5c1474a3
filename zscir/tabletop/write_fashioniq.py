"""FashionIQ in the tabletop world: scenes one or two edits apart become entries with two captions each.

The three categories differ in how many things a scene holds at first: one (dress), two (shirt), one to three (toptee).
A category's gallery is a few themes, each a tree of edits of one scene, so that a candidate has many lookalikes.
"""

from random import Random
from typing import Any

from zscir.tabletop.edits import SceneEdit, draw_edit_into
from zscir.tabletop.exhibits import BenchmarkImage, TabletopBenchmark
from zscir.tabletop.scenes import Scene, derive_rng, draw_scene
from zscir.tabletop.spec import TabletopBenchmarksSpec
from zscir.tabletop.wording import sentence_of

COUNTS_OF_CATEGORY = {"dress": (1,), "shirt": (2,), "toptee": (1, 2, 3)}
THEME_SCENES = 50
_MAX_DEPTH = 3
_ID_LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_PERSISTENT_KINDS = ("recolour", "reshape", "retexture", "resize", "ground")
_KINDS = (*_PERSISTENT_KINDS, "add")
EditPath = tuple[SceneEdit, ...]  # one edit, or two that follow each other


def build_fashioniq(spec: TabletopBenchmarksSpec) -> TabletopBenchmark:
    """The val split of all three categories; ids are unique across categories."""
    shown = TabletopBenchmark("fashioniq")
    ids: set[str] = set()
    for category, counts in COUNTS_OF_CATEGORY.items():
        rng = derive_rng(spec.seed, "fashioniq", category)
        scenes: dict[object, Scene] = {}
        ways: list[EditPath] = []
        while len(scenes) < spec.fashioniq_gallery:
            size = min(THEME_SCENES, spec.fashioniq_gallery - len(scenes))
            ways += _draw_theme(rng, draw_scene(rng, True, counts), size, scenes)
        id_of = {scene: _new_id(rng, ids) for scene in scenes.values()}
        chosen = rng.sample(ways, spec.fashioniq_queries)
        names = rng.sample(list(id_of.values()), len(id_of))
        shown.annotations[f"captions/cap.{category}.val.json"] = [_entry(rng, way, id_of) for way in chosen]
        shown.annotations[f"image_splits/split.{category}.val.json"] = names
        shown.exhibits += [BenchmarkImage(name, f"{name}.jpg", scene) for scene, name in id_of.items()]
    return shown


def _draw_theme(rng: Random, root: Scene, size: int, scenes: dict[object, Scene]) -> list[EditPath]:
    """Add a tree of up to ``size`` new scenes to ``scenes``; gives its branches, and pairs of them that follow."""
    if root.unplaced in scenes:
        return []
    scenes[root.unplaced] = root
    tree: list[tuple[Scene, EditPath]] = [(root, ())]  # scene, way from the root
    for _ in range(40 * size):
        parent, path = rng.choice(tree)
        edit = draw_edit_into(rng, parent, True, _KINDS) if len(path) < _MAX_DEPTH else None
        if edit is not None and edit.after.unplaced not in scenes and len(tree) < size:
            scenes[edit.after.unplaced] = edit.after
            tree.append((edit.after, (*path, edit)))
    return [_last_steps(rng, path) for _, path in tree if path]


def _last_steps(rng: Random, path: EditPath) -> EditPath:
    """The last edit of ``path``, or its last two where the words for both stay true."""
    return path[-2:] if len(path) > 1 and rng.random() < 0.8 and _keeps(*path[-2:]) else path[-1:]


def _keeps(first: SceneEdit, second: SceneEdit) -> bool:
    """Whether what is said of the first edit still holds after the second."""
    touched = second.old is not None and second.old == first.new
    lasting = first.kind in _PERSISTENT_KINDS and "reshape" not in (first.kind, second.kind)
    return first.kind != second.kind and (lasting or not touched)


def _entry(rng: Random, way: EditPath, id_of: dict[Scene, str]) -> dict[str, Any]:
    """Two captions: one for each edit, or two wordings of the only one."""
    captions = [sentence_of(rng, edit, "terse") for edit in (way[0], way[-1])]
    while captions[0] == captions[1]:
        captions[1] = sentence_of(rng, way[-1], "terse")
    rng.shuffle(captions)
    return {"target": id_of[way[-1].after], "candidate": id_of[way[0].before], "captions": captions}


def _new_id(rng: Random, ids: set[str]) -> str:
    """An id of the form that the real annotations have: B0 and eight letters or digits."""
    while True:
        name = "B0" + "".join(rng.choices(_ID_LETTERS, k=8))
        if name not in ids:
            ids.add(name)
            return name
