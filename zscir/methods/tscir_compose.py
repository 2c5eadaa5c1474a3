"""tscir_compose, stage II of TSCIR: adapters in the text tower learn "a photo of * that ..." (arXiv 2504.17990).

The mapping is frozen and in evaluation mode. The released code leaves its dropout and batch norm running.
"""

from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zscir.methods.augment import augmented_view
from zscir.methods.losses import mixed_negatives_nce, one_way_nce, soft_text_alignment, symmetric_nce
from zscir.methods.mapping import StarMapping, at_relative_depth
from zscir.methods.protocol import Batch, Gather, StartingPoints, StoredMethod, TrainableMethod, gather_single_process
from zscir.methods.specs import TscirComposeSpec, TscirMapSpec
from zscir.methods.towers import Towers
from zscir.methods.tscir_map import MAPPING_PROMPT, MappedImages, StarTextEncoder, TscirMap, new_mapping
from zscir.runtime.errors import RequestError

# Without the comma that FashionIQ's and CIRR's test prompts have: the released code trains and tests like that.
COMPOSED_PROMPT = "a photo of * that {text}"
# As released: both matrices start random, so that each site begins as a perturbation of some 3 % of the hidden norm.
INIT_STD = 0.01


class ComposingAdapter(nn.Module):
    """x + x A B; no bias, no scale, no non-linearity. Both matrices start random as published, or B at zero."""

    def __init__(self, width: int, rank: int, zero_init: bool) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.empty(width, rank).normal_(std=INIT_STD))
        self.b = nn.Parameter(torch.zeros(rank, width) if zero_init else torch.empty(rank, width).normal_(std=INIT_STD))

    def forward(self, x_BLW: Tensor) -> Tensor:
        return x_BLW + x_BLW @ self.a @ self.b


class Adapters(nn.ModuleDict):
    """One composing adapter per site (0-based text block)."""

    # Every second of the 12 text blocks of ViT-L/14; with rank 128 that is 1.18 M numbers.
    PUBLISHED_SITES = (1, 3, 5, 7, 9, 11)

    def __init__(self, width: int, rank: int, sites: Sequence[int], zero_init: bool) -> None:
        # ``width`` is that of the text tower. The released code takes the joint space's, which is equal for its models.
        super().__init__({str(site): ComposingAdapter(width, rank, zero_init) for site in sites})


def new_adapters(towers: Towers, spec: TscirComposeSpec) -> Adapters:
    """Freshly initialised adapters that fit ``towers``."""
    sites = spec.sites or at_relative_depth(Adapters.PUBLISHED_SITES, towers.text_blocks)
    return Adapters(towers.text_width, spec.rank, sites, spec.zero_init)


