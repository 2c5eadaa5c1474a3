"""Collective operations of training ranks: each encodes its share of a batch, all see the features of the whole batch.

The update is that of one process up to rounding, but for dropout, which each rank draws for its own share: every rank
takes the loss of the whole batch, from rows gathered from all. On the way back ``gather`` hands a rank the gradient of
its own rows, times the number of ranks, and the mean of the parameters' gradients over the ranks is then that of one
process, for what lies before the gather and for what lies behind it (the learned scale) alike. A DDP wrapper would
have to be called in place of the method, and hides that sum.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from zscir.runtime.errors import TransientError

BUCKET_NUMBERS = 32 * 1024 * 1024  # gradients that travel together: 128 MB of float32 beside the model


class PeerLostError(TransientError):
    """Another rank is gone. The error to report is the one that ended that rank."""


@dataclass(frozen=True)
class RankGroup:
    """Which of how many ranks this process is. One that trains alone is rank 0 of 1, and all operations do nothing."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that writes files and reports progress."""
        return self.rank == 0

    @property
    def seed_parts(self) -> tuple[str | int, ...]:
        """What seeds this rank's dropout beside seed and step, so that no two shares drop alike."""
        return () if self.world_size == 1 else ("rank", self.rank)

    def share(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """This rank's part of the positions of a step, whose number the ranks divide."""
        each = len(positions) // self.world_size
        return positions[self.rank * each : (self.rank + 1) * each]

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all ranks, in their order; the gradient goes back to this rank's own."""
        whole: Tensor = rows if self.world_size == 1 else _Gathered.apply(rows, self)  # type: ignore[no-untyped-call]  # as torch is
        return whole

    def mean(self, numbers: Tensor) -> Tensor:
        """The mean over the ranks, with a gradient."""
        mean: Tensor = numbers if self.world_size == 1 else _Mean.apply(numbers, self.world_size)  # type: ignore[no-untyped-call]  # as torch is
        return mean

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the ranks; which parameters have one is the same on all."""
        if self.world_size == 1:
            return
        for bucket in _buckets([parameter.grad for parameter in parameters if parameter.grad is not None]):
            flat = _mean_of(torch.cat([gradient.flatten() for gradient in bucket]), self.world_size)
            parts = torch.split(flat, [gradient.numel() for gradient in bucket])
            for gradient, part in zip(bucket, parts, strict=True):
                gradient.copy_(part.view_as(gradient))


SINGLE_RANK = RankGroup()


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, ranks: RankGroup) -> Tensor:
        ctx.ranks = ranks
        whole = rows.new_empty((ranks.world_size * len(rows), *rows.shape[1:]))
        with _peer_errors():
            dist.all_gather_single(whole, rows.contiguous())
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        ranks, (whole,) = ctx.ranks, gradients
        # Times the number of ranks, as average_gradients divides by it (see the top of this file).
        return whole.chunk(ranks.world_size)[ranks.rank] * ranks.world_size, None


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, numbers: Tensor, count: int) -> Tensor:
        ctx.count = count
        return _mean_of(numbers.clone(), count)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _mean_of(gradients[0].clone(), ctx.count), None


def _mean_of(numbers: Tensor, count: int) -> Tensor:
    """The mean over the ranks, written over ``numbers``."""
    with _peer_errors():
        dist.all_reduce(numbers)
    return numbers.div_(count)


@contextmanager
def _peer_errors() -> Iterator[None]:
    """Turn the transport's error about a lost rank into PeerLostError.

    A GPU that fails or runs out of memory is this rank's own error and stays what it is.
    """
    try:
        yield
    except RuntimeError as error:
        if "out of memory" in str(error):
            raise torch.OutOfMemoryError(str(error)) from error
        if isinstance(error, torch.AcceleratorError):
            raise
        raise PeerLostError(f"another rank is gone: {error}") from error


def _buckets(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    """The gradients in their order, in groups of about BUCKET_NUMBERS numbers."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        bucket.append(gradient)
        if sum(member.numel() for member in bucket) >= BUCKET_NUMBERS:
            yield bucket
            bucket = []
    if bucket:
        yield bucket


class WholeBatchNorm(nn.BatchNorm2d):
    """Batch norm whose mean and variance are those of the whole batch, on any device (torch's own is for GPUs only)."""

    ranks = SINGLE_RANK

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] normalised per channel; in training also the running mean and (unbiased) variance move."""
        if not self.training:
            return super().forward(x)
        numbers = x.float()  # under autocast ``x`` is bfloat16, whose sums lose digits
        mean = self.ranks.mean(numbers.mean((0, 2, 3)))
        centred = numbers - mean[:, None, None]
        variance = self.ranks.mean(centred.square().mean((0, 2, 3)))
        self._move(mean.detach(), variance.detach(), self.ranks.world_size * x.numel() // x.shape[1])
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    def _move(self, mean: Tensor, variance: Tensor, numbers: int) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum or 0.0)
        # torch too normalises by the biased variance and remembers the unbiased one.
        self.running_var.lerp_(variance * (numbers / (numbers - 1)), self.momentum or 0.0)


def join_batch_norms(method: nn.Module, ranks: RankGroup) -> None:
    """Let every batch norm see the whole batch; the class is replaced in place, so that tensors keep their names."""
    for module in method.modules():
        # Not isinstance: a subclass may have a forward of its own.
        if type(module) is nn.BatchNorm2d and ranks.world_size > 1:
            module.__class__ = WholeBatchNorm
            module.ranks = ranks  # type: ignore[assignment]  # its class was replaced on the line above
