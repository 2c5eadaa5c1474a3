"""Several processes over gloo, started once, do what the tests of ranks compare, and the first does it alone too.

python -m tests.training.rank_program FOLDER   # as three, then the first two as two, then the first as one

No GPU is seen by whoever starts it with CUDA_VISIBLE_DEVICES="": what is compared is then of one kind of device.

They are forks of one process in which no thread runs yet: what takes long is to import torch.
"""

import json
import multiprocessing
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.methods import tiny
from zscir.methods.clip import Clip
from zscir.methods.losses import mixed_negatives_nce, one_way_nce, soft_text_alignment, symmetric_nce
from zscir.methods.pli import Pli
from zscir.methods.protocol import AnyMethod
from zscir.methods.specs import ClipSpec, PliSpec, TscirComposeSpec, TscirMapSpec
from zscir.methods.tscir_compose import TscirCompose, new_adapters
from zscir.methods.tscir_map import TscirMap, new_mapping
from zscir.runtime.errors import StageError
from zscir.store.artifacts import Artifact
from zscir.training.collectives import SINGLE_RANK, RankGroup, WholeBatchNorm
from zscir.training.data import Pack
from zscir.training.loop import TrainPlan, fit
from zscir.training.optim import trainable_parameters
from zscir.training.resume import TrainingCurve
from zscir.training.specs import OptimSpec

METHODS = ("clip", "pli", "tscir_map", "tscir_compose")
STEPS, BATCH = 4, 6  # a batch that two and three ranks can share
# eps: where a gradient is nothing but rounding, AdamW would take its sign for a direction.
OPTIM = OptimSpec(lr=1e-2, weight_decay=0.1, warmup_steps=2, eps=1e-2, clip_norm=0.5)
MAP = TscirMapSpec(word_hidden=8, inject_width=8, inject_heads=2, sites=(0, 1), dropout=0.0)
CASES = 12


def new(name: str) -> AnyMethod:
    """A method with weights that depend on nothing but its name."""
    towers = tiny.towers()
    torch.manual_seed(5)
    if name == "clip":
        return Clip(towers, ClipSpec(crop_area=0.5, flip=0.5))
    if name == "pli":
        return Pli(towers, PliSpec())
    if name == "tscir_map":
        return TscirMap(towers, new_mapping(towers, MAP), MAP)
    spec = TscirComposeSpec(rank=4, tau=0.07, hardest=3)
    return TscirCompose(towers, new_mapping(towers, MAP), new_adapters(towers, spec), spec)


def train(
    name: str, data: Artifact, out: Path, ranks: RankGroup = SINGLE_RANK, bfloat16: bool = False
) -> tuple[AnyMethod, TrainingCurve]:
    """A few steps that also save their state after each but the last."""
    method, plan = new(name), TrainPlan(STEPS, BATCH, 1, OPTIM, bfloat16)
    return method, fit(method, Pack(data, tiny.PIXELS), plan, out, 0, ranks)


def moved(method: nn.Module) -> dict[str, Tensor]:
    """What training may have changed: parameters and batch-norm statistics."""
    return {
        **{name: parameter.detach() for name, parameter in trainable_parameters(method).items()},
        **dict(method.named_buffers()),
    }


class Heads(nn.Module):
    """Three linear maps and a learned scale: the least that a contrastive loss can train."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.a, self.b, self.c = (nn.Linear(7, 5) for _ in range(3))
        self.scale = nn.Parameter(torch.tensor(2.0))

    def loss(self, rows: Tensor, ranks: RankGroup) -> Tensor:
        """All losses of the methods at once, of rows of which ``rows`` are this rank's."""
        a, b, c = (ranks.gather(F.normalize(head(rows), dim=1)) for head in (self.a, self.b, self.c))
        mixed = mixed_negatives_nce(a, b, 0.1, 3, 0.1)
        return symmetric_nce(a, c, self.scale.exp()) + mixed + soft_text_alignment(c, a, b, 0.1) + one_way_nce(b @ a.T)


def gradients(seed: int, ranks: RankGroup) -> dict[str, Tensor]:
    """Of one draw of rows and heads, each rank with its share of the rows."""
    heads = Heads(seed)
    rows = torch.randn(BATCH, 7)
    each = BATCH // ranks.world_size
    heads.loss(rows[ranks.rank * each : (ranks.rank + 1) * each], ranks).backward()
    ranks.average_gradients(heads.parameters())
    return {
        f"{seed}.{name}": parameter.grad for name, parameter in heads.named_parameters() if parameter.grad is not None
    }


