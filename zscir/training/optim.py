"""The optimiser of an OptimSpec: AdamW with its parameter groups, and the learning rate of every step."""

import math

import torch
from torch import nn

from zscir.training.specs import OptimSpec

# PLI's schedule: LinearLR from 0.01 to 1 over five epochs. Its later drops, at epochs 35 and 45, are never reached.
STAIR_EPOCHS, STAIR_START = 5, 0.01


def trainable_parameters(method: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that take a gradient, by name."""
    return {name: parameter for name, parameter in method.named_parameters() if parameter.requires_grad}


def new_optimiser(method: nn.Module, spec: OptimSpec) -> torch.optim.AdamW:
    """AdamW over the trained parameters, those with a ``no_decay`` name in a group of their own."""
    undecayed = {name for name in trainable_parameters(method) if any(mark in name for mark in spec.no_decay)}
    groups = [
        {
            "params": [p for name, p in trainable_parameters(method).items() if name not in undecayed],
            "weight_decay": spec.weight_decay,
        },
        {"params": [p for name, p in trainable_parameters(method).items() if name in undecayed], "weight_decay": 0.0},
    ]
    filled = [group for group in groups if group["params"]]
    # Fused: one kernel for a group of tensors in place of several for each.
    return torch.optim.AdamW(filled, lr=spec.lr, betas=spec.betas, eps=spec.eps, fused=True)


def lr_at(step: int, steps: int, steps_per_epoch: int, spec: OptimSpec) -> float:
    """The learning rate of step 0..steps-1."""
    if spec.schedule == "staircase":
        # Stepped once per epoch, as the authors' code does: inside an epoch the rate stays.
        stair = min(step // steps_per_epoch / STAIR_EPOCHS, 1.0)
        return spec.lr * (STAIR_START + (1 - STAIR_START) * stair)
    if step < spec.warmup_steps:
        return spec.lr * (spec.warmup_start + (1 - spec.warmup_start) * step / spec.warmup_steps)
    if spec.schedule == "constant":
        return spec.lr
    done = (step - spec.warmup_steps) / max(1, steps - spec.warmup_steps)
    return spec.lr * (1 + math.cos(math.pi * done)) / 2
