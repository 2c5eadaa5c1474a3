import math

import pytest
from torch import nn

from zscir.training.optim import lr_at, new_optimiser
from zscir.training.specs import OptimSpec


def test_plis_staircase_rises_per_epoch_as_published() -> None:
    spec = OptimSpec(lr=1.0, schedule="staircase")
    multiples = [round(lr_at(epoch * 10 + 7, 100, 10, spec), 3) for epoch in range(7)]
    assert multiples == [0.01, 0.208, 0.406, 0.604, 0.802, 1.0, 1.0]


def test_a_warm_up_is_linear_and_a_cosine_ends_near_zero() -> None:
    spec = OptimSpec(lr=2.0, schedule="cosine", warmup_steps=10, warmup_start=0.5)
    assert [lr_at(step, 110, 1, spec) for step in (0, 5, 10)] == [1.0, 1.5, 2.0]
    assert lr_at(60, 110, 1, spec) == pytest.approx(1.0)
    assert lr_at(109, 110, 1, spec) == pytest.approx(1 + math.cos(math.pi * 0.99), abs=1e-9)
    assert lr_at(60, 110, 1, OptimSpec(lr=2.0, schedule="constant", warmup_steps=10)) == 2.0


def test_biases_and_norms_take_no_weight_decay_and_frozen_tensors_are_left_out() -> None:
    module = nn.ModuleDict({"weighing": nn.Linear(2, 2), "ln_1": nn.LayerNorm(2), "frozen": nn.Linear(2, 2)})
    module["frozen"].requires_grad_(False)
    decayed, free = new_optimiser(module, OptimSpec(lr=1.0, weight_decay=0.1)).param_groups
    assert (decayed["weight_decay"], len(decayed["params"])) == (0.1, 1)
    assert (free["weight_decay"], len(free["params"])) == (0.0, 3)
    everything = new_optimiser(module, OptimSpec(lr=1.0, weight_decay=0.1, no_decay=())).param_groups
    assert [len(group["params"]) for group in everything] == [4]
