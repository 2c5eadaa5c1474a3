"""Load a pipeline file: its steps with their specs checked, each after the steps whose artifacts it reads."""

import dataclasses
import tomllib
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zscir.pipeline.checks import QualityChecks
from zscir.pipeline.input_references import FILE_PREFIX
from zscir.pipeline.limits import Limits, StepLimits
from zscir.pipeline.partitions import PARTITION_TABLE, fill_template
from zscir.pipeline.pipeline_spec import PipelineSpec, SourceSpec, StepDefaults, StepSpec, check_defaults, fill_fields
from zscir.pipeline.stage import Stage, stage_named, stage_names
from zscir.pipeline.step_pools import assign_pools
from zscir.runtime.errors import RequestError
from zscir.runtime.settings import pools_from_env
from zscir.runtime.specs import Spec, json_digest, read_toml

GATES_FIELD = "gates"  # --set STEP.gates.METRIC.fail_drop=...; gates are no part of a stage's spec, nor of any key
LIMITS_FIELD = "limits"  # --set limits.max_hours=... or STEP.limits.max_hours=...; no part of any key either
DISPATCH_FIELD = "dispatch"  # --set dispatch.STEP=POOL; who makes a step is no part of any key either
PIPELINE_TABLES = (LIMITS_FIELD, DISPATCH_FIELD)  # of the whole pipeline
ROW_COUNTING_STAGES = ("ingest", "import_shards")  # their specs take the source's number of rows, expected_rows
SOURCE_WORD = "source"
SOURCE_FIELDS = ("urls", "images", "shards")  # what the word "source" means to an input of this name; else urls
FieldChange = tuple[list[str], Any]


@dataclass(frozen=True)
class Step:
    """A step with its spec loaded; inputs are names of earlier steps, or ``file:`` and an absolute path.

    ``pool`` names the work pool whose workers make it; None: the run's own process does.
    """

    name: str
    stage: Stage
    spec: Spec
    inputs: dict[str, str | list[str]]
    checks: QualityChecks | None = None
    limits: StepLimits = dataclasses.field(default_factory=StepLimits)
    pool: str | None = None

    def parents(self) -> list[str]:
        """The names of the steps whose artifacts this one reads."""
        return [reference for reference in self.references() if not reference.startswith(FILE_PREFIX)]

    def references(self) -> list[str]:
        """Every input reference, in the order of the roles."""
        values = self.inputs.values()
        return [reference for value in values for reference in (value if isinstance(value, list) else [value])]


@dataclass(frozen=True)
class Pipeline:
    """Steps in an order in which each comes after its inputs."""

    name: str
    path: Path
    steps: tuple[Step, ...]
    limits: Limits = dataclasses.field(default_factory=Limits)

    def digest(self) -> str:
        """One digest of what every step is: name, stage, version, literals and parents; files are not looked at."""
        return json_digest(
            # Sorted: the order in which a table lists its inputs is no difference between two pipelines.
            [[s.name, s.stage.name, s.stage.version, s.spec.literals(), sorted(s.parents())] for s in self.steps]
        )

    def steps_matching(self, word: str) -> list[str]:
        """The step of the name ``word``, or all steps of the stage of that name; RequestError when there is none."""
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


@dataclass(frozen=True)
class _Context:
    """What every step of a file is loaded with."""

    path: Path
    source: SourceSpec | None
    source_folder: Path
    defaults: dict[str, StepDefaults]
    changes: list[FieldChange]

    @property
    def folder(self) -> Path:
        """The pipeline file's folder, from which its paths are taken."""
        return self.path.resolve().parent

    @property
    def partition(self) -> dict[str, Any]:
        """The values of ``{date}`` and ``{shard}``."""
        return {field[1]: value for field, value in self.changes if field[0] == PARTITION_TABLE and len(field) == 2}


