"""controls: the stock backbone without any training, asked by image only, text only, or a weighted sum."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from zscir.methods.clip import Clip
from zscir.methods.protocol import Batch


class Baseline:
    """Query = norm(text_weight * norm(text) + image_weight * norm(image)) of an untouched backbone."""

    text_protocol = "pli"

    def __init__(self, name: str, stock: Clip, text_weight: float, image_weight: float) -> None:
        self.name, self.stock, self.pixels = name, stock, stock.pixels
        self.text_weight, self.image_weight = text_weight, image_weight

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """A control has nothing to train: a loss of zero."""
        return {"loss": torch.zeros(())}

    @torch.no_grad()
    def queries(self, reference_pixels_B3HW: Tensor, texts: Sequence[str]) -> Tensor:
        """[B, D] unit queries."""
        image, text = self.stock.gallery(reference_pixels_B3HW), self.stock.embed_texts(texts)
        return F.normalize(self.text_weight * text + self.image_weight * image, dim=1)

    def gallery(self, pixels_B3HW: Tensor) -> Tensor:
        """[B, D] unit image features of the backbone."""
        return self.stock.gallery(pixels_B3HW)

    def weights(self) -> dict[str, Tensor]:
        """Nothing: a control has no checkpoint of its own."""
        return {}


def image_only(stock: Clip) -> Baseline:
    """The reference image alone."""
    return Baseline("image only", stock, 0.0, 1.0)


def text_only(stock: Clip) -> Baseline:
    """The modification text alone."""
    return Baseline("text only", stock, 1.0, 0.0)


def weighted_sum(stock: Clip, image_weight: float) -> Baseline:
    """Text plus ``image_weight`` (lambda) times image, both of unit length."""
    return Baseline(f"sum, lambda {image_weight:g}", stock, 1.0, image_weight)
