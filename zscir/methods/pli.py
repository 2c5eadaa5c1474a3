"""pli, masked tuning: an image on a few of its patches plus its caption learns to find the whole image.

PLI, arXiv 2311.07622. What is computed follows the released code, not the abstract: patches are dropped (no mask
token), the sum is raw, the softmax is one-way at temperature 1, and the target branch has the same weights and a
gradient.
"""

from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from zscir.methods.losses import one_way_nce
from zscir.methods.masks import kept_patches
from zscir.methods.protocol import Batch, Gather, StartingPoints, StoredMethod, TrainableMethod, gather_single_process
from zscir.methods.specs import PliSpec
from zscir.methods.towers import Towers


class Pli(TrainableMethod[PliSpec]):
    """Query = norm(norm(text) + image_weight * norm(image))."""

    name = "pli"
    text_protocol = "pli"  # the bare modification text, without a prompt around it

    def __init__(self, towers: Towers, spec: PliSpec) -> None:
        super().__init__()
        self.towers, self.spec, self.pixels = towers, spec, towers.pixels
        # Only the tuned part takes a gradient; the learned scale has no part in this loss.
        for name, parameter in towers.clip.named_parameters():
            tuned = spec.tune == "both" or (spec.tune == "image") == name.startswith("visual.")
            parameter.requires_grad_(tuned and name != "logit_scale")

    @classmethod
    def new(cls, spec: PliSpec, start: StartingPoints) -> Self:
        """Around the backbone's towers, which are tuned."""
        return cls(start.towers, spec)

    @classmethod
    def load(cls, spec: PliSpec, stored: StoredMethod) -> Self:
        """Around the tuned towers that the checkpoint holds."""
        return cls(stored.towers, spec)

    def both_towers(self) -> Towers:
        return self.towers

    def loss(self, batch: Batch, gather: Gather = gather_single_process) -> dict[str, Tensor]:
        """-log softmax of (masked reference + text) . target over the batch's targets."""
        kept = kept_patches(batch.mask_seeds, batch.epoch, batch.reference_keys, self.towers.patches, batch.mask_ratio)
        masked = self.towers.encode_image(batch.reference_pixels, torch.from_numpy(kept))
        # Unweighted in training, while a query weighs the image by 1 - mask ratio: train and test are asymmetric there.
        query = gather(masked + self.towers.encode_texts(batch.texts))
        target = gather(self.towers.encode_image(batch.target_pixels))
        logits = self._logits(query, target)
        # The share of queries that find their own target first: a curve for the report, without a gradient.
        hits = (logits.argmax(dim=1) == torch.arange(len(logits), device=logits.device)).float().mean()
        return {"loss": one_way_nce(logits), "hits": hits}

    def _logits(self, query_BD: Tensor, target_BD: Tensor) -> Tensor:
        # CLIP's features have norms near 10, so that raw products play the part of its scale of 100 (1 / tau). Unit
        # features without such a scale would be another method.
        if self.spec.space == "raw":
            return (self.spec.scale or 1.0) * query_BD @ target_BD.T
        scale = self.spec.scale or self.towers.logit_scale().detach()
        return scale * F.normalize(query_BD, dim=1) @ F.normalize(target_BD, dim=1).T

    @torch.no_grad()
    def queries(self, reference_pixels_B3HW: Tensor, texts: Sequence[str]) -> Tensor:
        """[B, D] unit queries: text first, the whole reference image at ``image_weight``."""
        text = F.normalize(self.towers.encode_texts(texts), dim=1)
        return F.normalize(text + self.spec.image_weight * self.gallery(reference_pixels_B3HW), dim=1)

    @torch.no_grad()
    def gallery(self, pixels_B3HW: Tensor) -> Tensor:
        """[B, D] unit image features of the tuned tower."""
        return F.normalize(self.towers.encode_image(pixels_B3HW), dim=1)

    def weights(self) -> dict[str, Tensor]:
        """Both tuned towers, under open_clip's names."""
        return dict(self.towers.clip.state_dict())
