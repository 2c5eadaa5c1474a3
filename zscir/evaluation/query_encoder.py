"""A checkpoint becomes a respondent: who is asked a benchmark's queries, under which label.

Either the checkpoint's own method, or a control over its two towers: text_weight x text + image_weight x image.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from zscir.benchmarks.comparability import NO_TEXTS
from zscir.evaluation.benchmark_images import BenchmarkImages
from zscir.evaluation.features import (
    EmbeddingArray,
    ImageEmbeddings,
    QueryTexts,
    compose_query_embeddings,
    embed_texts,
    sum_query_embeddings,
)
from zscir.methods.checkpoint import backbone_weights_digest, default_device, load_method, load_towers, read_config
from zscir.methods.clip import Clip
from zscir.methods.protocol import Method
from zscir.methods.registry import method_info
from zscir.methods.specs import ClipSpec, ModelPixelSpec
from zscir.store.artifacts import Artifact


@dataclass(frozen=True)
class QueryEncoder:
    """``model`` gives gallery vectors and, without a ``control``, query vectors; ``weights`` names its image tower.

    ``tuned`` towers were trained for the task, so that their sum is a method and no control.
    """

    label: str
    backbone: str
    model: Method
    pixels: ModelPixelSpec
    weights: str
    control: str | None = None
    image_weight: float = 0.0
    tuned: bool = False

    @property
    def stock_control(self) -> str | None:
        """``image``, ``text`` or ``sum`` where nothing was trained for the task; None for a method."""
        return None if self.tuned else self.control

    def texts(self, asked: str | None) -> str:
        """The text protocol that is used where ``asked`` is asked for."""
        return NO_TEXTS if self.control == "image" else asked or str(self.model.text_protocol)

    def weighing(self, image_weight: float) -> "QueryEncoder":
        """The sum with a tuned weight."""
        label = self.label.replace("{weight}", f"{image_weight:g}")
        return replace(self, label=label, image_weight=image_weight)

    def queries(
        self, pictures: BenchmarkImages, references: Sequence[str], texts: QueryTexts, images: ImageEmbeddings
    ) -> EmbeddingArray:
        """[Q, D] query vectors; a control's image half comes from ``images``, which are embedded already."""
        if self.control is None:
            return compose_query_embeddings(self.model, pictures, references, texts, self.pixels)
        if self.control == "image":
            return images.of(references)
        return sum_query_embeddings(images.of(references), self.said(texts), texts, self.image_weight, 1.0)

    def said(self, texts: QueryTexts) -> EmbeddingArray:
        """The text tower's vectors of all texts, one after the other."""
        if not isinstance(self.model, Clip):
            raise TypeError(f"{self.label}: only a control over two towers has text vectors of its own")
        return embed_texts(self.model.embed_texts, texts)


def method_encoder(
    checkpoint: Artifact, backbone: Artifact | None, label: str | None, named: str | None
) -> QueryEncoder:
    """The checkpoint's own method."""
    config = read_config(checkpoint)
    model = load_method(checkpoint, backbone)
    weights = str(config.get("backbone") or backbone_weights_digest(checkpoint))
    return QueryEncoder(
        label or config["method"]["name"], named or _backbone_label(config), model, model.pixels, weights
    )


def control_encoder(
    checkpoint: Artifact, control: str, weight: float | None, label: str | None, named: str | None
) -> QueryEncoder:
    """The ``image``, the ``text`` or their ``sum`` over a clip or pli checkpoint; no weight: one is tuned later."""
    config = read_config(checkpoint)
    model = Clip(load_towers(checkpoint), ClipSpec()).eval().to(default_device())
    lambda_ = "{weight} (tuned)" if weight is None else f"{weight:g}"
    own = {"image": "image only", "text": "text only", "sum": f"sum, lambda {lambda_}"}[control]
    tuned = method_info(config["method"]["name"]).trained_for_task
    if tuned:
        own = f"{config['method']['name']}: {own}"
    mark, shown = backbone_weights_digest(checkpoint), named or _backbone_label(config)
    return QueryEncoder(label or own, shown, model, model.pixels, mark, control, weight or 0.0, tuned)


def _backbone_label(config: dict[str, Any]) -> str:
    vision = config["architecture"]["vision_cfg"]
    return f"ViT {vision['layers']}x{vision['width']}/{vision['patch_size']} at {vision['image_size']} px"
