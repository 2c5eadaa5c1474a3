"""The specs of the methods, with the published values as defaults (no torch here)."""

from typing import Annotated, Literal

from pydantic import Field

from zscir.runtime.specs import Spec

# The channel means and deviations that OpenAI's weights were trained with; open_clip's LAION weights share them.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

PositiveFloat = Annotated[float, Field(gt=0)]
UnitFraction = Annotated[float, Field(ge=0, le=1)]


class ModelPixelSpec(Spec):
    """How an image becomes a square of pixels; it travels with the weights, because scores depend on it.

    ``crop`` scales the short side to ``size_px`` and cuts the centre; ``pad`` first pads images longer than
    ``pad_ratio`` to that ratio (TargetPad); ``warp`` scales both sides.
    """

    size_px: Annotated[int, Field(ge=8, le=1024)] = 224
    fit: Literal["crop", "pad", "warp"] = "crop"
    pad_ratio: Annotated[float, Field(ge=1)] = 1.25  # CLIP4Cir's and PLI's
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD


class VisionSpec(Spec):
    """A vision transformer's sizes; ``size_px`` of the pixels and ``patch_px`` give the grid."""

    patch_px: Annotated[int, Field(gt=0)]
    width: Annotated[int, Field(gt=0)]
    layers: Annotated[int, Field(gt=0)]
    head_width: Annotated[int, Field(gt=0)] = 64


class TextSpec(Spec):
    """A text transformer's sizes; the tokenizer gives the vocabulary."""

    context_length: Annotated[int, Field(ge=8)] = 77
    width: Annotated[int, Field(gt=0)]
    heads: Annotated[int, Field(gt=0)]
    layers: Annotated[int, Field(gt=0)]


class ArchitectureSpec(Spec):
    """A two-tower model of open_clip's CLIP class, made from random weights."""

    embed_dim: Annotated[int, Field(gt=0)]
    quick_gelu: bool = False
    vision: VisionSpec
    text: TextSpec
    tokenizer: Literal["clip", "compact"] = "clip"


class MethodSpec(Spec):
    """Base of every method's spec; a subclass narrows ``name`` to a Literal, which is also its default."""

    name: str


class ClipSpec(MethodSpec):
    """Contrastive training of both towers on image-text pairs: symmetric, normalised, learned scale."""

    name: Literal["clip"] = "clip"
    architecture: ArchitectureSpec | None = None
    pixels: ModelPixelSpec | None = None
    init_scale: PositiveFloat = 14.285714285714286  # 1 / 0.07, as CLIP starts
    max_scale: PositiveFloat = 100.0
    crop_area: Annotated[float, Field(gt=0, le=1)] = 1.0
    flip: UnitFraction = 0.0


class PliSpec(MethodSpec):
    """Masked tuning (PLI, arXiv 2311.07622): masked image + text -> the whole image."""

    name: Literal["pli"] = "pli"
    tune: Literal["both", "text", "image"] = "both"
    space: Literal["raw", "normalised"] = "raw"
    scale: PositiveFloat | None = None
    image_weight: Annotated[float, Field(ge=0)] = 0.25  # lambda; the authors take 1 - mask ratio, and mask 0.75


class TscirMapSpec(MethodSpec):
    """TSCIR stage I (arXiv 2504.17990): an image becomes the word ``*`` and visual injections into the text tower."""

    name: Literal["tscir_map"] = "tscir_map"
    tau: PositiveFloat = 0.07  # the released script; a comment there says "or 0.05"
    sta_weight: Annotated[float, Field(ge=0)] = 0.2
    sites: tuple[int, ...] | None = None  # None: after text blocks 3, 7, 9, 11 of 12, or at the same relative depth
    word_hidden: Annotated[int, Field(gt=0)] = 512
    inject_width: Annotated[int, Field(gt=0)] = 128
    inject_heads: Annotated[int, Field(gt=0)] = 8
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    zero_init: bool = False
    view_a_area: Annotated[float, Field(gt=0, le=1)] = 0.8
    view_b_area: Annotated[float, Field(gt=0, le=1)] = 0.9
    flip: UnitFraction = 0.5


class TscirComposeSpec(MethodSpec):
    """TSCIR stage II: small adapters in the text tower learn to compose ``*`` with a modification text."""

    name: Literal["tscir_compose"] = "tscir_compose"
    tau: PositiveFloat = 0.01
    rank: Annotated[int, Field(gt=0)] = 128  # the released script; its parser's default is 8
    sites: tuple[int, ...] | None = None
    zero_init: bool = False
    negatives: Literal["plain", "mixed", "mixed_unscaled"] = "mixed"  # "mixed_unscaled" is what the code computes
    hardest: Annotated[int, Field(gt=0)] = 10
    map_weight: Annotated[float, Field(ge=0)] = 1.0
    sta_weight: Annotated[float, Field(ge=0)] = 0.2
    sta_images: Literal["target", "reference"] = "target"  # the teacher's images; the released code takes the targets
    view_area: Annotated[float, Field(gt=0, le=1)] = 0.9
