"""Read what a report shows of a run: its lineage rows, its steps and their artifacts."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from zscir.lineage.sql_views import query_store_rows
from zscir.pipeline.input_references import FILE_PREFIX
from zscir.pipeline.pipeline_file import Pipeline, load_pipeline
from zscir.pipeline.run import find_run
from zscir.runtime.errors import ZscirError
from zscir.runtime.settings import spec_path
from zscir.store.artifacts import Artifact, FileEntry, FolderSource
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
        """The request of the run: pipeline file, changed fields, which steps."""
        config: dict[str, Any] = json.loads(self.row["user_config"])
        return config

    def steps_with_artifact(self, stage: str) -> list[tuple[StepRecord, Artifact]]:
        """The steps of ``stage`` that have an artifact, with it."""
        return [(step, step.artifact) for step in self.steps if step.stage == stage and step.artifact is not None]

    def artifacts_of(self, stage: str) -> list[Artifact]:
        """The artifacts of ``stage`` in this run, or, where it ran only later steps, those they were made from."""
        own = [artifact for _, artifact in self.steps_with_artifact(stage)]
        above: list[Artifact] = []
        for step in self.steps:
            if step.artifact is not None:
                above += self.library.ancestors(step.artifact)
        return list({artifact.key: artifact for artifact in [*own, *above] if artifact.stage == stage}.values())


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
            look = self.store.lookup(stage, key)
            self.found[name], self.problems[name] = look.artifact, look.problem
        return self.found[name]

    def ancestors(self, artifact: Artifact) -> Iterator[Artifact]:
        """Every artifact that ``artifact`` was made from, nearest first, each once."""
        visited: set[tuple[str, str]] = set()
        queue = [artifact]
        while queue:
            manifest = queue.pop(0).manifest
            for entry in manifest.inputs.values() if manifest is not None else ():
                name = (entry.stage, entry.key)
                if name in visited or entry.stage == "file":  # files outside the store have no ancestors
                    continue
                visited.add(name)
                parent = self.get(*name)
                if parent is not None:
                    queue.append(parent)
                    yield parent


def read_record(store: Store, run_id: str) -> RunRecord:
    """The record of a run by id, unique prefix or ``latest``; RequestError when there is none."""
    row = find_run(store, run_id)
    by_start = "SELECT * FROM stages WHERE run_id = $1 ORDER BY started_at, step"
    stage_rows = query_store_rows(store, by_start, [row["run_id"]])
    library = ArtifactLibrary(store)
    pipeline = _whole_pipeline(row)
    names = {stage_row["key"]: stage_row["step"] for stage_row in stage_rows if stage_row["key"]}
    steps = [_step(stage_row, row["status"], library, names, pipeline) for stage_row in stage_rows]
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
    # A process that was killed leaves its last step as running.
    if outcome == "running" and status != "running":
        outcome = "failed"
    return StepRecord(
        name=row["step"], stage=row["stage"], outcome=outcome, parents=parents, key=row["key"],
        reason=row["reason"] or "", started_at=row["started_at"], finished_at=row["finished_at"], wall_s=row["wall_s"],
        cpu_s=row["cpu_s"], peak_rss_bytes=row["peak_rss_bytes"], attempts=row["attempts"], worker=row["worker"],
        error=row["error"], artifact=artifact, problem=problem,
    )  # fmt: skip


def _not_reached(row: dict[str, Any], steps: list[StepRecord], pipeline: Pipeline | None) -> list[StepRecord]:
    """The steps that a failed or interrupted run never reached."""
    if pipeline is None:
        return []
    reached = {step.name for step in steps}
    return [
        StepRecord(step.name, step.stage.name, "waiting", tuple(dict.fromkeys(step.parents())))
        for step in pipeline.steps
        if step.name not in reached
    ]


def pipeline_of(row: dict[str, Any]) -> Pipeline | None:
    """The pipeline of a run if its file is the same as it was then; None otherwise, and the lineage must do."""
    config = json.loads(row["user_config"])
    if not config.get("pipeline"):
        return None
    try:
        pipeline = load_pipeline(spec_path(str(config["pipeline"])), list(config.get("set") or []))
    except ZscirError:
        return None
    return pipeline if pipeline.digest() == row["spec_digest"] else None  # edited since: it says nothing of this run


def _whole_pipeline(row: dict[str, Any]) -> Pipeline | None:
    """The pipeline of a run that did not reach all of its steps, unless only some of them were requested."""
    config = json.loads(row["user_config"])
    partial = row["status"] == "succeeded" or config.get("only") or config.get("from")
    return None if partial else pipeline_of(row)


def _parents(pipeline: Pipeline | None, name: str) -> tuple[str, ...]:
    found = [step for step in pipeline.steps if step.name == name] if pipeline is not None else []
    return tuple(dict.fromkeys(found[0].parents())) if found else ()


def external_artifact(record: RunRecord, step: str, role: str, listed: dict[str, Artifact]) -> Artifact | None:
    """The folder that ``step`` reads as ``role`` by a ``file:`` input, as it is now; None when that is not known.

    Its files are listed and not hashed again. ``listed`` keeps the folders of earlier calls, by reference.
    """
    pipeline = pipeline_of(record.row)
    steps = [] if pipeline is None else [found for found in pipeline.steps if found.name == step]
    reference = steps[0].inputs.get(role) if steps else None
    if not isinstance(reference, str) or not reference.startswith(FILE_PREFIX):
        return None
    root = Path(reference.removeprefix(FILE_PREFIX))
    if reference not in listed and root.is_dir():
        listed[reference] = _list_folder(root)
    return listed.get(reference)


def _list_folder(root: Path) -> Artifact:
    """The files below ``root`` with their sizes; links are left out."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    entries = [FileEntry(path=path.relative_to(root).as_posix(), size=path.stat().st_size, sha256="") for path in files]
    return Artifact("file", str(root), "", {entry.path: entry for entry in entries}, source=FolderSource(root))
