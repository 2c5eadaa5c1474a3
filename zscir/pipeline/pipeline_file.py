"""Pipelines: a TOML file of steps becomes typed specs in an order that respects their inputs."""

import dataclasses
import tomllib
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from zscir.pipeline.checks import QualityChecks
from zscir.pipeline.limits import Limits, StepLimits
from zscir.pipeline.partitions import PARTITION_TABLE, fill_template
from zscir.pipeline.stage import Stage, stage_named, stage_names
from zscir.pipeline.step_pools import assign_pools
from zscir.runtime.errors import RequestError
from zscir.runtime.settings import Settings, pools_from_env
from zscir.runtime.specs import Spec, json_digest, read_toml
from zscir.store.artifacts import Artifact
from zscir.store.file_hashes import hash_files_cached

FILE_PREFIX = "file:"
GATES_FIELD = "gates"  # --set STEP.gates.METRIC.fail_drop=...; gates are no part of a stage's spec, nor of any key
LIMITS_FIELD = "limits"  # --set limits.max_hours=... or STEP.limits.max_hours=...; no part of any key either
DISPATCH_FIELD = "dispatch"  # --set dispatch.STEP=POOL; who makes a step is no part of any key either
PIPELINE_TABLES = (LIMITS_FIELD, DISPATCH_FIELD)  # of the whole pipeline
ROW_COUNTING_STAGES = ("ingest", "import_shards")  # the stages that are told how many rows the source has
SOURCE_FIELDS = ("urls", "images", "shards")  # what the word "source" means to an input of this name; else urls
FieldEdit = tuple[list[str], Any]


class SourceSpec(Spec):
    """Where pairs come from, and how the stages that begin a pipeline treat it.

    A URL list (``urls``) for ``ingest`` and ``download``, or the world of ``tabletop``; a folder of pictures
    (``images``) beside the list for ``import_images``; or tars (``shards``) for ``import_shards``.
    """

    name: str
    about: str | None = None
    licence: str | None = None
    expected_rows: int | None = None
    urls: str | None = None
    images: str | None = None
    shards: str | None = None
    tabletop: dict[str, Any] | None = None
    ingest: dict[str, Any] | None = None
    download: dict[str, Any] | None = None
    import_images: dict[str, Any] | None = None
    import_shards: dict[str, Any] | None = None


class StepSpec(Spec):
    """One step: a stage, its spec (a table, a TOML path, or the source's section of that name) and its inputs."""

    name: str | None = None
    stage: str
    spec: str | dict[str, Any] | None = None
    inputs: dict[str, str | list[str]] = Field(default_factory=dict)
    gates: QualityChecks | None = None
    limits: StepLimits | None = None


class PipelineSpec(Spec):
    """A pipeline file. ``set`` values change single fields of it without a copy.

    ``file:`` inputs and the source's ``urls`` may hold ``{date}`` or ``{shard}`` (zscir/pipeline/partitions.py).
    """

    name: str
    about: str | None = None
    source: str | None = None
    limits: Limits | None = None
    dispatch: dict[str, Annotated[str, Field(min_length=1)]] | None = None
    steps: tuple[StepSpec, ...]


@dataclass(frozen=True)
class Step:
    """A step with its spec loaded; inputs are names of earlier steps, or ``file:`` and an absolute path.

    ``pool`` names the work pool whose workers make it; None: the run's own process does.
    """

    name: str
    stage: Stage
    spec: Spec
    inputs: dict[str, str | list[str]]
    gates: QualityChecks | None = None
    limits: StepLimits = dataclasses.field(default_factory=StepLimits)
    pool: str | None = None

    def parents(self) -> list[str]:
        """The names of the steps whose artifacts this one reads."""
        return [one for one in self.references() if not one.startswith(FILE_PREFIX)]

    def references(self) -> list[str]:
        """Every input reference, in the order of the roles."""
        return [one for value in self.inputs.values() for one in (value if isinstance(value, list) else [value])]