def load_pipeline(path: Path, changes: list[str] | None = None) -> Pipeline:
    """The pipeline in ``path`` after ``--set`` changes; RequestError names file, step and field of what is wrong."""
    parsed = [parse_change(change) for change in changes or []]
    spec = PipelineSpec.parse(_changed_values(path, parsed), str(path))
    check_defaults(spec, str(path))
    source, source_folder = _load_source(spec, path.resolve().parent, parsed)
    context = _Context(path, source, source_folder, spec.defaults, parsed)
    steps = [_load_step(step, context) for step in spec.steps]
    # After loading: a step without ``name`` has its stage's, so only now are all names known.
    _check_step_names({step.name for step in steps}, context)
    names = {step.name: step.stage.name for step in steps}
    pools = assign_pools(spec.dispatch or {}, pools_from_env(), names, stage_names(), str(path))
    steps = [dataclasses.replace(step, pool=pools.get(step.name)) for step in steps]
    return Pipeline(spec.name, path, tuple(_topological_order(steps, path)), spec.limits or Limits())


def _changed_values(path: Path, changes: list[FieldChange]) -> dict[str, Any]:
    """The tables of the file after the changes of what is of the whole pipeline."""
    values = read_toml(path)
    for field, value in changes:
        if len(field) > 1 and field[0] in PIPELINE_TABLES:
            _set_field(values, field, value, f"{path}: [{field[0]}]")
        elif len(field) == 1 and field[0] in ("source", "name"):
            values[field[0]] = str(Path(str(value)).resolve()) if field[0] == "source" else value
        elif len(field) == 1:
            raise RequestError(f"--set {field[0]}: give source=FILE or STEP.field=value")
    return values


def _check_step_names(known: set[str], context: _Context) -> None:
    reserved = {PARTITION_TABLE, *PIPELINE_TABLES}
    for word in reserved & known:
        raise RequestError(
            f"{context.path}: no step may be named '{word}': --set {word}.NAME=... is of the whole pipeline"
        )
    for field, _ in context.changes:
        if len(field) > 1 and field[0] not in reserved | known:
            raise RequestError(f"--set {'.'.join(field)}: no step '{field[0]}'; the steps are {sorted(known)}")


def parse_change(text: str) -> FieldChange:
    """``a.b=c`` as (['a', 'b'], c); c is read as a TOML value, or as plain text when it is none."""
    name, sign, value = text.partition("=")
    if not sign or not name.strip():
        raise RequestError(f"--set {text}: write it as STEP.field=value")
    try:
        parsed: Any = tomllib.loads(f"x = {value}")["x"]
    except tomllib.TOMLDecodeError:
        parsed = value
    return [part.strip() for part in name.split(".")], parsed


def _load_source(spec: PipelineSpec, folder: Path, changes: list[FieldChange]) -> tuple[SourceSpec | None, Path]:
    """The source file; ``download`` serves the world of its ``[tabletop]`` section to itself, with its changes."""
    if spec.source is None:
        return None, folder
    path = folder / spec.source
    source = SourceSpec.load(path)
    if source.tabletop is not None:
        world = dict(source.tabletop)
        for field, value in changes:
            if field[0] == "tabletop" and len(field) > 1 and field[1] not in (GATES_FIELD, LIMITS_FIELD):
                _set_field(world, field[1:], value, f"{path}: [tabletop]")
        # Of one world, --set changes included: else the list would name pictures that the server does not have.
        served = {**(source.download or {}), "tabletop": world}
        source = source.model_copy(update={"tabletop": world, "download": served})
    return source, path.resolve().parent


