"""Query encoder: what turns a benchmark's queries into vectors, under which label in tables.

Either the checkpoint's own method, or a control over its two towers: the image, the text, or text + weight x image.
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

    Towers that are ``trained_for_task`` (PLI's) make the sum a method and no control.
    """

    label: str
    backbone: str
    model: Method
    pixels: ModelPixelSpec
    weights: str
    control: str | None = None
    image_weight: float = 0.0
    trained_for_task: bool = False

    @property
    def untrained_control(self) -> str | None:
        """``image``, ``text`` or ``sum`` where nothing was trained for the task; None for a method."""
        return None if self.trained_for_task else self.control

    def text_protocol(self, requested: str | None) -> str:
        """The text protocol in use where a spec requests one, or leaves it to the method (None)."""
        return NO_TEXTS if self.control == "image" else requested or str(self.model.text_protocol)

    def with_image_weight(self, image_weight: float) -> "QueryEncoder":
        """The sum with a tuned weight."""
        label = self.label.replace("{weight}", f"{image_weight:g}")
        return replace(self, label=label, image_weight=image_weight)

    def query_embeddings(
        self, images: BenchmarkImages, references: Sequence[str], texts: QueryTexts, embeddings: ImageEmbeddings
    ) -> EmbeddingArray:
        """[Q, D] query vectors; a control takes its references from ``embeddings``, a method reads their pixels."""
        if self.control is None:
            return compose_query_embeddings(self.model, images, references, texts, self.pixels)
        reference_QD = embeddings.rows_of(references)
        if self.control == "image":
            return reference_QD
        return sum_query_embeddings(reference_QD, self.text_embeddings(texts), texts, self.image_weight, 1.0)

    def text_embeddings(self, texts: QueryTexts) -> EmbeddingArray:
        """The text tower's vectors [T, D] of all texts, one after the other."""
        # A method composes image and text in one pass: there is nothing left to weigh.
        if not isinstance(self.model, Clip):
            raise TypeError(f"{self.label}: only a control over two towers has text vectors of its own")
        return embed_texts(self.model.embed_texts, texts)


def method_encoder(
    checkpoint: Artifact, backbone: Artifact | None, label: str | None, backbone_label: str | None
) -> QueryEncoder:
    """The checkpoint's own method."""
    config = read_config(checkpoint)
    model = load_method(checkpoint, backbone)
    # TSCIR uses its backbone's image tower unchanged, so that cached embeddings of the backbone serve as its gallery.
    unchanged = method_info(config["method"]["name"]).backbone_gallery
    weights = str(config["backbone"]) if unchanged else backbone_weights_digest(checkpoint)
    shown_backbone = backbone_label or _describe_backbone(config)
    return QueryEncoder(label or config["method"]["name"], shown_backbone, model, model.pixels, weights)


def control_encoder(
    checkpoint: Artifact, control: str, weight: float | None, label: str | None, backbone_label: str | None
) -> QueryEncoder:
    """The ``image``, the ``text`` or their ``sum`` over a clip or pli checkpoint; no weight: one is tuned later."""
    config = read_config(checkpoint)
    # A PLI checkpoint is two towers as well, so it can be scored by the same sum as the stock backbone.
    model = Clip(load_towers(checkpoint), ClipSpec()).eval().to(default_device())
    # The braces are filled in by with_image_weight, when the weight is known.
    lambda_ = "{weight} (tuned)" if weight is None else f"{weight:g}"
    default_label = {"image": "image only", "text": "text only", "sum": f"sum, lambda {lambda_}"}[control]
    trained = method_info(config["method"]["name"]).trained_for_task
    if trained:
        default_label = f"{config['method']['name']}: {default_label}"
    return QueryEncoder(
        label=label or default_label,
        backbone=backbone_label or _describe_backbone(config),
        model=model,
        pixels=model.pixels,
        weights=backbone_weights_digest(checkpoint),
        control=control,
        image_weight=weight or 0.0,
        trained_for_task=trained,
    )


def _describe_backbone(config: dict[str, Any]) -> str:
    vision = config["architecture"]["vision_cfg"]
    # The same text for a method and its controls: tables look for a backbone's controls by it.
    return f"ViT {vision['layers']}x{vision['width']}/{vision['patch_size']} at {vision['image_size']} px"
