"""Load pretrained towers into a Clip: an open_clip architecture with a published tag, or with a local file."""

import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from zscir.methods.clip import Clip
from zscir.methods.specs import ClipSpec, ModelPixelSpec
from zscir.methods.stored_tensors import load_tensors
from zscir.methods.tokenizer import ClipTokenizer
from zscir.methods.towers import Towers
from zscir.runtime import torchvision_guard
from zscir.runtime.errors import RequestError, StageError

torchvision_guard.install_torchvision_guard()
import open_clip  # noqa: E402 - needs the guard first

MODULE_PREFIX = "module."  # what DistributedDataParallel puts before every name


def architecture_named(name: str) -> dict[str, Any]:
    """open_clip's configuration of ``name``; RequestError lists close names."""
    config: dict[str, Any] | None = open_clip.get_model_config(name)
    if config is None:
        near = [known for known in open_clip.list_models() if known.split("-")[:2] == name.split("-")[:2]]
        raise RequestError(f"open_clip has no architecture {name!r}; near it: {', '.join(near[:8]) or 'none'}")
    return config


def published_towers(name: str, tag: str, pixels: ModelPixelSpec) -> Clip:
    """The towers of an open_clip (architecture, tag) pair, downloaded unless they are in the hub's cache."""
    architecture_named(name)
    if (name, tag) not in open_clip.list_pretrained():
        tags = open_clip.list_pretrained_tags_by_model(name)
        raise RequestError(f"open_clip has no weights {tag!r} of {name}; it has {', '.join(tags) or 'none'}")
    try:
        # The plain architecture names use GELU, while OpenAI's weights were trained with QuickGELU: scores would drop.
        model = open_clip.create_model(name, pretrained=tag, force_quick_gelu=quick_gelu_of(name, tag))
    except (RuntimeError, OSError) as error:
        offline = " HF_HUB_OFFLINE is set, so nothing was downloaded:" if os.environ.get("HF_HUB_OFFLINE") else ""
        raise StageError(
            f"cannot get the weights {tag!r} of {name}.{offline} give a local file as the input 'weights' instead "
            f"({str(error).splitlines()[0][:200]})"
        ) from None
    return _clip(name, quick_gelu_of(name, tag), model.state_dict(), pixels, Path(tag))


def quick_gelu_of(name: str, tag: str) -> bool:
    """Whether the weights were trained with QuickGELU; open_clip itself only warns when name and tag disagree."""
    return bool((open_clip.get_pretrained_cfg(name, tag) or {}).get("quick_gelu", False))


def local_towers(name: str, weights: Path, quick_gelu: bool, pixels: ModelPixelSpec) -> Clip:
    """The towers of architecture ``name`` from a safetensors file."""
    return _clip(name, quick_gelu, read_state(weights), pixels, weights)


def read_state(path: Path) -> dict[str, Tensor]:
    """Tensors by open_clip's names. Other formats than safetensors may run code when read, so they are refused."""
    try:
        stored = load_file(path)
    except (SafetensorError, OSError) as error:
        raise RequestError(f"{path}: not a safetensors file ({error}); convert it first") from None
    return {name.removeprefix(MODULE_PREFIX): tensor for name, tensor in stored.items()}


def _clip(name: str, quick_gelu: bool, state: dict[str, Tensor], pixels: ModelPixelSpec, where: Path) -> Clip:
    config = architecture_named(name) | {"quick_gelu": quick_gelu}
    size = config["vision_cfg"].get("image_size", 224)
    if pixels.size_px != size:
        raise RequestError(f"pixels.size_px = {pixels.size_px}, but this architecture takes {size}")
    towers = Towers(config, pixels, ClipTokenizer())
    load_tensors(towers.clip, {tensor_name: tensor.float() for tensor_name, tensor in state.items()}, where)
    return Clip(towers.eval(), ClipSpec())