class TscirCompose(TrainableMethod[TscirComposeSpec]):
    """Query = norm(adapted text tower of the prompt with ``*`` replaced)."""

    name = "tscir_compose"
    text_protocol = "tscir"

    def __init__(self, towers: Towers, mapping: StarMapping, adapters: Adapters, spec: TscirComposeSpec) -> None:
        super().__init__()
        self.speaker, self.adapters = StarTextEncoder(towers, mapping.requires_grad_(False)), adapters
        self.spec, self.pixels = spec, towers.pixels

    @classmethod
    def new(cls, spec: TscirComposeSpec, start: StartingPoints) -> Self:
        """Fresh adapters on the towers and the mapping of a trained tscir_map."""
        if not isinstance(start.init, TscirMap):
            raise RequestError("training tscir_compose needs the input 'init': the tscir_map checkpoint to start from")
        towers, mapping = start.init.speaker.towers, start.init.speaker.mapping
        return cls(towers, mapping, new_adapters(towers, spec), spec)

    @classmethod
    def load(cls, spec: TscirComposeSpec, stored: StoredMethod) -> Self:
        """The stored mapping and adapters on the backbone's towers."""
        if not isinstance(stored.init_spec, TscirMapSpec):
            raise RequestError(f"{stored.path}: the configuration beside it has no tscir_map spec as 'mapping'")
        mapping, adapters = new_mapping(stored.towers, stored.init_spec), new_adapters(stored.towers, spec)
        stored.fill(mapping, "mapping")
        stored.fill(adapters, "adapters")
        return cls(stored.towers, mapping, adapters, spec)

    def both_towers(self) -> Towers:
        return self.speaker.towers

    def train(self, mode: bool = True) -> Self:
        """Only the adapters ever train; towers and mapping stay in evaluation mode."""
        super().train(mode)
        self.speaker.eval()
        return self

    def encode_with_star(self, texts: Sequence[str], images: MappedImages) -> Tensor:
        """[B, D] unit features of texts with the image in the star's place, adapters on."""
        hooks = {int(name): module for name, module in self.adapters.items()}
        ids = self.speaker.towers.tokenize(texts)
        return F.normalize(self.speaker.encode_with_star(ids, images, hooks), dim=1)

    def loss(self, batch: Batch, gather: Gather = gather_single_process) -> dict[str, Tensor]:
        """Composition both ways (mixed hard negatives one way) + mapping + soft text alignment."""
        spec, tau = self.spec, self.spec.tau
        with torch.no_grad():  # only the adapters move, so that targets and captions take no gradient
            images = self.speaker.map_images(
                self._view(batch.reference_pixels, "reference", batch, batch.reference_keys)
            )
            target = self._view(batch.target_pixels, "target", batch, batch.target_keys)
            g = gather(F.normalize(self.speaker.towers.encode_image(target), dim=1))
            c = gather(F.normalize(self.speaker.towers.encode_texts(batch.captions), dim=1))
        r = gather(F.normalize(images.image_features, dim=1))
        composed = gather(self.encode_with_star([COMPOSED_PROMPT.format(text=text) for text in batch.texts], images))
        # Keeps what stage I learned: with adapters on, "a photo of *" must still find its own image.
        mapped = gather(self.encode_with_star([MAPPING_PROMPT] * len(batch.texts), images))
        compose = (one_way_nce(g @ composed.T / tau) + self._to_target(composed, g)) / 2
        mapping = symmetric_nce(mapped, r, 1 / tau)
        sta = soft_text_alignment(c, mapped, g if spec.sta_images == "target" else r, tau)
        total = compose + spec.map_weight * mapping + spec.sta_weight * sta
        return {"loss": total, "compose": compose, "map": mapping, "sta": sta}

    def _view(self, pixels: Tensor, name: str, batch: Batch, keys: Sequence[str]) -> Tensor:
        return augmented_view(pixels, name, batch.seed, batch.epoch, keys, self.spec.view_area, 0.0)

    def _to_target(self, composed_BD: Tensor, target_BD: Tensor) -> Tensor:
        spec = self.spec
        if spec.negatives == "plain":
            return one_way_nce(composed_BD @ target_BD.T / spec.tau)
        # The released code forgets to divide the mixed similarities by tau. They are at most 1 beside logits of 20 to
        # 30 then, and have next to no effect ("mixed_unscaled").
        tau_mixed = spec.tau if spec.negatives == "mixed" else 1.0
        return mixed_negatives_nce(composed_BD, target_BD, spec.tau, spec.hardest, tau_mixed)

    @torch.no_grad()
    def queries(self, reference_pixels_B3HW: Tensor, texts: Sequence[str]) -> Tensor:
        """[B, D] unit queries; every text holds a ``*``."""
        return self.encode_with_star(texts, self.speaker.map_images(reference_pixels_B3HW))

    @torch.no_grad()
    def gallery(self, pixels_B3HW: Tensor) -> Tensor:
        """[B, D] unit image features of the frozen backbone."""
        return F.normalize(self.speaker.towers.encode_image(pixels_B3HW), dim=1)

    def weights(self) -> dict[str, Tensor]:
        """The adapters' tensors and the mapping's, so that the checkpoint needs the backbone alone."""
        mapping = {f"mapping.{name}": tensor for name, tensor in self.speaker.mapping.state_dict().items()}
        return mapping | {f"adapters.{name}": tensor for name, tensor in self.adapters.state_dict().items()}
