"""Stages: a versioned function of (spec, input artifacts, folder) becomes an artifact under a key, made once."""

import importlib
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zscir.artifacts import Artifact, make_key
from zscir.errors import RequestError
from zscir.specs import Spec, canonical_json
from zscir.store import Store

Facts = dict[str, Any]
Inputs = Mapping[str, Artifact | list[Artifact]]


@dataclass(frozen=True)
class Role:
    """One input of a stage: its parameter name, whether it may be absent, whether it takes many artifacts."""

    name: str
    optional: bool
    many: bool


@dataclass(frozen=True)
class Stage:
    """A named, versioned function ``(spec, **inputs, out) -> facts``; call it bare to test it."""

    name: str
    version: int
    function: Callable[..., Facts]
    spec_type: type[Spec]
    roles: tuple[Role, ...]

    def __call__(self, *args: Any, **kwargs: Any) -> Facts:
        return self.function(*args, **kwargs)

    def check_inputs(self, given: Mapping[str, Any], where: str) -> None:
        """RequestError when a role is unknown, missing, or single where many are meant (or the reverse)."""
        allowed = {role.name: role for role in self.roles}
        for name, value in given.items():
            if name not in allowed:
                raise RequestError(f"{where}: stage {self.name} has no input '{name}'; it has {sorted(allowed)}")
            if isinstance(value, list) != allowed[name].many:
                raise RequestError(
                    f"{where}: input '{name}' takes {'a list' if allowed[name].many else 'one'} of steps"
                )
        for role in self.roles:
            if not role.optional and role.name not in given:
                raise RequestError(f"{where}: stage {self.name} needs the input '{role.name}'")


@dataclass(frozen=True)
class Made:
    """What materialize gives: the artifact, and whether it was ``made`` or ``reused``."""

    artifact: Artifact
    outcome: str


def stage(version: int) -> Callable[[Callable[..., Facts]], Stage]:
    """Declare a stage; its name is the function's, its roles are the parameters between ``spec`` and ``out``."""

    def declare(function: Callable[..., Facts]) -> Stage:
        hints = typing.get_type_hints(function)
        names = list(inspect.signature(function).parameters)
        if names[0] != "spec" or "out" not in names:
            raise TypeError(f"{function.__name__}: a stage takes (spec, inputs..., out)")
        roles = tuple(_role(name, hints[name]) for name in names if name not in ("spec", "out"))
        return Stage(function.__name__, version, function, hints["spec"], roles)

    return declare


def _role(name: str, hint: Any) -> Role:
    optional = isinstance(hint, types.UnionType) and type(None) in typing.get_args(hint)
    return Role(name, optional, typing.get_origin(hint) is list)


def stage_named(name: str) -> Stage:
    """The stage in ``zscir/stages/<name>.py``; RequestError names the stages that exist."""
    if name not in stage_names():
        raise RequestError(f"no stage '{name}'; the stages are {', '.join(stage_names())}")
    module = importlib.import_module(f"zscir.stages.{name}")
    found: Stage = getattr(module, name)
    return found


def stage_names() -> list[str]:
    """The names of all stages, sorted; their modules are not imported."""
    return sorted(path.stem for path in (Path(__file__).parent / "stages").glob("[a-z]*.py"))


def flat_inputs(inputs: Inputs) -> dict[str, Artifact]:
    """Role -> artifact, where the n-th artifact of a role that takes many has the role ``name.n``."""
    flat: dict[str, Artifact] = {}
    for role, value in inputs.items():
        if isinstance(value, list):
            flat.update({f"{role}.{number}": one for number, one in enumerate(value)})
        else:
            flat[role] = value
    return flat


def key_of(stage: Stage, spec: Spec, inputs: Inputs) -> str:
    """The key of what ``stage`` would make of ``spec`` and ``inputs``."""
    digests = {role: one.digest for role, one in flat_inputs(inputs).items()}
    return make_key(stage.name, stage.version, spec, digests)


def materialize(store: Store, stage: Stage, spec: Spec, inputs: Inputs) -> Made:
    """The artifact of (stage, spec, inputs): the one in the store if it is whole, else made and committed now."""
    key = key_of(stage, spec, inputs)
    found = store.look(stage.name, key)
    if found.artifact is not None:
        return Made(found.artifact, "reused")
    with store.work_folder(stage.name, key) as folder:
        found = store.look(stage.name, key)
        if found.artifact is not None:
            return Made(found.artifact, "reused")
        facts = stage.function(spec, **inputs, out=folder)
        canonical_json(facts)
        artifact = store.commit(folder, stage.name, stage.version, key, spec, flat_inputs(inputs), facts)
    return Made(artifact, "made")
