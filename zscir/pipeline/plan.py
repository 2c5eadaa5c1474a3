"""Plans: a pipeline and a store become, step by step, reuse or make, and why; nothing is run."""

from dataclasses import dataclass
from typing import Any

from zscir.lineage.previous_runs import PreviousRuns
from zscir.pipeline.input_references import FILE_PREFIX, external_input, external_paths
from zscir.pipeline.pipeline_file import Pipeline, Step
from zscir.pipeline.stage import Inputs, flatten_inputs, stage_key
from zscir.runtime.errors import RequestError
from zscir.store.artifacts import MANIFEST, Artifact, DamagedManifest, Manifest, parse_manifest
from zscir.store.store import NO_ARTIFACT, Store


@dataclass(frozen=True)
class PlannedStep:
    """What would happen to one step. ``key`` is None, and ``inputs`` empty, while an input is still to be made."""

    step: Step
    action: str
    reason: str
    key: str | None = None
    artifact: Artifact | None = None
    last_wall_s: float | None = None
    inputs: tuple[Artifact, ...] = ()


@dataclass(frozen=True)
class PreviousStep:
    """The last time this pipeline came by a step: the stage, the key it had and how long it took to make.

    ``good_key`` is the key that the step had in the last run that succeeded.
    """

    stage: str
    key: str
    wall_s: float | None
    good_key: str | None = None


def make_plan(store: Store, pipeline: Pipeline, past: PreviousRuns | None = None) -> list[PlannedStep]:
    """One PlannedStep for each step, in order; ``past`` is that of the store, if it has been read already."""
    history = previous_steps(past or PreviousRuns(store), pipeline)
    planned: dict[str, PlannedStep] = {}
    for step in pipeline.steps:
        planned[step.name] = _plan_step(store, step, planned, history.get(step.name))
    return list(planned.values())


def resolve_inputs(step: Step, made: dict[str, Artifact]) -> dict[str, Any]:
    """Role -> artifact (or list of them), from the artifacts of the steps before and the files outside."""

    def one(reference: str) -> Artifact:
        return external_input(reference) if reference.startswith(FILE_PREFIX) else made[reference]

    return {
        role: [one(reference) for reference in value] if isinstance(value, list) else one(value)
        for role, value in step.inputs.items()
    }


def check_external_files(step: Step) -> None:
    """RequestError when a file that ``step`` reads is not there; found out now, not when its turn comes."""
    for reference in step.references():
        if reference.startswith(FILE_PREFIX) and not external_paths(reference):
            raise RequestError(f"step '{step.name}': {reference.removeprefix(FILE_PREFIX)}: no such file or folder")


def previous_steps(past: PreviousRuns, pipeline: Pipeline) -> dict[str, PreviousStep]:
    """Step name -> what the newest run of this pipeline that came by an artifact of the step recorded."""
    names = {step.name for step in pipeline.steps}
    newest: dict[str, dict[str, Any]] = {}
    good: dict[str, str] = {}
    for run in past.runs(pipeline.name):
        for row in past.stages(run["run_id"]):
            if row["key"] is None or row["step"] not in names:
                continue
            last = newest.setdefault(row["step"], row)
            if run["status"] == "succeeded" and row["stage"] == last["stage"]:
                good.setdefault(row["step"], row["key"])
        if good.keys() == names:
            break
    return {
        name: PreviousStep(row["stage"], row["key"], past.wall_s(row["run_id"], row["key"]), good.get(name))
        for name, row in newest.items()
    }


def _plan_step(store: Store, step: Step, planned: dict[str, PlannedStep], before: PreviousStep | None) -> PlannedStep:
    last = before.wall_s if before else None
    check_external_files(step)
    waiting = [name for name in step.parents() if planned[name].artifact is None]
    if waiting:
        return PlannedStep(
            step, "make", f"input to be made first: {', '.join(dict.fromkeys(waiting))}", last_wall_s=last
        )
    made = {name: artifact for name in step.parents() if (artifact := planned[name].artifact) is not None}
    return decide_reuse(store, step, resolve_inputs(step, made), before)


def decide_reuse(store: Store, step: Step, inputs: Inputs, before: PreviousStep | None) -> PlannedStep:
    """Whether a step whose inputs are all there would be reused or made, and why."""
    last = before.wall_s if before else None
    key = stage_key(step.stage, step.spec, inputs)
    found = store.look(step.stage.name, key)
    if found.artifact is not None:
        return PlannedStep(step, "reuse", "the same inputs, spec and version made it before", key, found.artifact, last)
    flat = flatten_inputs(inputs)
    digests = {role: one.digest for role, one in flat.items()}
    reason = explain_make(store, step, key, digests, before, found.problem)
    return PlannedStep(step, "make", reason, key, last_wall_s=last, inputs=tuple(flat.values()))


def explain_make(
    store: Store, step: Step, key: str, digests: dict[str, str], before: PreviousStep | None, problem: str
) -> str:
    """Why a step must be made: what differs from the artifact that this pipeline had last, or what is missing."""
    if problem != NO_ARTIFACT or before is None or before.key == key or before.stage != step.stage.name:
        return problem
    manifest = _manifest(store, before)
    if manifest is None:
        return problem
    return "; ".join(manifest_differences(step, digests, manifest)) or problem


def manifest_differences(step: Step, digests: dict[str, str], old: Manifest) -> list[str]:
    """What changed between an old artifact and what is asked now: version, spec fields, inputs."""
    changes = []
    if old.stage_version != step.stage.version:
        changes.append(f"code version bumped: {old.stage_version} -> {step.stage.version}")
    changes += [f"spec changed: {line}" for line in field_changes(old.spec, step.spec.literals(), "")]
    was = {role: entry.digest for role, entry in old.inputs.items()}
    for role in sorted({*was, *digests}):
        if was.get(role) != digests.get(role):
            changes.append(
                f"input changed: {role} {_short_digest(was.get(role))} -> {_short_digest(digests.get(role))}"
            )
    return changes


def field_changes(old: dict[str, Any], new: dict[str, Any], prefix: str) -> list[str]:
    """A line for each field, at any depth, that is not the same in both."""
    lines = []
    for name in sorted({*old, *new}):
        was, now = old.get(name), new.get(name)
        if isinstance(was, dict) and isinstance(now, dict):
            lines += field_changes(was, now, f"{prefix}{name}.")
        elif was != now:
            lines.append(f"{prefix}{name} {_format_field(was)} -> {_format_field(now)}")
    return lines


def _manifest(store: Store, before: PreviousStep) -> Manifest | None:
    text = store.read_text(before.stage, before.key, MANIFEST)
    try:
        return None if text is None else parse_manifest(text, f"{before.stage}/{before.key}")
    except DamagedManifest:
        return None


def _short_digest(digest: str | None) -> str:
    return "(none)" if digest is None else digest[:8]


def _format_field(value: Any) -> str:
    text = "(none)" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
