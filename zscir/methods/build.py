"""Build a method from its spec and its starting points, and refuse one whose checkpoint could not be loaded again."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialize
from torch import Tensor

from zscir.methods import checkpoint as ck
from zscir.methods.counter_rng import random_stream
from zscir.methods.protocol import AnyMethod, StartingPoints, StoredMethod
from zscir.methods.registry import METHODS, MethodInfo, method_info, parse_method_spec
from zscir.methods.specs import MethodSpec
from zscir.methods.stored_tensors import check_tensors_fit
from zscir.runtime.errors import RequestError
from zscir.store.artifacts import Artifact


def new_method(
    spec: MethodSpec, seed: int, backbone: Artifact | None, init: Artifact | None, texts: Iterable[str]
) -> AnyMethod:
    """The method of ``spec`` with weights drawn from ``seed`` where nothing is given to start from.

    ``texts`` are the training texts, read only for the vocabulary of a compact tokenizer. RequestError when a
    starting point is missing, superfluous or of the wrong method, or when the method is not registered completely.
    """
    info = method_info(spec.name)
    kind = ck.method_class(info)
    _check_init(info, init)
    # A checkpoint depends on the order of all draws from here on: also those of towers whose weights are then loaded.
    torch.manual_seed(random_stream("init", seed) >> 1)
    if init is not None:
        started = ck.load_method(init, backbone, torch.device("cpu"))
        start = StartingPoints(spec.name, started.both_towers(), started, texts)
    else:
        start = StartingPoints(spec.name, None if backbone is None else ck.load_towers(backbone), None, texts)
    method = kind.new(spec, start)
    check_reloads(method, info, None if start.init is None else start.init.spec)
    return method


def _check_init(info: MethodInfo, init: Artifact | None) -> None:
    if info.init_from is not None:
        if init is None or ck.read_config(init)["method"]["name"] != info.init_from:
            raise RequestError(
                f"training {info.name} needs the input 'init': the {info.init_from} checkpoint to start from"
            )
    elif init is not None:
        takers = [f"{other.name} (a {other.init_from} checkpoint)" for other in METHODS.values() if other.init_from]
        raise RequestError(f"training {info.name} takes no input 'init'; only {', '.join(takers)}")


def check_reloads(method: AnyMethod, info: MethodInfo, init_spec: MethodSpec | None) -> None:
    """RequestError unless the checkpoint that ``method`` would write now loads again, with every tensor in its place.

    Called before the first step: a method that is registered incompletely must not train for hours first.
    """
    unfit = f"method '{info.name}' is not registered completely, so that its checkpoint could not be loaded again"
    if parse_method_spec(method.spec.literals()) != method.spec:
        raise RequestError(f"{unfit}: its spec does not read back as it was written")
    weights, towers = method.weights(), method.both_towers()
    if info.holds_towers:
        try:
            check_tensors_fit(towers.clip, weights, Path(ck.WEIGHTS))
        except RequestError as error:
            raise RequestError(f"{unfit}: it is registered with holds_towers, and {error}") from None
        return  # load_towers reads these tensors and nothing else
    marked = _marked(weights, towers)
    try:
        serialize(ck.weights_on_cpu(method))  # refuses tensors that share memory
        with torch.random.fork_rng(devices=[]):
            again = type(method).load(method.spec, StoredMethod(towers, marked, init_spec, Path(ck.WEIGHTS)))
    except (RequestError, KeyError, RuntimeError) as error:
        raise RequestError(f"{unfit}: {' '.join(str(error).split())[:300]}") from error
    found = again.weights()
    lost = [name for name in marked if name not in found or not torch.equal(found[name], marked[name])]
    if lost or not marked:
        raise RequestError(f"{unfit}: {type(method).__name__}.load leaves out {lost[:3] or 'everything'}")


def _marked(weights: dict[str, Tensor], towers: torch.nn.Module) -> dict[str, Tensor]:
    """The weights, each number one higher, so that a tensor which is not loaded shows.

    Tensors of the towers stay as they are: the loaded method shares the towers of the one that will train.
    """
    shared = {tensor.data_ptr() for tensor in towers.state_dict().values()}
    return {
        name: tensor.detach().clone()
        if tensor.data_ptr() in shared or tensor.dtype is torch.bool
        else tensor.detach() + 1
        for name, tensor in weights.items()
    }


def origin_of(spec: MethodSpec, backbone: Artifact | None, init: Artifact | None) -> dict[str, Any]:
    """What the checkpoint's configuration says of where it came from."""
    info, origin = method_info(spec.name), dict[str, Any]()
    if not info.holds_towers and backbone is not None:
        # The digest of the weights and not the artifact's key: a backbone made again to the same bytes is the same one.
        origin["backbone"] = ck.backbone_weights_digest(backbone)
    if info.init_section is not None and init is not None:
        origin[info.init_section] = ck.read_config(init)["method"]
    return origin
