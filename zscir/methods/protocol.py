"""Batches and the shape of a method: what the loader hands over, and what training and evaluation may ask for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from zscir.methods.specs import ModelPixelSpec

Gather = Callable[[Tensor], Tensor]  # the [b, D] rows that this process encoded -> all [B, D] rows of the step


def gather_single_process(rows_BD: Tensor) -> Tensor:
    """The gather of a process that trains by itself: its rows are all there are."""
    return rows_BD


@dataclass(frozen=True)
class Batch:
    """Triplets of one step. Pixels are uint8 [B, 3, S, S], squared as the method's ``pixels`` spec says.

    ``captions`` describe the reference image; for a plain or masked pair they equal ``texts``.
    """

    seed: int
    epoch: int
    triplet_ids: Sequence[str]
    reference_keys: Sequence[str]
    target_keys: Sequence[str]
    reference_pixels: Tensor
    target_pixels: Tensor
    texts: Sequence[str]
    captions: Sequence[str]
    mask_seeds: Sequence[int]
    mask_ratio: float


class Method(Protocol):
    """What every method offers. ``text_protocol`` names the query strings that it expects (``zscir.benchmarks``)."""

    name: str
    text_protocol: str
    pixels: ModelPixelSpec

    def loss(self, batch: Batch, gather: Gather = gather_single_process) -> dict[str, Tensor]:
        """``loss`` (a scalar with a gradient) and its parts by name; every feature passes ``gather`` once."""
        ...

    def queries(self, reference_pixels_B3HW: Tensor, texts: Sequence[str]) -> Tensor:
        """[B, D] unit query vectors of uint8 reference images and texts."""
        ...

    def gallery(self, pixels_B3HW: Tensor) -> Tensor:
        """[B, D] unit vectors of uint8 candidate images."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """The tensors that its checkpoint holds."""
        ...
