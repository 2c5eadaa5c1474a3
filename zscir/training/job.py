"""One training job: trains a method and writes its checkpoint, in this process or as one rank of many.

As JSON a job is all that another process of this machine needs: the spec's literals, and the paths of its inputs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zscir.methods.build import new_method, origin_of
from zscir.methods.checkpoint import save_checkpoint
from zscir.runtime.progress import track
from zscir.runtime.schemas import CURVE_SCHEMA, write_table
from zscir.store.artifacts import Artifact, FileEntry
from zscir.training.collectives import SINGLE_RANK, RankGroup
from zscir.training.data import Pack, texts_of
from zscir.training.loop import SAVE_EVERY_S, ProgressFn, TrainPlan, fit, planned_steps
from zscir.training.specs import TrainSpec

TrainFacts = dict[str, Any]
ROLES = ("data", "backbone", "init")


@dataclass(frozen=True)
class TrainJob:
    """What to train, from what, and the folder for the checkpoint and for the state that a later attempt resumes."""

    spec: TrainSpec
    out: Path
    data: Artifact
    backbone: Artifact | None = None
    init: Artifact | None = None
    save_every_s: float = SAVE_EVERY_S

    def run(self, group: RankGroup = SINGLE_RANK, progress: ProgressFn = track) -> TrainFacts:
        """Train, as one rank of many or alone; the first rank writes the files and returns the stage's facts."""
        spec = self.spec
        # Before the pack is opened: a method whose checkpoint could not be loaded again is refused at once.
        method = new_method(spec.method, spec.seed, self.backbone, self.init, texts_of(self.data))
        pack = Pack(self.data, method.pixels)
        steps = planned_steps(len(pack), spec.batch_size, spec.epochs, spec.steps)
        plan = TrainPlan(steps, spec.batch_size, spec.seed, spec.optim, spec.precision == "bfloat16")
        curve = fit(method, pack, plan, self.out, self.save_every_s, group, progress)
        pack.close()
        if not group.is_first:  # all ranks hold the same weights
            return {}
        origin = origin_of(spec.method, self.backbone, self.init)
        numbers = save_checkpoint(method, self.out, spec.storage == "float16", origin)
        rows = [{"step": step, "name": name, "value": value} for step, name, value in curve.rows]
        write_table(self.out / "curve.parquet", CURVE_SCHEMA, rows)
        return {"rows": len(pack), "steps": steps, "parameters": numbers}

    def as_json(self) -> dict[str, Any]:
        """This job as JSON. Inputs of a remote store are fetched first, once for all ranks."""
        inputs = {role: getattr(self, role) for role in ROLES}
        return {
            "spec": self.spec.literals(),
            "out": str(self.out.absolute()),
            "inputs": {role: _located(artifact) for role, artifact in inputs.items() if artifact is not None},
            "save_every_s": self.save_every_s,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any], where: str) -> "TrainJob":
        """The job that ``as_json`` described."""
        inputs = {role: _artifact(artifact) for role, artifact in values["inputs"].items()}
        spec = TrainSpec.parse(values["spec"], where)
        return cls(spec, Path(values["out"]), save_every_s=values["save_every_s"], **inputs)


@dataclass(frozen=True)
class LocalFiles:
    """The files of an input, each at its own path on this machine."""

    paths: dict[str, str]

    def fetch(self, artifact: Artifact, entry: FileEntry) -> Path:
        """The path itself."""
        return Path(self.paths[entry.path])


def _located(artifact: Artifact) -> dict[str, Any]:
    return {
        "stage": artifact.stage,
        "key": artifact.key,
        "digest": artifact.digest,
        "files": [entry.literals() for entry in artifact.entries.values()],
        "paths": {name: str(artifact.path(name).absolute()) for name in artifact.entries},
    }


def _artifact(values: dict[str, Any]) -> Artifact:
    entries = {entry["path"]: FileEntry.parse(entry, "a file of an input") for entry in values["files"]}
    return Artifact(values["stage"], values["key"], values["digest"], entries, source=LocalFiles(values["paths"]))