def _load_step(step: StepSpec, context: _Context) -> Step:
    name = step.name or step.stage
    where = f"{context.path}: step '{name}'"
    stage = _known_stage(step.stage, where)
    defaults = context.defaults.get(stage.name, StepDefaults())
    if stage.name in context.defaults:
        where += f" with [defaults.{stage.name}]"
    # The step's own fields win over [defaults], and --set, applied below, wins over both.
    values = fill_fields(_spec_values(step, context), _given_values(defaults, context.folder) or {})
    outside_keys = {
        GATES_FIELD: fill_fields(_literals(step.gates), _literals(defaults.gates)),
        LIMITS_FIELD: fill_fields(_literals(step.limits), _literals(defaults.limits)),
    }
    for field, value in context.changes:
        if len(field) > 1 and field[0] == name:
            _set_field(outside_keys if field[1] in outside_keys else values, field[1:], value, where)
    inputs = {
        role: _resolve_references(reference, role, context, where)
        for role, reference in fill_fields(step.inputs, defaults.inputs).items()
    }
    stage.check_inputs(inputs, where)
    checks = None
    if outside_keys[GATES_FIELD]:
        checks = QualityChecks.parse(outside_keys[GATES_FIELD], f"{where}: {GATES_FIELD}")
        checks.check_counts([*inputs], f"{where}: {GATES_FIELD}")
    limits = StepLimits.parse(outside_keys[LIMITS_FIELD], f"{where}: {LIMITS_FIELD}")
    return Step(name, stage, stage.spec_type.parse(values, where), inputs, checks, limits)


def _known_stage(name: str, where: str) -> Stage:
    try:
        return stage_named(name)
    except RequestError as error:
        raise RequestError(f"{where}: {error}") from None


def _literals(spec: Spec | None) -> dict[str, Any]:
    return {} if spec is None else spec.literals()


def _given_values(step: StepDefaults, folder: Path) -> dict[str, Any] | None:
    """The spec's fields in a table or in a file, not checked yet; None where there is neither."""
    # A copy: --set changes the fields of one step, and several steps may share a section or a default.
    return read_toml(folder / step.spec) if isinstance(step.spec, str) else deepcopy(step.spec)


def _spec_values(step: StepSpec, context: _Context) -> dict[str, Any]:
    """The fields that a step has of its own; without ``spec`` they are the source's section named after the stage."""
    given = _given_values(step, context.folder)
    if given is not None:
        return given
    source = context.source
    section: dict[str, Any] | None = getattr(source, step.stage, None)
    if source is None or section is None:
        return {}
    values = deepcopy(section)
    if source.expected_rows and step.stage in ROW_COUNTING_STAGES:
        # setdefault: a section that names a number for its own stage keeps it.
        values.setdefault("expected_rows", source.expected_rows)
    return values


def _set_field(values: dict[str, Any], field: list[str], value: Any, where: str) -> None:
    for part in field[:-1]:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise RequestError(f"--set {'.'.join(field)}={value}: {where}: '{part}' is {values!r} and has no fields")
    values[field[-1]] = value


def _resolve_references(given: str | list[str], role: str, context: _Context, where: str) -> str | list[str]:
    if isinstance(given, list):
        return [_resolve_reference(reference, role, context, where) for reference in given]
    return _resolve_reference(given, role, context, where)


def _resolve_reference(given: str, role: str, context: _Context, where: str) -> str:
    """Paths become absolute: those of the pipeline file from its folder, those of the source from the source's."""
    if given.startswith(FILE_PREFIX):
        own_path = fill_template(given.removeprefix(FILE_PREFIX), context.partition, where)
        # Absolute, so that a rerun from another folder finds the file; only its contents enter a key.
        return FILE_PREFIX + str((context.folder / own_path).resolve())
    if given != SOURCE_WORD:
        return given
    field = role if role in SOURCE_FIELDS else SOURCE_FIELDS[0]
    path: str | None = getattr(context.source, field, None)
    if path is None:
        raise RequestError(f"{where}: the input 'source' needs `{field} = ...` in the source file")
    filled = Path(fill_template(path, context.partition, where)).expanduser()
    return FILE_PREFIX + str((context.source_folder / filled).resolve())


def _topological_order(steps: list[Step], path: Path) -> list[Step]:
    by_name: dict[str, Step] = {}
    for step in steps:
        if step.name in by_name:
            raise RequestError(f"{path}: two steps are named '{step.name}'; give one a name of its own")
        by_name[step.name] = step
    done: dict[str, Step] = {}
    trail: list[str] = []

    def visit(name: str, reader: str) -> None:
        if name in done:
            return
        if name not in by_name:
            raise RequestError(f"{path}: step '{reader}' reads '{name}', which is no step; there are {sorted(by_name)}")
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
