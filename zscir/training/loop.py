"""The training loop. A killed run resumes and ends with the same bytes as one that was never interrupted.

Guaranteed on one machine's CPU with one number of threads and ranks: equal inputs, spec and code give equal bytes.
Not guaranteed: equal bytes across processors, numbers of threads or ranks, torch versions, or on CUDA. A state saved on
N ranks resumes on M.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from zscir.methods.checkpoint import default_device
from zscir.methods.counter_rng import random_stream
from zscir.methods.protocol import AnyMethod, Batch
from zscir.runtime.errors import StageError
from zscir.runtime.progress import log_info, track
from zscir.training.collectives import SINGLE_RANK, RankGroup, join_batch_norms
from zscir.training.data import Pack, steps_per_epoch, training_batches
from zscir.training.optim import lr_at, new_optimiser, trainable_parameters
from zscir.training.resume import TrainingCurve, load_state, save_state
from zscir.training.specs import OptimSpec

SAVE_EVERY_S = 15.0  # what a kill costs at most, while a save takes under 0.75 s
SAVE_SHARE = 0.05  # of the time at most goes into saving
ProgressFn = Callable[[Iterable[Any], int | None, str], Iterator[Any]]


@dataclass(frozen=True)
class TrainPlan:
    """How long and how: ``steps`` updates of ``batch_size`` triplets."""

    steps: int
    batch_size: int
    seed: int
    optim: OptimSpec
    bfloat16: bool = False


def planned_steps(count: int, batch_size: int, epochs: int, steps: int | None) -> int:
    """The number of updates in ``epochs`` passes over ``count`` triplets, at most ``steps``."""
    whole = epochs * steps_per_epoch(count, batch_size)
    return whole if steps is None else min(whole, steps)


def fit(
    method: AnyMethod,
    pack: Pack,
    plan: TrainPlan,
    out: Path,
    save_every_s: float = SAVE_EVERY_S,
    group: RankGroup = SINGLE_RANK,
    progress: ProgressFn = track,
) -> TrainingCurve:
    """Train ``method`` in place and return its curve. State for a resumed run is kept under ``out/.resume``."""
    method.to(default_device()).train()
    join_batch_norms(method, group)
    optimiser = new_optimiser(method, plan.optim)
    done, curve = load_state(out, method, optimiser)
    _check_same_step(done, group)
    if done:
        log_info(f"train {method.name}: resumes after step {done} of {plan.steps}")
    saver = _Saver(save_every_s)
    per_epoch = steps_per_epoch(len(pack), plan.batch_size)
    batches = training_batches(pack, done, plan.steps, plan.batch_size, plan.seed, group)
    for step, batch in enumerate(progress(batches, plan.steps - done, f"train {method.name}"), start=done):
        lr = lr_at(step, plan.steps, per_epoch, plan.optim)
        curve.add(step, {"lr": lr, **_update(method, optimiser, batch, plan, step, lr, group)})
        if group.is_first and saver.due() and step + 1 < plan.steps:
            saver.save(out, method, optimiser, step + 1, curve)
    method.eval()
    return curve


def _check_same_step(done: int, group: RankGroup) -> None:
    """StageError unless every rank resumes after the same step."""
    steps = group.gather(torch.tensor([done], device=default_device())).tolist()
    if set(steps) != {done}:
        raise StageError(f"the ranks found different states to resume from: after the steps {steps}")


def _update(
    method: AnyMethod,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    plan: TrainPlan,
    step: int,
    lr: float,
    group: RankGroup,
) -> dict[str, float]:
    """One update; returns the parts of the loss, which are those of the whole batch."""
    # Dropout draws from (seed, step), so that a resumed run needs no state of a generator. torch takes 63 bits.
    torch.manual_seed(random_stream("step", plan.seed, step, *group.seed_parts) >> 1)
    for parameters in optimiser.param_groups:
        parameters["lr"] = lr
    with torch.autocast(default_device().type, torch.bfloat16, enabled=plan.bfloat16):
        parts = method.loss(batch, group.gather)
    optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(parts["loss"])
    group.average_gradients(trainable_parameters(method).values())
    # After averaging: the norm is that of the whole batch's gradient, on any number of ranks.
    if plan.optim.clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(trainable_parameters(method).values(), plan.optim.clip_norm)
    optimiser.step()
    # Reading a value waits for the GPU, so all are read at once and after the update.
    values = {name: float(value.detach()) for name, value in parts.items()}
    if not math.isfinite(values["loss"]):
        raise StageError(f"train {method.name}: the loss is {values['loss']} at step {step}; lower optim.lr")
    return values


class _Saver:
    """Decides when to save: every few seconds, and at least twenty times as far apart as one save takes."""

    def __init__(self, every_s: float) -> None:
        self._every_s, self._wait_s, self._last = every_s, every_s, time.monotonic()

    def due(self) -> bool:
        return time.monotonic() - self._last >= self._wait_s

    def save(
        self, out: Path, method: AnyMethod, optimiser: torch.optim.Optimizer, step: int, curve: TrainingCurve
    ) -> None:
        begun = time.monotonic()
        save_state(out, method, optimiser, step, curve)
        self._last = time.monotonic()
        self._wait_s = 0.0 if self._every_s == 0 else max(self._every_s, (self._last - begun) / SAVE_SHARE)
