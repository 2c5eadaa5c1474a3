"""Build: a method spec and its starting points (nothing, a backbone, a mapping) become a method ready to train."""

import math
from collections.abc import Iterable
from typing import Any

import torch

from zscir.methods import checkpoint as ck
from zscir.methods.clip import Clip
from zscir.methods.counter_rng import random_stream
from zscir.methods.pli import Pli
from zscir.methods.specs import ArchitectureSpec, ClipSpec, ModelPixelSpec, PliSpec, TscirComposeSpec, TscirMapSpec
from zscir.methods.tokenizer import ClipTokenizer, CompactTokenizer, Tokenizer
from zscir.methods.towers import Towers, open_clip_config
from zscir.methods.tscir_compose import TscirCompose, new_adapters
from zscir.methods.tscir_map import TscirMap, new_mapping
from zscir.runtime.errors import RequestError
from zscir.store.artifacts import Artifact

AnyMethodSpec = ClipSpec | PliSpec | TscirMapSpec | TscirComposeSpec


def new_method(
    spec: AnyMethodSpec, seed: int, backbone: Artifact | None, init: Artifact | None, texts: Iterable[str]
) -> ck.Trainable:
    """The method of ``spec`` with weights drawn from ``seed`` where nothing is given to start from.

    ``texts`` are the training texts, read only for the vocabulary of a compact tokenizer. RequestError when a
    starting point is missing, superfluous or of the wrong method.
    """
    torch.manual_seed(random_stream("init", seed) >> 1)
    if isinstance(spec, ClipSpec):
        return _new_clip(spec, backbone, init, texts)
    if backbone is None:
        raise RequestError(f"training {spec.name} needs the input 'backbone' (a clip checkpoint)")
    if isinstance(spec, TscirComposeSpec):
        return _new_compose(spec, backbone, init)
    if init is not None:
        raise RequestError(
            f"training {spec.name} takes no input 'init'; only tscir_compose does (a tscir_map checkpoint)"
        )
    towers = ck.load_towers(backbone)
    if isinstance(spec, PliSpec):
        return Pli(towers, spec)
    return TscirMap(towers, new_mapping(towers, spec), spec)


def _new_clip(spec: ClipSpec, backbone: Artifact | None, init: Artifact | None, texts: Iterable[str]) -> Clip:
    if init is None and backbone is None and spec.architecture is not None:
        return _from_scratch(spec, spec.architecture, texts)
    if init is None and backbone is not None and spec.architecture is None:
        return Clip(ck.load_towers(backbone), spec)
    raise RequestError(
        "training clip takes either method.architecture (from scratch) or the input 'backbone', and no 'init'"
    )


def _from_scratch(spec: ClipSpec, architecture: ArchitectureSpec, texts: Iterable[str]) -> Clip:
    pixels = spec.pixels or ModelPixelSpec()
    tokenizer: Tokenizer = ClipTokenizer()
    if architecture.tokenizer == "compact":
        tokenizer = CompactTokenizer.of_corpus(texts)
    towers = Towers(open_clip_config(architecture, pixels, tokenizer.vocab_size), pixels, tokenizer)
    with torch.no_grad():
        towers.clip.logit_scale.fill_(math.log(spec.init_scale))
    return Clip(towers, spec)


def _new_compose(spec: TscirComposeSpec, backbone: Artifact, init: Artifact | None) -> TscirCompose:
    mapped = None if init is None else ck.load_method(init, backbone, torch.device("cpu"))
    if not isinstance(mapped, TscirMap):
        raise RequestError("training tscir_compose needs the input 'init': the tscir_map checkpoint to start from")
    towers, mapping = mapped.speaker.towers, mapped.speaker.mapping
    return TscirCompose(towers, mapping, new_adapters(towers, spec), spec)


def origin_of(spec: AnyMethodSpec, backbone: Artifact | None, init: Artifact | None) -> dict[str, Any]:
    """What the checkpoint's configuration says of where it came from."""
    origin: dict[str, Any] = {}
    if isinstance(spec, TscirMapSpec | TscirComposeSpec) and backbone is not None:
        origin["backbone"] = ck.backbone_weights_digest(backbone)
    if isinstance(spec, TscirComposeSpec) and init is not None:
        origin["mapping"] = ck.read_config(init)["method"]
    return origin
