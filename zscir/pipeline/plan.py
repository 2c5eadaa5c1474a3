"""Plan a pipeline over a store: reuse or make each step, and why; nothing is run."""

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
    """What would happen to one step: ``action`` is ``reuse`` or ``make``.

    ``key`` is None, and ``input_artifacts`` empty, while an input is still to be made.
    """

    step: Step
    action: str
    reason: str
    key: str | None = None
    artifact: Artifact | None = None
    last_wall_s: float | None = None
    input_artifacts: tuple[Artifact, ...] = ()


@dataclass(frozen=True)
class PreviousStep:
    """A step in the last run of this pipeline that reached it: its stage, key, and the seconds that making it took.

    ``last_good_key`` is the key that the step had in the last run that succeeded.
    """

    stage: str
    key: str
    wall_s: float | None
    last_good_key: str | None = None


def make_plan(store: Store, pipeline: Pipeline, previous_runs: PreviousRuns | None = None) -> list[PlannedStep]:
    """One PlannedStep for each step, in order; ``previous_runs`` are those of the store, if they are read already.

    RequestError when a file that a step reads is not there.
    """
    history = previous_steps(previous_runs or PreviousRuns(store), pipeline)
    planned: dict[str, PlannedStep] = {}
    for step in pipeline.steps:
        planned[step.name] = _plan_step(store, step, planned, history.get(step.name))
    return list(planned.values())


def resolve_inputs(step: Step, made: dict[str, Artifact]) -> dict[str, Any]:
    """Role -> artifact (or list of them), from the artifacts of the steps before and the files outside."""

    def resolve(reference: str) -> Artifact:
        return external_input(reference) if reference.startswith(FILE_PREFIX) else made[reference]

    return {
        role: [resolve(reference) for reference in value] if isinstance(value, list) else resolve(value)
        for role, value in step.inputs.items()
    }


def check_external_files(step: Step) -> None:
    """RequestError when a file that ``step`` reads is not there: at the start, not hours later at its turn."""
    for reference in step.references():
        if reference.startswith(FILE_PREFIX) and not external_paths(reference):
            raise RequestError(f"step '{step.name}': {reference.removeprefix(FILE_PREFIX)}: no such file or folder")


def previous_steps(previous_runs: PreviousRuns, pipeline: Pipeline) -> dict[str, PreviousStep]:
    """Step name -> what the newest run of this pipeline that had an artifact of the step recorded."""
    names = {step.name for step in pipeline.steps}
    newest: dict[str, dict[str, Any]] = {}
    good: dict[str, str] = {}
    for run in previous_runs.runs(pipeline.name):
        for row in previous_runs.stages(run["run_id"]):
            # A step that failed has no key, and one that was renamed or removed has no place in the plan.
            if row["key"] is None or row["step"] not in names:
                continue
            last = newest.setdefault(row["step"], row)
            if run["status"] == "succeeded" and row["stage"] == last["stage"]:
                good.setdefault(row["step"], row["key"])
        if good.keys() == names:  # older runs, of which a store may have thousands, are not read
            break
    found = {}
    for name, row in newest.items():
        wall_s = previous_runs.wall_s(row["run_id"], row["key"])
        found[name] = PreviousStep(row["stage"], row["key"], wall_s, good.get(name))
    return found


def _plan_step(store: Store, step: Step, planned: dict[str, PlannedStep], previous: PreviousStep | None) -> PlannedStep:
    last_s = previous.wall_s if previous else None
    check_external_files(step)
    waiting = [name for name in step.parents() if planned[name].artifact is None]
    # Keys hold the digests of inputs: without the input there is no key to look for yet.
    if waiting:
        reason = f"input to be made first: {', '.join(dict.fromkeys(waiting))}"
        return PlannedStep(step, "make", reason, last_wall_s=last_s)
    made = {name: artifact for name in step.parents() if (artifact := planned[name].artifact) is not None}
    return decide_reuse(store, step, resolve_inputs(step, made), previous)


def decide_reuse(store: Store, step: Step, inputs: Inputs, previous: PreviousStep | None) -> PlannedStep:
    """Whether a step whose inputs are all there would be reused or made, and why."""
    last_s = previous.wall_s if previous else None
    key = stage_key(step.stage, step.spec, inputs)
    found = store.lookup(step.stage.name, key)
    if found.artifact is not None:
        reason = "the same inputs, spec and version made it before"
        return PlannedStep(step, "reuse", reason, key, found.artifact, last_s)
    # Digests, not keys: an input that was made again with the same bytes changes nothing below it.
    flat = flatten_inputs(inputs)
    digests = {role: artifact.digest for role, artifact in flat.items()}
    reason = explain_make(store, step, key, digests, previous, found.problem)
    return PlannedStep(step, "make", reason, key, last_wall_s=last_s, input_artifacts=tuple(flat.values()))


def explain_make(
    store: Store, step: Step, key: str, digests: dict[str, str], previous: PreviousStep | None, problem: str
) -> str:
    """Why a step must be made: what differs from the artifact that this pipeline had last, or what is missing."""
    # A damaged or incomplete artifact, the same key, or another stage under the name: nothing to compare with.
    if problem != NO_ARTIFACT or previous is None or previous.key == key or previous.stage != step.stage.name:
        return problem
    manifest = _manifest(store, previous)
    if manifest is None:
        return problem
    return "; ".join(manifest_differences(step, digests, manifest)) or problem


def manifest_differences(step: Step, digests: dict[str, str], old: Manifest) -> list[str]:
    """What changed between an old artifact and the step as it is now: version, spec fields, inputs."""
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


def _manifest(store: Store, previous: PreviousStep) -> Manifest | None:
    # A gc may have removed it since: then the plan only says that there is no artifact.
    text = store.read_text(previous.stage, previous.key, MANIFEST)
    try:
        return None if text is None else parse_manifest(text, f"{previous.stage}/{previous.key}")
    except DamagedManifest:
        return None


def _short_digest(digest: str | None) -> str:
    return "(none)" if digest is None else digest[:8]


def _format_field(value: Any) -> str:
    text = "(none)" if value is None else repr(value)
    # A prompt or a list of benchmarks would fill the table of the plan.
    return text if len(text) <= 60 else text[:57] + "..."
