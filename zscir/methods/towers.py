"""Towers: the image and text encoders of an open_clip CLIP, with their inner steps open to the methods.

The only module that imports open_clip's models. Features leave un-normalised; text rows are cut to the batch's longest
(exact, because the text tower is causal) and pooled at the end token.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zscir.methods.specs import ArchitectureSpec, ModelPixelSpec
from zscir.methods.tokenizer import Tokenizer
from zscir.runtime import torchvision_guard
from zscir.runtime.errors import RequestError

torchvision_guard.install_torchvision_guard()
from open_clip.model import CLIP  # noqa: E402 - needs the guard first

BlockHook = Callable[[Tensor], Tensor]
NO_HOOKS: Mapping[int, BlockHook] = {}


def normalise_pixels(pixels_B3HW: Tensor, spec: ModelPixelSpec) -> Tensor:
    """uint8 pixels as floats with the mean and deviation that the weights expect."""
    mean = torch.tensor(spec.mean, device=pixels_B3HW.device).view(1, 3, 1, 1)
    std = torch.tensor(spec.std, device=pixels_B3HW.device).view(1, 3, 1, 1)
    return (pixels_B3HW.float() / 255 - mean) / std


def open_clip_config(spec: ArchitectureSpec, pixels: ModelPixelSpec, vocab_size: int) -> dict[str, Any]:
    """open_clip's model configuration (as its JSON files have it) of an architecture spec."""
    if pixels.size_px % spec.vision.patch_px:
        raise RequestError(f"pixels.size_px = {pixels.size_px} must be a multiple of patch_px = {spec.vision.patch_px}")
    vision, text = spec.vision, spec.text
    return {
        "embed_dim": spec.embed_dim,
        "quick_gelu": spec.quick_gelu,
        "vision_cfg": {
            "image_size": pixels.size_px,
            "patch_size": vision.patch_px,
            "width": vision.width,
            "layers": vision.layers,
            "head_width": vision.head_width,
        },
        "text_cfg": {
            "context_length": text.context_length,
            "vocab_size": vocab_size,
            "width": text.width,
            "heads": text.heads,
            "layers": text.layers,
        },
    }


