"""Write a trained method as safetensors and config.json, and load it again.

Nothing is unpickled. A checkpoint of a method that holds towers (``clip``, ``pli``) is a whole two-tower model under
open_clip's tensor names; any other holds what was trained and needs the backbone's artifact beside it.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from zscir.methods.protocol import AnyMethod, StoredMethod, TrainableMethod
from zscir.methods.registry import METHODS, MethodInfo, method_info, parse_method_spec
from zscir.methods.specs import MethodSpec, ModelPixelSpec
from zscir.methods.stored_tensors import load_tensors
from zscir.methods.tokenizer import ClipTokenizer, CompactTokenizer, Tokenizer
from zscir.methods.towers import Towers
from zscir.runtime.errors import RequestError
from zscir.store.artifacts import Artifact

WEIGHTS, CONFIG, VOCAB = "model.safetensors", "config.json", "vocab.json"


def default_device() -> torch.device:
    """CUDA where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def method_class(info: MethodInfo) -> type[AnyMethod]:
    """The class of a registered method; RequestError names what it lacks."""
    found = info.load_class(info.method)
    if not issubclass(found, TrainableMethod):
        raise RequestError(f"method '{info.name}': {info.method} is no TrainableMethod")
    missing = sorted(getattr(found, "__abstractmethods__", ()))
    if missing:
        raise RequestError(f"method '{info.name}': {info.method} lacks {', '.join(missing)}")
    for attribute, registered in (("name", info.name), ("text_protocol", info.text_protocol)):
        own = getattr(found, attribute, None)
        if own != registered:
            raise RequestError(f"method '{info.name}': {info.method} has {attribute} = {own!r}, not {registered!r}")
    return found


def weights_on_cpu(method: AnyMethod) -> dict[str, Tensor]:
    """The method's tensors as safetensors takes them."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in method.weights().items()}


def save_checkpoint(
    method: AnyMethod, out: Path, half: bool = False, extra_config: dict[str, Any] | None = None
) -> int:
    """Write the method's files into ``out`` and return the number of stored numbers; equal tensors give equal bytes.

    ``half`` stores floats in 16 bits (loading widens them again); ``extra_config`` goes into ``config.json``.
    """
    weights = weights_on_cpu(method)
    if half:
        weights = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    save_file(weights, out / WEIGHTS)
    (out / WEIGHTS).chmod(0o644)  # safetensors makes the file readable by its owner alone
    towers = method.both_towers()
    compact = isinstance(towers.tokenizer, CompactTokenizer)
    config = {
        "format": 1,
        "method": method.spec.model_dump(mode="json", exclude_none=True),
        "architecture": towers.config,
        "pixels": towers.pixels.model_dump(mode="json"),
        "tokenizer": "compact" if compact else "clip",
        "text_protocol": method.text_protocol,
        **(extra_config or {}),
    }
    # Sorted keys: equal methods give equal bytes, whatever the order of the fields above.
    (out / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    if isinstance(towers.tokenizer, CompactTokenizer):
        towers.tokenizer.save(out / VOCAB)
    return sum(tensor.numel() for tensor in weights.values())


def read_config(checkpoint: Artifact) -> dict[str, Any]:
    """The checkpoint's ``config.json``; RequestError if it is not one."""
    path = checkpoint.path(CONFIG)
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        name, known = config["method"]["name"], config["format"] == 1
    except (ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{path}: not the configuration of a zscir checkpoint ({error})") from None
    if not known or name not in METHODS:
        raise RequestError(
            f"{path}: format {config['format']!r}, method {name!r}: this version reads format 1 of the methods "
            f"{', '.join(METHODS)}"
        )
    return config


def _spec_in(config: dict[str, Any], section: str, where: Path) -> MethodSpec:
    """The method spec stored in one section of a checkpoint's configuration."""
    try:
        return parse_method_spec(config[section])
    except KeyError:
        raise RequestError(f"{where}: section '{section}' is missing") from None
    except RequestError as error:
        raise RequestError(f"{where}: section '{section}' is not a method of this version: {error}") from None


def load_towers(checkpoint: Artifact) -> Towers:
    """The two towers of a ``clip`` or ``pli`` checkpoint, in evaluation mode, on the CPU, float32."""
    config = read_config(checkpoint)
    if not method_info(config["method"]["name"]).holds_towers:
        whole = " or ".join(info.name for info in METHODS.values() if info.holds_towers)
        raise RequestError(f"a backbone must be a {whole} checkpoint; this one is {config['method']['name']}")
    tokenizer: Tokenizer = ClipTokenizer()
    if config["tokenizer"] == "compact":
        tokenizer = CompactTokenizer.load(checkpoint.path(VOCAB))
    # Built with random weights first, which draws from torch's generator: see new_method.
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


def load_method(
    checkpoint: Artifact, backbone: Artifact | None = None, device: torch.device | None = None
) -> AnyMethod:
    """The method of a checkpoint, in evaluation mode.

    One that holds no towers needs the ``backbone`` that it was trained on: RequestError without it or with another.
    """
    config, where = read_config(checkpoint), checkpoint.path(CONFIG)
    spec = _spec_in(config, "method", where)
    info = method_info(spec.name)
    if info.holds_towers:
        towers, weights = load_towers(checkpoint), {}
    else:
        towers, weights = load_towers(_checked_backbone(config, info, backbone)), read_weights(checkpoint)
    init_spec = None if info.init_section is None else _spec_in(config, info.init_section, where)
    stored = StoredMethod(towers, weights, init_spec, checkpoint.path(WEIGHTS))
    return method_class(info).load(spec, stored).eval().to(device or default_device())


def backbone_weights_digest(backbone: Artifact) -> str:
    """What a checkpoint without towers remembers of its backbone: the SHA-256 of its weights."""
    return backbone.entries[WEIGHTS].sha256


def _checked_backbone(config: dict[str, Any], info: MethodInfo, backbone: Artifact | None) -> Artifact:
    if backbone is None:
        raise RequestError(
            f"a {info.name} checkpoint holds no towers, only {info.trains}: give its backbone's checkpoint too"
        )
    # The tensors would fit any backbone of these widths, and the features would mean nothing.
    if config.get("backbone") != backbone_weights_digest(backbone):
        raise RequestError(
            f"this {info.name} checkpoint was trained on a backbone with weights {str(config.get('backbone'))[:12]}, "
            f"the one given has {backbone_weights_digest(backbone)[:12]}; give the one it was trained on"
        )
    return backbone
