"""toy: text plus a learned share of the image, over a frozen backbone; the worked example of a new method."""

from collections.abc import Sequence
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zscir.methods.losses import symmetric_nce
from zscir.methods.protocol import Batch, Gather, StartingPoints, StoredMethod, TrainableMethod, gather_single_process
from zscir.methods.specs import MethodSpec
from zscir.methods.towers import Towers


class ToySpec(MethodSpec):
    name: Literal["toy"] = "toy"
    tau: float = 0.1


class Toy(TrainableMethod[ToySpec]):
    name, text_protocol = "toy", "pli"

    def __init__(self, towers: Towers, spec: ToySpec) -> None:
        super().__init__()
        self.spec, self.pixels = spec, towers.pixels
        self.towers, self.gate = towers.requires_grad_(False), nn.Linear(towers.embed_dim, 1)

    @classmethod
    def new(cls, spec: ToySpec, start: StartingPoints) -> Self:
        return cls(start.towers, spec)

    @classmethod
    def load(cls, spec: ToySpec, stored: StoredMethod) -> Self:
        method = cls(stored.towers, spec)
        stored.fill(method.gate, "gate")
        return method

    def both_towers(self) -> Towers:
        return self.towers

    def weights(self) -> dict[str, Tensor]:
        return {f"gate.{name}": tensor for name, tensor in self.gate.state_dict().items()}

    def compose(self, pixels_B3HW: Tensor, texts: Sequence[str]) -> Tensor:
        text = F.normalize(self.towers.encode_texts(texts), dim=1)
        return F.normalize(text + self.gate(text).sigmoid() * self.gallery(pixels_B3HW), dim=1)

    def loss(self, batch: Batch, gather: Gather = gather_single_process) -> dict[str, Tensor]:
        query = gather(self.compose(batch.reference_pixels, batch.texts))
        return {"loss": symmetric_nce(query, gather(self.gallery(batch.target_pixels)), 1 / self.spec.tau)}

    @torch.no_grad()
    def queries(self, reference_pixels_B3HW: Tensor, texts: Sequence[str]) -> Tensor:
        return self.compose(reference_pixels_B3HW, texts)

    @torch.no_grad()
    def gallery(self, pixels_B3HW: Tensor) -> Tensor:
        return F.normalize(self.towers.encode_image(pixels_B3HW), dim=1)