def batch_norm(ranks: RankGroup) -> dict[str, Tensor]:
    """What a batch norm gives, remembers, and sends back, for this rank's share of the rows."""
    torch.manual_seed(3)
    rows = (torch.randn(BATCH, 4, 3, 3) * 2 + 1).requires_grad_()
    weights = torch.randn(BATCH, 4, 3, 3)
    norm = nn.BatchNorm2d(4)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
    each = BATCH // ranks.world_size
    share = slice(ranks.rank * each, (ranks.rank + 1) * each)
    if ranks.world_size > 1:
        norm.__class__ = WholeBatchNorm
        norm.ranks = ranks
    out = ranks.gather(norm(rows[share]))
    (out.sigmoid() * weights).sum().backward()
    ranks.average_gradients(norm.parameters())
    back = torch.zeros_like(rows) if rows.grad is None else rows.grad
    return {
        "out": out.detach(), "back": ranks.gather(back[share] / ranks.world_size), "mean": norm.running_mean,
        "variance": norm.running_var, "weight": norm.weight.grad, "bias": norm.bias.grad,
    }  # fmt: skip


def refusal(work: Callable[[], Any]) -> str:
    """The words of the StageError that ``work`` ends with."""
    try:
        work()
    except StageError as error:
        return str(error)
    return "it went well"


def different_states(data: Artifact, out: Path, ranks: RankGroup) -> None:
    """Only the first rank finds a state to resume from."""
    train("pli", data, out if ranks.rank == 0 else out.with_name(f"{out.name}-{ranks.rank}"), ranks)


def no_number(data: Artifact, out: Path, ranks: RankGroup) -> None:
    """The last rank's weights are broken."""
    method = new("tscir_map")
    if ranks.rank == ranks.world_size - 1:
        with torch.no_grad():
            next(iter(trainable_parameters(method).values())).fill_(torch.nan)
    fit(method, Pack(data, tiny.PIXELS), TrainPlan(2, BATCH, 1, OPTIM), out, 0, ranks)


def work(folder: Path, ranks: RankGroup) -> None:
    """Everything, written into ``folder`` by each rank under its own number."""
    pairs, triplets = (Artifact.of_folder(folder.parent / name) for name in ("pairs", "triplets"))
    own = folder / str(ranks.rank)
    own.mkdir(parents=True)
    curves: dict[str, Any] = {}
    for name in METHODS:
        data = triplets if name == "tscir_compose" else pairs
        method, curve = train(name, data, folder / name, ranks)
        save_file(moved(method), own / name)
        curves[name] = curve.rows
    found = {name: tensor for seed in range(CASES) for name, tensor in gradients(seed, ranks).items()}
    save_file(found, own / "gradients")
    save_file({name: tensor.contiguous() for name, tensor in batch_norm(ranks).items()}, own / "norm")
    curves["bfloat16"] = train("tscir_map", pairs, folder / "half", ranks, bfloat16=True)[1].rows
    words = [
        refusal(lambda: different_states(pairs, folder / "pli", ranks)),
        refusal(lambda: no_number(pairs, folder / "nan", ranks)),
    ]
    (own / "outcome.json").write_text(json.dumps({"curves": curves, "words": words}))


def alone(folder: Path) -> None:
    """Train every method by oneself, and resume from a state that several saved."""
    own = folder / "1" / "0"
    own.mkdir(parents=True)
    curves: dict[str, Any] = {}
    for name in METHODS:
        data = Artifact.of_folder(folder / ("triplets" if name == "tscir_compose" else "pairs"))
        method, curve = train(name, data, folder / "1" / name)
        save_file(moved(method), own / name)
        curves[name] = curve.rows
    (own / "outcome.json").write_text(json.dumps({"curves": curves}))
    for count in (3, 2):
        where = folder / str(count)
        method, curve = train("tscir_map", Artifact.of_folder(folder / "pairs"), where / "tscir_map")
        save_file(moved(method), where / "resumed")
        (where / "resumed.json").write_text(json.dumps(curve.rows))


def work_as_rank(rank: int, folder: Path) -> None:
    """Work as one of three, as one of two, and alone."""
    for count in (3, 2):
        if rank < count:
            dist.init_process_group("gloo", f"file://{folder}/store{count}", rank=rank, world_size=count)
            work(folder / str(count), RankGroup(rank, count))
            dist.destroy_process_group()
    if rank == 0:
        alone(folder)


def main(folder: Path) -> None:
    """Fork the ranks, and end as they do."""
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=work_as_rank, args=(rank, folder)) for rank in range(3)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    sys.exit(max(abs(rank.exitcode or 0) for rank in ranks))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
