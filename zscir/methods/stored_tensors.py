"""Load the tensors of a checkpoint into a module, and name those that do not fit."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from zscir.runtime.errors import RequestError


def check_tensors_fit(module: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """RequestError that names tensors which ``module`` lacks, which are left over, or which have another shape."""
    wanted = module.state_dict()
    wrong = sorted(wanted.keys() ^ weights.keys())
    wrong += [name for name in wanted.keys() & weights.keys() if wanted[name].shape != weights[name].shape]
    if wrong:
        raise RequestError(f"{path}: {len(wrong)} tensors do not fit the configuration, such as {wrong[:3]}")


def load_tensors(module: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Load every tensor of ``module``; RequestError as ``check_tensors_fit``."""
    check_tensors_fit(module, weights, path)
    module.load_state_dict(weights)
