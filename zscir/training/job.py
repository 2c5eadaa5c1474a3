"""A course: a spec, a pack and starting points become the files of a trained method, in this process or as one of many.

As JSON a course is all that another process of this machine needs: the spec's literals, and where the files lie.
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
    """What is to be trained, from what, and the folder for its files and for the state to go on from."""

    spec: TrainSpec
    out: Path
    data: Artifact
    backbone: Artifact | None = None
    init: Artifact | None = None
    save_every_s: float = SAVE_EVERY_S

    def run(self, ranks: RankGroup = SINGLE_RANK, show: ProgressFn = track) -> TrainFacts:
        """Train, as one rank of many or alone; the first rank writes the files and returns the stage's facts."""
        spec = self.spec
        method = new_method(spec.method, spec.seed, self.backbone, self.init, texts_of(self.data))
        pack = Pack(self.data, method.pixels)
        steps = planned_steps(len(pack), spec.batch_size, spec.epochs, spec.steps)
        plan = TrainPlan(steps, spec.batch_size, spec.seed, spec.optim, spec.precision == "bfloat16")
        curve = fit(method, pack, plan, self.out, self.save_every_s, ranks, show)
        pack.close()
        if not ranks.leads:
            return {}
        origin = origin_of(spec.method, self.backbone, self.init)
        numbers = save_checkpoint(method, self.out, spec.storage == "float16", origin)
        rows = [{"step": step, "name": name, "value": value} for step, name, value in curve.rows]
        write_table(self.out / "curve.parquet", CURVE_SCHEMA, rows)
        return {"rows": len(pack), "steps": steps, "parameters": numbers}

    def literals(self) -> dict[str, Any]:
        """This course as JSON; files that lie elsewhere are brought here first, once for all ranks."""
        inputs = {role: getattr(self, role) for role in ROLES}
        return {
            "spec": self.spec.literals(),
            "out": str(self.out.absolute()),
            "inputs": {role: _located(one) for role, one in inputs.items() if one is not None},
            "save_every_s": self.save_every_s,
        }

    @classmethod
    def parse(cls, values: dict[str, Any], where: str) -> "TrainJob":
        """The course that ``literals`` described."""
        inputs = {role: _artifact(one) for role, one in values["inputs"].items()}
        spec = TrainSpec.parse(values["spec"], where)
        return cls(spec, Path(values["out"]), save_every_s=values["save_every_s"], **inputs)


@dataclass(frozen=True)
class LocalFiles:
    """Files that lie on this machine, each wherever it is."""

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
    entries = {one["path"]: FileEntry.parse(one, "a file of an input") for one in values["files"]}
    return Artifact(values["stage"], values["key"], values["digest"], entries, source=LocalFiles(values["paths"]))
