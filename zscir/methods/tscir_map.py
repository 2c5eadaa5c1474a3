"""tscir_map, stage I of TSCIR: a mapping turns an image into the word ``*`` of "a photo of *" (arXiv 2504.17990)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zscir.methods.augment import augmented_view
from zscir.methods.losses import soft_text_alignment, symmetric_nce
from zscir.methods.mapping import StarMapping, at_relative_depth
from zscir.methods.protocol import Batch, Gather, StartingPoints, StoredMethod, TrainableMethod, gather_single_process
from zscir.methods.specs import TscirMapSpec
from zscir.methods.towers import NO_HOOKS, BlockHook, Towers

MAPPING_PROMPT = "a photo of *"


def new_mapping(towers: Towers, spec: TscirMapSpec) -> StarMapping:
    """Freshly initialised mapping modules that fit ``towers``."""
    sites = spec.sites or at_relative_depth(StarMapping.PUBLISHED_SITES, towers.text_blocks)
    width, heads = spec.inject_width, spec.inject_heads
    return StarMapping(
        towers.embed_dim, towers.text_width, sites, spec.word_hidden, width, heads, spec.dropout, spec.zero_init
    )


@dataclass(frozen=True)
class MappedImages:
    """A batch of images as the text tower takes them.

    Raw features [B, D], the embeddings of ``*`` [B, W], and the patches [B, L, C] that each site attends to.
    """

    image_features: Tensor
    star_embedding: Tensor
    site_features: dict[int, Tensor]


class StarTextEncoder(nn.Module):
    """A frozen backbone and a mapping: encodes texts with ``*`` as if an image stood in the star's place."""

    def __init__(self, towers: Towers, mapping: StarMapping) -> None:
        super().__init__()
        self.towers, self.mapping = towers.requires_grad_(False), mapping

    def map_images(self, pixels_B3HW: Tensor) -> MappedImages:
        """The images as words; only the mapping takes a gradient."""
        with torch.no_grad():
            tokens = self.towers.encode_patches(pixels_B3HW)
        star_embedding, site_features = self.mapping(tokens)
        return MappedImages(tokens[:, 0], star_embedding, site_features)

    def encode_with_star(
        self, ids_BL: Tensor, images: MappedImages, hooks: Mapping[int, BlockHook] = NO_HOOKS
    ) -> Tensor:
        """[B, D] raw features of texts whose ``*`` stands for the image; ``hooks`` run after the injections."""
        stars, ends = self.towers.star_positions(ids_BL), self.towers.end_positions(ids_BL)
        chained: dict[int, BlockHook] = dict(hooks)
        for site, patches in images.site_features.items():
            injection = self.mapping.injections[str(site)]
            # Block, then injection, then adapter: the order of the released code where a block has both.
            chained[site] = _injection_hook(injection, stars, ends, patches, hooks.get(site))
        return self.towers.encode_text(ids_BL, images.star_embedding, chained)


def _injection_hook(
    injection: nn.Module, stars_B: Tensor, ends_B: Tensor, patches_BLC: Tensor, then: BlockHook | None
) -> BlockHook:
    """A block hook that adds the injection at ``*`` alone, then applies ``then``."""
    rows = torch.arange(len(stars_B), device=stars_B.device)

    def hook(x_BLW: Tensor) -> Tensor:
        added = injection(x_BLW[rows, stars_B], x_BLW[rows, ends_B], patches_BLC)
        at_star = torch.arange(x_BLW.shape[1], device=x_BLW.device)[None, :] == stars_B[:, None]
        x_BLW = x_BLW + at_star[:, :, None] * added[:, None, :]
        return then(x_BLW) if then else x_BLW

    return hook


class TscirMap(TrainableMethod[TscirMapSpec]):
    """Query = norm(text tower of the prompt with ``*`` replaced); the image feature itself is not added."""

    name = "tscir_map"
    text_protocol = "tscir"  # "a photo of * , that {text}": the released evaluation's prompts

    def __init__(self, towers: Towers, mapping: StarMapping, spec: TscirMapSpec) -> None:
        super().__init__()
        # ``speaker`` is part of the tensors' names in saved training states.
        self.speaker, self.spec, self.pixels = StarTextEncoder(towers, mapping), spec, towers.pixels

    @classmethod
    def new(cls, spec: TscirMapSpec, start: StartingPoints) -> Self:
        """A fresh mapping beside the backbone's towers, which are frozen."""
        return cls(start.towers, new_mapping(start.towers, spec), spec)

    @classmethod
    def load(cls, spec: TscirMapSpec, stored: StoredMethod) -> Self:
        """The stored mapping beside the backbone's towers."""
        mapping = new_mapping(stored.towers, spec)
        stored.fill(mapping, "mapping")
        return cls(stored.towers, mapping, spec)

    def both_towers(self) -> Towers:
        return self.speaker.towers

    def train(self, mode: bool = True) -> Self:
        """Only the mapping ever trains; the frozen towers stay in evaluation mode."""
        super().train(mode)
        self.speaker.towers.eval()
        return self

    def loss(self, batch: Batch, gather: Gather = gather_single_process) -> dict[str, Tensor]:
        """NCE to both views of the image, plus soft text alignment through its caption."""
        spec, keys = self.spec, batch.target_keys
        # A is what the mapping sees, B a second target. The released code defines a stronger view and never uses it.
        view_a = augmented_view(batch.target_pixels, "a", batch.seed, batch.epoch, keys, spec.view_a_area, spec.flip)
        view_b = augmented_view(batch.target_pixels, "b", batch.seed, batch.epoch, keys, spec.view_b_area, 0.0)
        images = self.speaker.map_images(view_a)
        with torch.no_grad():
            b = gather(F.normalize(self.speaker.towers.encode_image(view_b), dim=1))
            caption = gather(F.normalize(self.speaker.towers.encode_texts(batch.captions), dim=1))
        a = gather(F.normalize(images.image_features, dim=1))
        ids = self.speaker.towers.tokenize([MAPPING_PROMPT]).expand(len(view_a), -1)
        prompt = gather(F.normalize(self.speaker.encode_with_star(ids, images), dim=1))
        # Both views weigh 1; the published weight of the alignment term is 0.2.
        to_b, to_a = symmetric_nce(prompt, b, 1 / spec.tau), symmetric_nce(prompt, a, 1 / spec.tau)
        sta = soft_text_alignment(caption, prompt, b, spec.tau)
        return {"loss": to_b + to_a + spec.sta_weight * sta, "to_b": to_b, "to_a": to_a, "sta": sta}

    @torch.no_grad()
    def queries(self, reference_pixels_B3HW: Tensor, texts: Sequence[str]) -> Tensor:
        """[B, D] unit queries; every text holds a ``*``."""
        images = self.speaker.map_images(reference_pixels_B3HW)
        return F.normalize(self.speaker.encode_with_star(self.speaker.towers.tokenize(texts), images), dim=1)

    @torch.no_grad()
    def gallery(self, pixels_B3HW: Tensor) -> Tensor:
        """[B, D] unit image features of the frozen backbone."""
        return F.normalize(self.speaker.towers.encode_image(pixels_B3HW), dim=1)

    def weights(self) -> dict[str, Tensor]:
        """The mapping's tensors, batch-norm statistics included."""
        return {f"mapping.{name}": tensor for name, tensor in self.speaker.mapping.state_dict().items()}
