"""The record: the lineage rows of a run become its steps, their artifacts and who reads whom."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from zscir.lineage.sql_views import query_store_rows
from zscir.pipeline.pipeline_file import Pipeline, load_pipeline
from zscir.pipeline.run import find_run
from zscir.runtime.errors import ZscirError
from zscir.runtime.settings import spec_path
from zscir.store.artifacts import Artifact
from zscir.store.store import Store


@dataclass(frozen=True)
class StepRecord:
    """One step of a run. ``artifact`` is None when it was not made or is no longer whole; ``problem`` says which."""

    name: str
    stage: str
    outcome: str  # made, reused, failed, running, waiting (not reached)
    parents: tuple[str, ...] = ()
    key: str | None = None
    reason: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    wall_s: float | None = None
    cpu_s: float | None = None
    peak_rss_bytes: int | None = None
    attempts: int = 0
    worker: str = ""
    error: str | None = None
    artifact: Artifact | None = None
    problem: str = ""


@dataclass(frozen=True)
class RunRecord:
    """A run: its row of the ``run`` table (status ``died`` where its process is gone) and its steps in order."""

    store: Store
    row: dict[str, Any]
    steps: tuple[StepRecord, ...]
    library: "ArtifactLibrary"

    @property
    def run_id(self) -> str:
        """The run's id."""
        return str(self.row["run_id"])

    @property
    def config(self) -> dict[str, Any]:
        """What the person asked for."""
        config: dict[str, Any] = json.loads(self.row["user_config"])
        return config

    def made_by(self, stage: str) -> list[tuple[StepRecord, Artifact]]:
        """The steps of ``stage`` that have an artifact, with it."""
        return [(one, one.artifact) for one in self.steps if one.stage == stage and one.artifact is not None]

    def artifacts_of(self, stage: str) -> list[Artifact]:
        """The artifacts of ``stage`` in this run, or, where it ran only later steps, those they were made from."""
        own = [artifact for _, artifact in self.made_by(stage)]
        above = [one for step in self.steps if step.artifact is not None for one in self.library.above(step.artifact)]
        return list({one.key: one for one in [*own, *above] if one.stage == stage}.values())


@dataclass
class ArtifactLibrary:
    """Artifacts of a store by (stage, key), each looked up once."""

    store: Store
    found: dict[tuple[str, str], Artifact | None] = field(default_factory=dict)
    problems: dict[tuple[str, str], str] = field(default_factory=dict)

    def get(self, stage: str, key: str) -> Artifact | None:
        """The artifact if it is there and whole."""
        name = (stage, key)
        if name not in self.found:
            look = self.store.look(stage, key)
            self.found[name], self.problems[name] = look.artifact, look.problem
        return self.found[name]

    def above(self, artifact: Artifact) -> Iterator[Artifact]:
        """Every artifact that ``artifact`` was made from, nearest first, each once."""
        seen: set[tuple[str, str]] = set()
        queue = [artifact]
        while queue:
            manifest = queue.pop(0).manifest
            for entry in manifest.inputs.values() if manifest is not None else ():
                name = (entry.stage, entry.key)
                if name in seen or entry.stage == "file":
                    continue
                seen.add(name)
                parent = self.get(*name)
                if parent is not None:
                    queue.append(parent)
                    yield parent

    def nearest(self, artifact: Artifact, stage: str) -> Artifact | None:
        """The nearest artifact of ``stage`` above ``artifact``."""
        return next((one for one in self.above(artifact) if one.stage == stage), None)


def read_record(store: Store, run_id: str) -> RunRecord:
    """The record of a run by id, unique prefix or ``latest``; RequestError when there is none."""
    row = find_run(store, run_id)
    quoted = "'" + str(row["run_id"]).replace("'", "''") + "'"
    stage_rows = query_store_rows(store, f"SELECT * FROM stages WHERE run_id = {quoted} ORDER BY started_at, step")  # noqa: S608
    library = ArtifactLibrary(store)
    pipeline = _whole_pipeline(row)
    names = {one["key"]: one["step"] for one in stage_rows if one["key"]}
    steps = [_step(one, row["status"], library, names, pipeline) for one in stage_rows]
    return RunRecord(store, row, (*steps, *_not_reached(row, steps, pipeline)), library)


def _step(
    row: dict[str, Any], status: str, library: ArtifactLibrary, names: dict[str, str], pipeline: Pipeline | None
) -> StepRecord:
    artifact = library.get(row["stage"], row["key"]) if row["key"] else None
    problem = library.problems.get((row["stage"], row["key"]), "") if row["key"] else ""
    if artifact is not None and artifact.manifest is not None:
        keys = [entry.key for entry in artifact.manifest.inputs.values()]
        parents = tuple(dict.fromkeys(names[key] for key in keys if key in names and names[key] != row["step"]))
    else:
        parents = _parents(pipeline, row["step"])
    outcome = row["outcome"]
    if outcome == "running" and status != "running":
        outcome = "failed"
    return StepRecord(
        name=row["step"], stage=row["stage"], outcome=outcome, parents=parents, key=row["key"],
        reason=row["reason"] or "", started_at=row["started_at"], finished_at=row["finished_at"], wall_s=row["wall_s"],
        cpu_s=row["cpu_s"], peak_rss_bytes=row["peak_rss_bytes"], attempts=row["attempts"], worker=row["worker"],
        error=row["error"], artifact=artifact, problem=problem,
    )  # fmt: skip


def _not_reached(row: dict[str, Any], steps: list[StepRecord], pipeline: Pipeline | None) -> list[StepRecord]:
    """The steps that a run which did not end well never came to."""
    if pipeline is None:
        return []
    reached = {step.name for step in steps}
    return [
        StepRecord(step.name, step.stage.name, "waiting", tuple(dict.fromkeys(step.parents())))
        for step in pipeline.steps
        if step.name not in reached
    ]


def pipeline_of(row: dict[str, Any]) -> Pipeline | None:
    """The pipeline of a run if its file still asks for what it asked for then; else the lineage alone must do."""
    config = json.loads(row["user_config"])
    if not config.get("pipeline"):
        return None
    try:
        pipeline = load_pipeline(spec_path(str(config["pipeline"])), list(config.get("set") or []))
    except ZscirError:
        return None
    return pipeline if pipeline.digest() == row["spec_digest"] else None


def _whole_pipeline(row: dict[str, Any]) -> Pipeline | None:
    """The pipeline of a run that did not come to all of its steps and was not told to walk only some."""
    config = json.loads(row["user_config"])
    partial = row["status"] == "succeeded" or config.get("only") or config.get("from")
    return None if partial else pipeline_of(row)


def _parents(pipeline: Pipeline | None, name: str) -> tuple[str, ...]:
    found = [step for step in pipeline.steps if step.name == name] if pipeline is not None else []
    return tuple(dict.fromkeys(found[0].parents())) if found else ()
