"""Checkpoints: a trained method becomes safetensors + config.json, and an artifact of these a method again.

Nothing is unpickled. A ``clip`` or ``pli`` checkpoint is a whole two-tower model under open_clip's tensor names; a
``tscir_*`` checkpoint holds what was trained and needs the backbone's artifact beside it.
"""

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from zscir.methods.clip import Clip
from zscir.methods.pli import Pli
from zscir.methods.specs import ClipSpec, MethodSpec, ModelPixelSpec, PliSpec, TscirComposeSpec, TscirMapSpec
from zscir.methods.tokenizer import ClipTokenizer, CompactTokenizer, Tokenizer
from zscir.methods.towers import Towers
from zscir.methods.tscir_compose import TscirCompose, new_adapters
from zscir.methods.tscir_map import TscirMap, new_mapping
from zscir.runtime.errors import RequestError
from zscir.store.artifacts import Artifact

Trainable = Clip | Pli | TscirMap | TscirCompose
WEIGHTS, CONFIG, VOCAB = "model.safetensors", "config.json", "vocab.json"
METHODS = ("clip", "pli", "tscir_map", "tscir_compose")
_SPECS: TypeAdapter[Any] = TypeAdapter(MethodSpec)


def default_device() -> torch.device:
    """CUDA where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def towers_of(method: Trainable) -> Towers:
    """The towers inside a method."""
    return method.towers if isinstance(method, Clip | Pli) else method.speaker.towers


def save_checkpoint(method: Trainable, out: Path, half: bool = False, more: dict[str, Any] | None = None) -> int:
    """Write the method's files into ``out`` and return the number of stored numbers; equal tensors give equal bytes.

    ``half`` stores floats in 16 bits (loading widens them again).
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in method.weights().items()}
    if half:
        weights = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    save_file(weights, out / WEIGHTS)
    (out / WEIGHTS).chmod(0o644)  # safetensors makes the file readable by its owner alone
    towers = towers_of(method)
    compact = isinstance(towers.tokenizer, CompactTokenizer)
    config = {
        "format": 1,
        "method": method.spec.model_dump(mode="json", exclude_none=True),
        "architecture": towers.config,
        "pixels": towers.pixels.model_dump(mode="json"),
        "tokenizer": "compact" if compact else "clip",
        "text_protocol": method.text_protocol,
        **(more or {}),
    }
    (out / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    if isinstance(towers.tokenizer, CompactTokenizer):
        towers.tokenizer.save(out / VOCAB)
    return sum(tensor.numel() for tensor in weights.values())


def read_config(checkpoint: Artifact) -> dict[str, Any]:
    """The checkpoint's ``config.json``; RequestError if it is not one."""
    path = checkpoint.path(CONFIG)
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if config["format"] != 1 or config["method"]["name"] not in METHODS:
            raise KeyError("format or method")
    except (ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{path}: not the configuration of a zscir checkpoint ({error})") from None
    return config


def spec_in(config: dict[str, Any], section: str, where: str) -> Any:
    """The method spec stored in one section of a checkpoint's configuration."""
    try:
        return _SPECS.validate_json(json.dumps(config[section]))
    except (KeyError, ValidationError) as error:
        raise RequestError(f"{where}: section '{section}' is not a method of this version: {error}") from None


def load_towers(checkpoint: Artifact) -> Towers:
    """The two towers of a ``clip`` or ``pli`` checkpoint, in evaluation mode, on the CPU, float32."""
    config = read_config(checkpoint)
    if config["method"]["name"] not in ("clip", "pli"):
        raise RequestError(f"a backbone must be a clip or pli checkpoint; this one is {config['method']['name']}")
    tokenizer: Tokenizer = ClipTokenizer()
    if config["tokenizer"] == "compact":
        tokenizer = CompactTokenizer.load(checkpoint.path(VOCAB))
    towers = Towers(config["architecture"], ModelPixelSpec.parse(config["pixels"], CONFIG), tokenizer)
    load_tensors(towers.clip, read_weights(checkpoint), checkpoint.path(WEIGHTS))
    return towers.eval()


def read_weights(checkpoint: Artifact) -> dict[str, Tensor]:
    """All stored tensors, floats widened to 32 bits."""
    path = checkpoint.path(WEIGHTS)
    try:
        stored = load_file(path)
    except (SafetensorError, OSError) as error:
        raise RequestError(f"{path}: not a safetensors file: {error}") from None
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in stored.items()}


def load_tensors(module: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Load every tensor of ``module``; RequestError names what is missing, left over or of another shape."""
    wanted = module.state_dict()
    wrong = sorted(wanted.keys() ^ weights.keys())
    wrong += [name for name in wanted.keys() & weights.keys() if wanted[name].shape != weights[name].shape]
    if wrong:
        raise RequestError(f"{path}: {len(wrong)} tensors do not fit the configuration, such as {wrong[:3]}")
    module.load_state_dict(weights)


def tensors_with_prefix(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under ``prefix.``, without it."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in weights.items() if name.startswith(prefix + ".")}


def load_method(
    checkpoint: Artifact, backbone: Artifact | None = None, device: torch.device | None = None
) -> Trainable:
    """The method of a checkpoint, ready to answer. ``tscir_*`` checkpoints need the backbone they were trained on."""
    config = read_config(checkpoint)
    spec = spec_in(config, "method", CONFIG)
    if isinstance(spec, ClipSpec | PliSpec):
        towers = load_towers(checkpoint)
        whole: Trainable = Clip(towers, spec) if isinstance(spec, ClipSpec) else Pli(towers, spec)
    else:
        whole = _load_tscir(checkpoint, _checked_backbone(config, backbone), spec, config)
    return whole.eval().to(device or default_device())


def backbone_weights_digest(backbone: Artifact) -> str:
    """What a ``tscir_*`` checkpoint remembers of its backbone: the SHA-256 of its weights."""
    return backbone.entries[WEIGHTS].sha256


def _checked_backbone(config: dict[str, Any], backbone: Artifact | None) -> Artifact:
    name = config["method"]["name"]
    if backbone is None:
        raise RequestError(f"a {name} checkpoint holds no towers: give its backbone's checkpoint too")
    if config.get("backbone") != backbone_weights_digest(backbone):
        raise RequestError(
            f"this {name} checkpoint was trained on a backbone with weights {str(config.get('backbone'))[:12]}, "
            f"the one given has {backbone_weights_digest(backbone)[:12]}; give the one it was trained on"
        )
    return backbone


def _load_tscir(
    checkpoint: Artifact, backbone: Artifact, spec: TscirMapSpec | TscirComposeSpec, config: dict[str, Any]
) -> Trainable:
    towers, weights, path = load_towers(backbone), read_weights(checkpoint), checkpoint.path(WEIGHTS)
    mapping = new_mapping(towers, spec if isinstance(spec, TscirMapSpec) else spec_in(config, "mapping", CONFIG))
    load_tensors(mapping, tensors_with_prefix(weights, "mapping"), path)
    if isinstance(spec, TscirMapSpec):
        return TscirMap(towers, mapping, spec)
    adapters = new_adapters(towers, spec)
    load_tensors(adapters, tensors_with_prefix(weights, "adapters"), path)
    return TscirCompose(towers, mapping, adapters, spec)
