"""The interface of a method: the batches that it trains on, and what training, checkpoints and evaluation call."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

from torch import Tensor, nn

from zscir.methods.specs import MethodSpec, ModelPixelSpec
from zscir.methods.stored_tensors import load_tensors
from zscir.methods.towers import Towers
from zscir.runtime.errors import RequestError

SpecT = TypeVar("SpecT", bound=MethodSpec)

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
    captions: Sequence[str]  # soft text alignment (TSCIR) ranks images by them
    mask_seeds: Sequence[int]  # one per triplet; the mask also depends on the epoch and the image's key
    mask_ratio: float


class Method(Protocol):
    """What every method offers. ``text_protocol`` names the query strings that it takes (``zscir.benchmarks``)."""

    name: str
    text_protocol: str
    pixels: ModelPixelSpec

    @abstractmethod
    def loss(self, batch: Batch, gather: Gather = gather_single_process) -> dict[str, Tensor]:
        """``loss`` (a scalar with a gradient) and its parts by name; every feature passes ``gather`` once."""

    @abstractmethod
    def queries(self, reference_pixels_B3HW: Tensor, texts: Sequence[str]) -> Tensor:
        """[B, D] unit query vectors of uint8 reference images and texts."""

    @abstractmethod
    def gallery(self, pixels_B3HW: Tensor) -> Tensor:
        """[B, D] unit vectors of uint8 candidate images."""

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """The tensors that its checkpoint holds."""


@dataclass(frozen=True)
class StartingPoints:
    """What a new method may start from: the towers of a backbone, a trained method, the texts of its training data."""

    method: str
    backbone: Towers | None
    init: "AnyMethod | None"
    texts: Iterable[str]

    @property
    def towers(self) -> Towers:
        """The backbone's towers; RequestError where none is given."""
        if self.backbone is None:
            raise RequestError(f"training {self.method} needs the input 'backbone' (a clip checkpoint)")
        return self.backbone


@dataclass(frozen=True)
class StoredMethod:
    """What a checkpoint gives to load from. ``towers`` are its own where it holds them, else its backbone's.

    ``init_spec`` is the spec of the checkpoint that it continued; ``path`` is named in errors.
    """

    towers: Towers
    weights: Mapping[str, Tensor]
    init_spec: MethodSpec | None
    path: Path

    def fill(self, module: nn.Module, prefix: str) -> None:
        """Load the tensors under ``prefix.`` into ``module``; RequestError when they do not fit."""
        start = f"{prefix}."
        own = {name.removeprefix(start): tensor for name, tensor in self.weights.items() if name.startswith(start)}
        load_tensors(module, own, self.path)


class TrainableMethod(nn.Module, Method, Generic[SpecT]):
    """Base of the registered methods: a module that training can start, move, store and load again."""

    # Abstract members: a class that lacks one is refused by name before its training begins (checkpoint.method_class).

    spec: SpecT

    @classmethod
    @abstractmethod
    def new(cls, spec: SpecT, start: StartingPoints) -> Self:
        """The method before its first step. Weights that are drawn come from torch's generator, which is seeded."""

    @classmethod
    @abstractmethod
    def load(cls, spec: SpecT, stored: StoredMethod) -> Self:
        """The method of a checkpoint whose ``weights()`` were ``stored.weights``."""

    @abstractmethod
    def both_towers(self) -> Towers:
        """The towers inside, trained or frozen: a checkpoint keeps their architecture, pixels and tokenizer."""


AnyMethod = TrainableMethod[Any]