@dataclass(frozen=True)
class Pipeline:
    """Steps in an order in which each comes after its inputs."""

    name: str
    path: Path
    steps: tuple[Step, ...]
    limits: Limits = dataclasses.field(default_factory=Limits)

    def digest(self) -> str:
        """What was asked, as one digest: every step's stage, version, literals and references."""
        asked = [[s.name, s.stage.name, s.stage.version, s.spec.literals(), sorted(s.parents())] for s in self.steps]
        return json_digest(asked)

    def select(self, word: str) -> list[str]:
        """The steps that ``word`` names: one step by its name, or all steps of a stage."""
        chosen = [step.name for step in self.steps if word in (step.name, step.stage.name)]
        if not chosen:
            raise RequestError(f"{self.path}: no step or stage '{word}'; the steps are {[s.name for s in self.steps]}")
        return chosen

    def descendants(self, names: list[str]) -> list[str]:
        """``names`` and every step that depends on one of them, in order."""
        chosen = set(names)
        for step in self.steps:
            if chosen & set(step.parents()):
                chosen.add(step.name)
        return [step.name for step in self.steps if step.name in chosen]


def load_pipeline(path: Path, changes: list[str] | None = None) -> Pipeline:
    """The pipeline in ``path`` after ``--set`` changes; RequestError names file, step and field of what is wrong."""
    folder = path.resolve().parent
    edits = [parse_change(change) for change in changes or []]
    values = read_toml(path)
    for field, value in [edit for edit in edits if len(edit[0]) == 1]:
        if field[0] not in ("source", "name"):
            raise RequestError(f"--set {field[0]}: give source=FILE or STEP.field=value")
        values[field[0]] = str(Path(str(value)).resolve()) if field[0] == "source" else value
    for field, value in [edit for edit in edits if len(edit[0]) > 1 and edit[0][0] in PIPELINE_TABLES]:
        _set_field(values, field, value, f"{path}: [{field[0]}]")
    spec = PipelineSpec.parse(values, str(path))
    source, source_folder = _load_source(spec, folder, edits)
    steps = [_load_step(step, source, source_folder, folder, path, edits) for step in spec.steps]
    known = {step.name for step in steps}
    for word in {PARTITION_TABLE, *PIPELINE_TABLES} & known:
        raise RequestError(f"{path}: no step may be named '{word}': --set {word}.NAME=... is of the whole pipeline")
    for field, _ in edits:
        if len(field) > 1 and field[0] not in {PARTITION_TABLE, *PIPELINE_TABLES, *known}:
            raise RequestError(f"--set {'.'.join(field)}: no step '{field[0]}'; the steps are {sorted(known)}")
    names = {step.name: step.stage.name for step in steps}
    pools = assign_pools(spec.dispatch or {}, pools_from_env(), names, stage_names(), str(path))
    steps = [dataclasses.replace(step, pool=pools.get(step.name)) for step in steps]
    return Pipeline(spec.name, path, tuple(_topological_order(steps, path)), spec.limits or Limits())


def parse_change(text: str) -> FieldEdit:
    """``a.b=c`` as (['a', 'b'], c); c is read as a TOML value, or as plain text when it is none."""
    name, sign, value = text.partition("=")
    if not sign or not name.strip():
        raise RequestError(f"--set {text}: write it as STEP.field=value")
    try:
        parsed: Any = tomllib.loads(f"x = {value}")["x"]
    except tomllib.TOMLDecodeError:
        parsed = value
    return [part.strip() for part in name.split(".")], parsed


def external_input(reference: str) -> Artifact:
    """The artifact-like view of a ``file:`` input: a file, a folder or a glob; it enters keys by its contents."""
    return hash_files_cached(external_paths(reference), reference.removeprefix(FILE_PREFIX), Settings.from_env().cache)


def external_paths(reference: str) -> list[Path]:
    """What a ``file:`` input names, sorted; empty when nothing of that name is there."""
    path = Path(reference.removeprefix(FILE_PREFIX))
    if path.exists() or not _is_pattern(path):
        return [path] if path.exists() else []
    return sorted(path.parent.glob(path.name))


def _is_pattern(path: Path) -> bool:
    return any(sign in path.name for sign in "*?[")


def _load_source(spec: PipelineSpec, folder: Path, edits: list[FieldEdit]) -> tuple[SourceSpec | None, Path]:
    """The source file; the world of its ``[tabletop]`` section is the one that ``download`` serves to itself."""
    if spec.source is None:
        return None, folder
    path = folder / spec.source
    source = SourceSpec.load(path)
    if source.tabletop is not None:
        world = dict(source.tabletop)
        for field, value in edits:
            if field[0] == "tabletop" and len(field) > 1 and field[1] not in (GATES_FIELD, LIMITS_FIELD):
                _set_field(world, field[1:], value, f"{path}: [tabletop]")
        served = {**(source.download or {}), "tabletop": world}
        source = source.model_copy(update={"tabletop": world, "download": served})
    return source, path.resolve().parent


