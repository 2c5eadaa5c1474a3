"""Composing adapters of TSCIR's stage II: low-rank additions after text blocks, x <- x + x A B, on every token."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

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
