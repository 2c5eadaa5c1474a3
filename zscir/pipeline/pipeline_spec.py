"""The schema of pipeline files and source files, and how ``[defaults.STAGE]`` fills the steps of a stage."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from zscir.pipeline.checks import QualityChecks
from zscir.pipeline.limits import Limits, StepLimits
from zscir.pipeline.stage import stage_named, stage_names
from zscir.runtime.errors import RequestError, did_you_mean
from zscir.runtime.specs import Spec


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
    # Sections of stages: the spec of a step of that stage that gives none itself. Their stages check them.
    tabletop: dict[str, Any] | None = None
    ingest: dict[str, Any] | None = None
    download: dict[str, Any] | None = None
    import_images: dict[str, Any] | None = None
    import_shards: dict[str, Any] | None = None


class StepDefaults(Spec):
    """``[defaults.STAGE]``: what every step of a stage gets where the step says nothing itself.

    ``spec``, ``inputs``, ``gates`` and ``limits`` are filled field by field, and a field is the unit: where a step has
    ``weights`` or the input ``gallery`` of its own, the default's is not looked at; lists and tables inside a field are
    not merged. The fields that a step takes from its spec's file, or from the source's section, are its own.
    """

    spec: str | dict[str, Any] | None = None
    inputs: dict[str, str | list[str]] = Field(default_factory=dict)
    # Beside ``spec``, not in it: gates and limits enter no key.
    gates: QualityChecks | None = None
    limits: StepLimits | None = None


class StepSpec(StepDefaults):
    """One step: a stage, its spec (a table, a TOML path, or the source's section of that name) and its inputs."""

    name: str | None = None
    stage: str


class PipelineSpec(Spec):
    """A pipeline file. ``set`` values change single fields of it without a copy.

    ``file:`` inputs and the source's ``urls`` may hold ``{date}`` or ``{shard}`` (zscir/pipeline/partitions.py).
    """

    name: str
    about: str | None = None
    source: str | None = None
    limits: Limits | None = None
    dispatch: dict[str, Annotated[str, Field(min_length=1)]] | None = None
    defaults: dict[str, StepDefaults] = Field(default_factory=dict)
    steps: tuple[StepSpec, ...]


def fill_fields(own: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """``own`` and the fields of ``defaults`` that it lacks; no field is merged with another."""
    # Not deeper than fields: a list of benchmarks that is half the default's would be a riddle to its reader.
    return {**own, **{name: value for name, value in defaults.items() if name not in own}}


def check_defaults(spec: PipelineSpec, where: str) -> None:
    """RequestError for defaults of an unknown stage, of one that no step has, and for unknown spec fields and inputs.

    Without this check a misspelt name would be found in the steps that it fills, and not in the table that holds it.
    """
    used = sorted({step.stage for step in spec.steps})
    for name, defaults in spec.defaults.items():
        table = f"{where}: [defaults.{name}]"
        if name not in stage_names():
            known = ", ".join(stage_names())
            raise RequestError(f"{table}: no stage '{name}'; the stages are {known}{did_you_mean(name, stage_names())}")
        if name not in used:
            raise RequestError(f"{table}: no step of this stage; the steps' stages are {', '.join(used)}")
        stage = stage_named(name)
        # A spec in a file is not read here: its fields are checked in the steps that it fills.
        if isinstance(defaults.spec, dict):
            _check_known(defaults.spec, stage.spec_type.model_fields, f"{table}: unknown key 'spec.{{}}'")
        _check_known(defaults.inputs, [role.name for role in stage.roles], f"{table}: no input '{{}}'")


def _check_known(given: Mapping[str, Any], known: Mapping[str, Any] | list[str], problem: str) -> None:
    for name in given:
        if name not in known:
            allowed = ", ".join(sorted(known)) or "none"
            raise RequestError(f"{problem.format(name)}; allowed: {allowed}{did_you_mean(name, known)}")