def _load_step(
    step: StepSpec, source: SourceSpec | None, source_folder: Path, folder: Path, path: Path, edits: list[FieldEdit]
) -> Step:
    name = step.name or step.stage
    where = f"{path}: step '{name}'"
    stage = _known_stage(step.stage, where)
    values = _spec_values(step, source, folder, where)
    bounds = {
        GATES_FIELD: step.gates.literals() if step.gates else {},
        LIMITS_FIELD: step.limits.literals() if step.limits else {},
    }
    for field, value in edits:
        if len(field) > 1 and field[0] == name:
            _set_field(bounds if field[1] in bounds else values, field[1:], value, where)
    slices = {field[1]: value for field, value in edits if field[0] == PARTITION_TABLE and len(field) == 2}
    inputs = {
        role: _resolve_reference(one, slices, _source_field(role, source), source_folder, folder, where)
        for role, one in step.inputs.items()
    }
    stage.check_inputs(inputs, where)
    gates = QualityChecks.parse(bounds[GATES_FIELD], f"{where}: gates") if bounds[GATES_FIELD] else None
    if gates is not None:
        gates.check_counts([*inputs], f"{where}: gates")
    limits = StepLimits.parse(bounds[LIMITS_FIELD], f"{where}: {LIMITS_FIELD}")
    return Step(name, stage, stage.spec_type.parse(values, where), inputs, gates, limits)


def _known_stage(name: str, where: str) -> Stage:
    try:
        return stage_named(name)
    except RequestError as error:
        raise RequestError(f"{where}: {error}") from None


def _spec_values(step: StepSpec, source: SourceSpec | None, folder: Path, where: str) -> dict[str, Any]:
    if isinstance(step.spec, dict):
        return deepcopy(step.spec)
    if isinstance(step.spec, str):
        return read_toml(folder / step.spec)
    section = getattr(source, step.stage, None) if source is not None else None
    values: dict[str, Any] = deepcopy(section) if section is not None else {}
    if section is not None and source is not None and source.expected_rows and step.stage in ROW_COUNTING_STAGES:
        values.setdefault("expected_rows", source.expected_rows)
    return values


def _set_field(values: dict[str, Any], field: list[str], value: Any, where: str) -> None:
    for part in field[:-1]:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise RequestError(f"--set {'.'.join(field)}={value}: {where}: '{part}' is {values!r} and has no fields")
    values[field[-1]] = value


def _source_field(role: str, source: SourceSpec | None) -> tuple[str, str | None]:
    """The field of the source file that "source" stands for in an input of this name, and what is in it."""
    name = role if role in SOURCE_FIELDS else SOURCE_FIELDS[0]
    return name, getattr(source, name, None)


def _resolve_reference(
    given: str | list[str],
    slices: dict[str, Any],
    place: tuple[str, str | None],
    source_folder: Path,
    folder: Path,
    where: str,
) -> str | list[str]:
    if isinstance(given, list):
        return [str(_resolve_reference(one, slices, place, source_folder, folder, where)) for one in given]
    if given.startswith(FILE_PREFIX):
        return FILE_PREFIX + str((folder / fill_template(given.removeprefix(FILE_PREFIX), slices, where)).resolve())
    if given == "source":
        name, path = place
        if path is None:
            raise RequestError(f"{where}: the input 'source' needs `{name} = ...` in the source file")
        return FILE_PREFIX + str((source_folder / Path(fill_template(path, slices, where)).expanduser()).resolve())
    return given


def _topological_order(steps: list[Step], path: Path) -> list[Step]:
    by_name: dict[str, Step] = {}
    for step in steps:
        if step.name in by_name:
            raise RequestError(f"{path}: two steps are named '{step.name}'; give one a name of its own")
        by_name[step.name] = step
    done: dict[str, Step] = {}
    trail: list[str] = []

    def visit(name: str, asked_by: str) -> None:
        if name in done:
            return
        if name not in by_name:
            raise RequestError(
                f"{path}: step '{asked_by}' reads '{name}', which is no step; there are {sorted(by_name)}"
            )
        if name in trail:
            raise RequestError(f"{path}: the steps {' -> '.join([*trail, name])} depend on each other in a circle")
        trail.append(name)
        for parent in by_name[name].parents():
            visit(parent, name)
        trail.pop()
        done[name] = by_name[name]

    for step in steps:
        visit(step.name, step.name)
    return list(done.values())
