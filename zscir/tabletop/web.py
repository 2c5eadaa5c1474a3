"""The web list of the tabletop world: the scene, picture, caption, URL and fault of every index, without any state.

Indices come in families of four: the first is a fresh scene, and a share of the others are edits of it (siblings),
so that caption differences between similar pictures exist to be mined, as among a shop's photos of one product.
"""

from zscir.tabletop.captions import caption_of
from zscir.tabletop.edits import draw_edit_into
from zscir.tabletop.render import jpeg_of, size_of
from zscir.tabletop.scenes import Scene, derive_rng, draw_scene
from zscir.tabletop.spec import TabletopSpec, url_fault_shares

TABLETOP_ORIGIN = "http://tabletop.test"  # .test is reserved (RFC 6761): no such host can exist
SCENES_PER_FAMILY = 4


def url_of(spec: TabletopSpec, index: int) -> str:
    """The stable address of picture ``index``; only the server's port differs between runs."""
    return f"{TABLETOP_ORIGIN}/{spec.seed}/{index}.jpg"


def is_sibling(spec: TabletopSpec, index: int) -> bool:
    """Whether scene ``index`` is drawn as an edit of its family's first scene."""
    # The share is of all pictures, but the first of each family is never a sibling.
    chance = spec.sibling_share * SCENES_PER_FAMILY / (SCENES_PER_FAMILY - 1)
    return index % SCENES_PER_FAMILY != 0 and derive_rng(spec.seed, "web sibling", index).random() < chance


def web_scene(spec: TabletopSpec, index: int) -> Scene:
    """Scene ``index`` of the web list; never a held-out one."""
    if is_sibling(spec, index):
        rng = derive_rng(spec.seed, "web edit", index)
        scene = _draw_independent_scene(spec, index - index % SCENES_PER_FAMILY)
        for _ in range(rng.choice((1, 1, 1, 2))):
            edit = draw_edit_into(rng, scene, for_benchmarks=False)
            scene = scene if edit is None else edit.after
        return scene
    return _draw_independent_scene(spec, index)


def _draw_independent_scene(spec: TabletopSpec, index: int) -> Scene:
    return draw_scene(derive_rng(spec.seed, "web scene", index), for_benchmarks=False)


def web_caption(spec: TabletopSpec, index: int) -> str:
    """The caption of scene ``index``; half of the siblings are phrased as their family's first scene is."""
    # One phrasing for two pictures: their captions then differ by the edit alone.
    like_first = is_sibling(spec, index) and derive_rng(spec.seed, "web phrasing", index).random() < 0.5
    phrasing = index - index % SCENES_PER_FAMILY if like_first else index
    return caption_of(derive_rng(spec.seed, "web caption", phrasing), web_scene(spec, index))


def web_jpeg(spec: TabletopSpec, index: int) -> bytes:
    """The JPEG of scene ``index``."""
    rng = derive_rng(spec.seed, "web picture", index)
    return jpeg_of(rng, web_scene(spec, index), *size_of(rng, spec.size_px))


def url_fault(spec: TabletopSpec, index: int) -> str:
    """ "ok", or the way in which the URL of ``index`` is broken."""
    point = derive_rng(spec.seed, "web fate", index).random()
    for fate, share in url_fault_shares(spec):
        point -= share
        if point < 0:
            return fate
    return "ok"
