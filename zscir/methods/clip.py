"""clip: two towers trained on image-text pairs by a symmetric contrastive loss; the backbone of every other method."""

import math
from collections.abc import Iterable, Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from zscir.methods.augment import augmented_view
from zscir.methods.losses import symmetric_nce
from zscir.methods.protocol import Batch, Gather, StartingPoints, StoredMethod, TrainableMethod, gather_single_process
from zscir.methods.specs import ArchitectureSpec, ClipSpec, ModelPixelSpec
from zscir.methods.tokenizer import ClipTokenizer, CompactTokenizer, Tokenizer
from zscir.methods.towers import Towers, open_clip_config
from zscir.runtime.errors import RequestError


class Clip(TrainableMethod[ClipSpec]):
    """Query = norm(norm(text) + norm(image)), the control at lambda 1 that papers print beside their methods."""

    name = "clip"
    text_protocol = "pli"

    def __init__(self, towers: Towers, spec: ClipSpec) -> None:
        super().__init__()
        self.towers, self.spec, self.pixels = towers, spec, towers.pixels

    @classmethod
    def new(cls, spec: ClipSpec, start: StartingPoints) -> Self:
        """From scratch where the spec gives an architecture, else from the backbone."""
        if (spec.architecture is None) == (start.backbone is None):
            raise RequestError("training clip takes either method.architecture (from scratch) or the input 'backbone'")
        if spec.architecture is None:
            return cls(start.towers, spec)
        towers = _new_towers(spec.architecture, spec.pixels or ModelPixelSpec(), start.texts)
        with torch.no_grad():
            towers.clip.logit_scale.fill_(math.log(spec.init_scale))  # the parameter is the scale's logarithm
        return cls(towers, spec)

    @classmethod
    def load(cls, spec: ClipSpec, stored: StoredMethod) -> Self:
        """Around the towers that the checkpoint holds."""
        return cls(stored.towers, spec)

    def both_towers(self) -> Towers:
        return self.towers

    def loss(self, batch: Batch, gather: Gather = gather_single_process) -> dict[str, Tensor]:
        """Symmetric cross-entropy of the target images and their texts at the learned scale."""
        view = augmented_view(
            batch.target_pixels, "clip", batch.seed, batch.epoch, batch.target_keys, self.spec.crop_area, self.spec.flip
        )
        image = gather(F.normalize(self.towers.encode_image(view), dim=1))
        text = gather(F.normalize(self.towers.encode_texts(batch.texts), dim=1))
        # CLIP bounds its scale at 100, as training was unstable beyond (Radford et al. 2021, section 2.5).
        scale = self.towers.logit_scale().clamp(max=self.spec.max_scale)
        return {"loss": symmetric_nce(image, text, scale), "scale": scale.detach()}

    @torch.no_grad()
    def queries(self, reference_pixels_B3HW: Tensor, texts: Sequence[str]) -> Tensor:
        """[B, D] unit sums of the unit features."""
        return F.normalize(self.gallery(reference_pixels_B3HW) + self.embed_texts(texts), dim=1)

    @torch.no_grad()
    def gallery(self, pixels_B3HW: Tensor) -> Tensor:
        """[B, D] unit image features."""
        return F.normalize(self.towers.encode_image(pixels_B3HW), dim=1)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """[B, D] unit text features."""
        return F.normalize(self.towers.encode_texts(texts), dim=1)

    def weights(self) -> dict[str, Tensor]:
        """Both towers, under open_clip's names."""
        return dict(self.towers.clip.state_dict())


def _new_towers(architecture: ArchitectureSpec, pixels: ModelPixelSpec, texts: Iterable[str]) -> Towers:
    tokenizer: Tokenizer = ClipTokenizer()
    if architecture.tokenizer == "compact":
        tokenizer = CompactTokenizer.of_corpus(texts)
    return Towers(open_clip_config(architecture, pixels, tokenizer.vocab_size), pixels, tokenizer)
