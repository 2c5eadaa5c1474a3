"""Mapping network of TSCIR's stage I: an image becomes the word ``*`` and injections into the text tower.

At the published sizes (ViT-L/14, four sites) it has 27.81 M parameters, 6.54 M in each injection (arXiv 2504.17990).
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

PUBLISHED_BLOCKS = 12


def at_relative_depth(sites: Sequence[int], blocks: int) -> tuple[int, ...]:
    """0-based sites of a 12-block text tower at the same relative depth of ``blocks`` blocks, without repeats."""
    return tuple(sorted({max(0, round((site + 1) * blocks / PUBLISHED_BLOCKS) - 1) for site in sites}))


def mlp(sizes: Sequence[int], dropout: float) -> nn.Sequential:
    """Linear -> Dropout -> ReLU for each step of ``sizes``; it ends in ReLU, so it gives no negative number."""
    steps: list[nn.Module] = []
    for before, after in pairwise(sizes):  # dropout before the ReLU, as in the released code
        steps += [nn.Linear(before, after), nn.Dropout(dropout), nn.ReLU()]
    return nn.Sequential(*steps)


class TokenLearner(nn.Module):
    """Raw image feature [B, D] -> the embedding of ``*`` [B, W]."""

    def __init__(self, image_dim: int, word_dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.hidden = mlp((image_dim, hidden, hidden), dropout)
        self.out = nn.Linear(hidden, word_dim)

    def forward(self, image_BD: Tensor) -> Tensor:
        word: Tensor = self.out(self.hidden(image_BD))
        return word


class CrossAttention(nn.Module):
    """One injection layer: the state at ``*`` attends to the patches; one residual, then a norm."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.linear1 = nn.Linear(width, width)
        self.linear2 = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        # The released code's name. It has none of the ``no_decay`` marks, so this norm's weights are decayed, as there.
        self.norm2 = nn.LayerNorm(width)

    def forward(self, star_B1C: Tensor, end_B1C: Tensor, patches_BLC: Tensor) -> Tensor:
        # The end state is added to the query of each layer anew; the residual's base is the star state alone.
        attended = self.attention(star_B1C + end_B1C, patches_BLC, patches_BLC, need_weights=False)[0]
        update = self.linear2(self.dropout(F.gelu(self.linear1(attended))))
        out: Tensor = self.norm2(star_B1C + self.dropout(update))
        return out


class Injection(nn.Module):
    """Visual semantic injection after one text block: what to add at ``*``, from the states at ``*`` and at the end.

    Patches pass a 3 x 3 convolution, all three inputs an MLP to ``width``, then two cross-attention layers.
    The added vector ends in ReLU as published; ``zero_init`` ends in a linear layer that starts at zero instead.
    """

    def __init__(self, image_dim: int, word_dim: int, width: int, heads: int, dropout: float, zero_init: bool) -> None:
        super().__init__()
        # 5.31 M of an injection's 6.54 M parameters at width 768.
        self.local = nn.Sequential(
            nn.Conv2d(image_dim, image_dim, 3, padding=1, bias=False), nn.BatchNorm2d(image_dim), nn.ReLU()
        )
        self.star_in = mlp((word_dim, width, width), dropout)
        self.patch_in = mlp((image_dim, width, width), dropout)
        self.end_in = mlp((word_dim, width, width), dropout)
        self.layers = nn.ModuleList([CrossAttention(width, heads, dropout) for _ in range(2)])
        self.out = mlp((width, word_dim, word_dim), dropout)
        if zero_init:
            self.out = nn.Sequential(nn.Linear(width, word_dim), nn.ReLU(), _zero_linear(word_dim))

    def project_patches(self, patches_BLD: Tensor) -> Tensor:
        """[B, L, C] keys and values of this site's attention; they do not depend on the text."""
        batch, length, dim = patches_BLD.shape
        side = round(length**0.5)  # the grid of patches is square
        local = self.local(patches_BLD.transpose(1, 2).reshape(batch, dim, side, side))
        projected: Tensor = self.patch_in(local.flatten(2).transpose(1, 2))
        return projected

    def forward(self, star_BW: Tensor, end_BW: Tensor, patches_BLC: Tensor) -> Tensor:
        star, end = self.star_in(star_BW)[:, None], self.end_in(end_BW)[:, None]
        for layer in self.layers:
            star = layer(star, end, patches_BLC)
        added: Tensor = self.out(star[:, 0])
        return added


def _zero_linear(width: int) -> nn.Linear:
    linear = nn.Linear(width, width)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


class StarMapping(nn.Module):
    """All trained tensors of stage I: token learner, patch projection, one injection per site.

    The last published site follows the last block: only the end token is read after it, so it has no effect.
    """

    PUBLISHED_SITES = (3, 7, 9, 11)  # 0-based; comments in the released code name (4, 7, 10) and (2, 5, 8) as tries

    def __init__(
        self,
        image_dim: int,
        word_dim: int,
        sites: Sequence[int],
        hidden: int,
        width: int,
        heads: int,
        dropout: float,
        zero_init: bool,
    ) -> None:
        super().__init__()
        self.token_learner = TokenLearner(image_dim, word_dim, hidden, dropout)
        self.patch_projection = nn.Linear(image_dim, image_dim)
        self.injections = nn.ModuleDict(
            {str(site): Injection(image_dim, word_dim, width, heads, dropout, zero_init) for site in sites}
        )

    def sites(self) -> Iterator[tuple[str, Injection]]:
        """The injections and their 0-based text blocks."""
        for site, module in self.injections.items():
            yield site, cast(Injection, module)

    def forward(self, tokens_BLD: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """From all last-layer tokens, CLS first: the embedding [B, W] of ``*``, and [B, L, C] patches by site."""
        # The projection runs over CLS too, as released; its row is dropped here and not before, to the same effect.
        patches = self.patch_projection(tokens_BLD)[:, 1:]
        by_site = {int(site): injection.project_patches(patches) for site, injection in self.sites()}
        return self.token_learner(tokens_BLD[:, 0]), by_site