class Towers(nn.Module):
    """Both encoders of one CLIP. ``config`` is open_clip's; ``pixels`` and ``tokenizer`` travel with it."""

    def __init__(self, config: Mapping[str, Any], pixels: ModelPixelSpec, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.config = json.loads(json.dumps(config))  # a copy of plain values: it goes into the checkpoint as it is
        self.pixels = pixels
        self.tokenizer = tokenizer
        _check(self.config)
        self.clip = CLIP(**self.config)
        self.clip.visual.output_tokens = False  # some configurations ask for a pair of features and tokens

    @property
    def embed_dim(self) -> int:
        """Width of the joint space."""
        return int(self.config["embed_dim"])

    @property
    def text_width(self) -> int:
        """Width of the text tower's hidden states."""
        return int(self.config["text_cfg"]["width"])

    @property
    def text_blocks(self) -> int:
        """Number of the text tower's blocks."""
        return len(self.clip.transformer.resblocks)

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return int(self.clip.visual.grid_size[0])

    @property
    def patches(self) -> int:
        """Patches of an image."""
        return self.grid**2

    def logit_scale(self) -> Tensor:
        """CLIP's learned scale, exp'd."""
        scale: Tensor = self.clip.logit_scale.exp()
        return scale

    def normalised_pixels(self, pixels_B3HW: Tensor) -> Tensor:
        """Pixels in 0..255 (uint8 or float) as the vision tower takes them."""
        return normalise_pixels(pixels_B3HW.to(self.clip.logit_scale.device), self.pixels)

    def image_tokens(self, pixels_B3HW: Tensor, kept_BK: Tensor | None = None) -> Tensor:
        """[B, 1 + K, W] hidden states after the last block; CLS first.

        ``kept_BK`` drops all other patches (PLI): patches get their positions before the choice, CLS always stays.
        """
        visual = self.clip.visual
        x = visual.conv1(self.normalised_pixels(pixels_B3HW)).flatten(2).transpose(1, 2)
        position = visual.positional_embedding.to(x.dtype)
        x = x + position[1:]  # before any patch is dropped, so that a kept one is still where it was
        if kept_BK is not None:
            x = x.gather(1, kept_BK.to(x.device)[:, :, None].expand(-1, -1, x.shape[2]))
        cls = (visual.class_embedding.to(x.dtype) + position[0]).expand(x.shape[0], 1, -1)
        hidden: Tensor = visual.transformer(visual.ln_pre(torch.cat([cls, x], dim=1)))
        return hidden

    def encode_image(self, pixels_B3HW: Tensor, kept_BK: Tensor | None = None) -> Tensor:
        """[B, D] raw image features: the projected CLS token, of all patches or of ``kept_BK`` alone."""
        hidden = self.image_tokens(pixels_B3HW, kept_BK)
        features: Tensor = self.clip.visual.ln_post(hidden[:, 0]) @ self.clip.visual.proj
        return features

    def encode_patches(self, pixels_B3HW: Tensor) -> Tensor:
        """[B, 1 + L, D] all last-layer tokens after ln_post and projection; row 0 is the image feature."""
        tokens: Tensor = self.clip.visual.ln_post(self.image_tokens(pixels_B3HW)) @ self.clip.visual.proj
        return tokens

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """[B, L] ids on the model's device."""
        return self.tokenizer(texts, self.clip.context_length).to(self.clip.logit_scale.device)

    def end_positions(self, ids_BL: Tensor) -> Tensor:
        """[B] position of each row's end token."""
        return (ids_BL == self.tokenizer.end_id).int().argmax(dim=1)

    def star_positions(self, ids_BL: Tensor) -> Tensor:
        """[B] position of each row's first ``*``; RequestError if a row has none."""
        # For each row: the released TSCIR code takes the first row's place for all, which fits prompts that open alike.
        hits = ids_BL == self.tokenizer.star_id
        if not bool(hits.any(dim=1).all()):
            raise RequestError("a query text has no '*' to put the image's word in; use the method's text protocol")
        return hits.int().argmax(dim=1)

    def encode_text(
        self, ids_BL: Tensor, word_BW: Tensor | None = None, after: Mapping[int, BlockHook] = NO_HOOKS
    ) -> Tensor:
        """[B, D] raw text features. ``word_BW`` replaces the embedding of ``*``; ``after[j]`` edits block j."""
        clip, length = self.clip, ids_BL.shape[1]
        x = clip.token_embedding(ids_BL)
        if word_BW is not None:
            at_star = torch.arange(length, device=x.device)[None, :] == self.star_positions(ids_BL)[:, None]
            x = torch.where(at_star[:, :, None], word_BW[:, None, :].to(x.dtype), x)
        x = x + clip.positional_embedding[:length].to(x.dtype)
        mask = clip.attn_mask[:length, :length]  # causal: what lies behind the longest row cannot reach its end token
        for number, block in enumerate(clip.transformer.resblocks):
            x = block(x, attn_mask=mask)
            if number in after:
                x = after[number](x)
        # The position is found by id. CLIP takes the argmax, which needs the end token to have the largest id.
        pooled = clip.ln_final(x[torch.arange(len(x), device=x.device), self.end_positions(ids_BL)])
        features: Tensor = pooled @ clip.text_projection
        return features

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """[B, D] raw features of strings."""
        return self.encode_text(self.tokenize(texts))


def _check(config: Mapping[str, Any]) -> None:
    """RequestError for architectures whose inner steps ``Towers`` does not spell out."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    odd = [
        name
        for name in (
            "timm_model_name",
            "attentional_pool",
            "final_ln_after_pool",
            "no_ln_pre",
            "hf_model_name",
            "no_causal_mask",
        )
        if vision.get(name) or text.get(name)
    ]
    plain_pool = vision.get("pool_type", "tok") == "tok" and text.get("pool_type", "argmax") == "argmax"
    if odd or not plain_pool or not isinstance(vision.get("layers"), int):
        raise RequestError(
            f"only CLIP's plain ViT and causal text transformer are supported; this one sets {odd or 'another pooling'}"
        )
