"""Save a training's whole state in one file, replaced atomically, and resume from it.

The state is all that step n + 1 depends on: tensors, AdamW's moments and the curve so far. Random numbers need no
state, because each step draws from (seed, step).
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from zscir.store.artifacts import atomic_path
from zscir.training.optim import trainable_parameters

RESUME_FOLDER, STATE_FILE = ".resume", "state.safetensors"
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass
class TrainingCurve:
    """What was measured at each step: (step, name, value) rows."""

    rows: list[tuple[int, str, float]] = field(default_factory=list)

    def add(self, step: int, values: dict[str, float]) -> None:
        """Rows of one step."""
        self.rows += [(step, name, value) for name, value in values.items()]


def save_state(out: Path, method: nn.Module, optimiser: torch.optim.Optimizer, step: int, curve: TrainingCurve) -> None:
    """Write the state after ``step`` steps; a crash leaves the old file or the new one."""
    tensors = {f"model/{name}": tensor for name, tensor in _changing_tensors(method).items()}
    for name, parameter in trainable_parameters(method).items():
        # By name: torch's own state_dict numbers parameters in the order of the groups.
        for moment, value in optimiser.state[parameter].items():
            tensors[f"{moment}/{name}"] = value
    # safetensors keeps strings only beside the tensors.
    metadata = {"step": str(step), "curve": json.dumps(curve.rows)}
    with atomic_path(out / RESUME_FOLDER / STATE_FILE) as part:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, part, metadata)


def load_state(out: Path, method: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[int, TrainingCurve]:
    """(steps done, curve) of a saved state, loaded into method and optimiser; (0, empty) when there is none."""
    path = out / RESUME_FOLDER / STATE_FILE
    if not path.exists():
        return 0, TrainingCurve()
    try:
        with safe_open(path, framework="pt") as stored:
            metadata = stored.metadata()
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError):  # damaged by a crash of the machine: begin anew
        return 0, TrainingCurve()
    with torch.no_grad():
        for name, tensor in _changing_tensors(method).items():
            tensor.copy_(tensors[f"model/{name}"])
    for name, parameter in trainable_parameters(method).items():
        optimiser.state[parameter] = {
            moment: tensors[f"{moment}/{name}"].to(parameter.device)
            for moment in MOMENTS
            if f"{moment}/{name}" in tensors
        }
    curve = TrainingCurve([(int(step), str(name), float(value)) for step, name, value in json.loads(metadata["curve"])])
    return int(metadata["step"]), curve


def _changing_tensors(method: nn.Module) -> dict[str, Tensor]:
    """The tensors that training changes: trained parameters, and buffers (batch-norm statistics)."""
    buffers = {name: buffer for name, buffer in method.named_buffers() if name in method.state_dict()}
    return {**trainable_parameters(method), **buffers}
