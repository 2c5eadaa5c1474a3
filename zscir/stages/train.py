"""train: a pack of triplets, a spec and its starting points become a checkpoint and its training curve."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from zscir.artifacts import Artifact
from zscir.methods.specs import MethodSpec
from zscir.records import CURVE, write_table
from zscir.specs import Spec
from zscir.stage import Facts, stage
from zscir.training.specs import OptimSpec


class TrainSpec(Spec):
    """What to train and how. ``steps`` ends the training early; ``storage`` is the precision of the written file."""

    method: MethodSpec
    seed: int = 0
    batch_size: Annotated[int, Field(ge=2)]
    epochs: Annotated[int, Field(ge=1)] = 1
    steps: Annotated[int, Field(ge=1)] | None = None
    optim: OptimSpec
    precision: Literal["float32", "bfloat16"] = "float32"
    storage: Literal["float32", "float16"] = "float32"


@stage(version=1)
def train(
    spec: TrainSpec, data: Artifact, out: Path, backbone: Artifact | None = None, init: Artifact | None = None
) -> Facts:
    """Write ``model.safetensors``, ``config.json``, ``curve.parquet`` (and ``vocab.json`` of a compact tokenizer).

    ``data`` is a pack: masked or plain pairs for clip, pli and tscir_map, triplets for tscir_compose. ``backbone`` is
    the clip checkpoint to start from or to keep frozen; ``init`` the mapping that tscir_compose continues.
    """
    from zscir.methods.build import new_method, origin_of
    from zscir.methods.checkpoint import save_checkpoint, towers_of
    from zscir.training.data import Pack, texts_of
    from zscir.training.loop import Plan, fit, planned_steps

    method = new_method(spec.method, spec.seed, backbone, init, texts_of(data))
    pack = Pack(data, towers_of(method).pixels)
    steps = planned_steps(len(pack), spec.batch_size, spec.epochs, spec.steps)
    plan = Plan(steps, spec.batch_size, spec.seed, spec.optim, spec.precision == "bfloat16")
    curve = fit(method, pack, plan, out)
    pack.close()
    numbers = save_checkpoint(method, out, spec.storage == "float16", origin_of(spec.method, backbone, init))
    rows = [{"step": step, "name": name, "value": value} for step, name, value in curve.rows]
    write_table(out / "curve.parquet", CURVE, rows)
    return {"rows": len(pack), "steps": steps, "parameters": numbers}
