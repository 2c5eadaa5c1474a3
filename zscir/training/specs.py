"""The specs of a training: its method, its length, its optimiser and schedule (no torch here)."""

from typing import Annotated, Literal

from pydantic import Field

from zscir.methods.registry import AnyMethodSpec
from zscir.runtime.specs import Spec

# The marks of CLIP's training code (open_clip's, Pic2Word's and TSCIR's): a name that contains one is not decayed.
DECAY_FREE = ("bias", "bn", "ln", "logit_scale")


class OptimSpec(Spec):
    """AdamW and its schedule, stepped per step.

    ``staircase`` is PLI's: a linear rise from 1 % over five epochs, stepped once per epoch.
    Tensors whose name contains one of ``no_decay`` take no weight decay.
    """

    lr: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: Annotated[float, Field(gt=0)] = 1e-8
    schedule: Literal["constant", "cosine", "staircase"] = "cosine"
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    warmup_start: Annotated[float, Field(gt=0, le=1)] = 0.01
    no_decay: tuple[str, ...] = DECAY_FREE
    clip_norm: Annotated[float, Field(gt=0)] | None = None


class TrainSpec(Spec):
    """What to train and how. ``steps`` ends the training early; ``storage`` is the precision of the written file."""

    method: AnyMethodSpec
    seed: int = 0
    batch_size: Annotated[int, Field(ge=2)]
    epochs: Annotated[int, Field(ge=1)] = 1
    steps: Annotated[int, Field(ge=1)] | None = None
    optim: OptimSpec
    precision: Literal["float32", "bfloat16"] = "float32"
    storage: Literal["float32", "float16"] = "float32"
