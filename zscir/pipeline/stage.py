"""Stages: a versioned function of (spec, input artifacts, folder) becomes an artifact under a key, made once.

A heavy stage may be cut: it names its pieces in rounds, each an ordinary stage with an ordinary key, so that a failure
or a changed row costs one piece; then it joins them. Who makes the pieces, here or elsewhere, is given from above.
"""

import importlib
import inspect
import shutil
import time
import types
import typing
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from zscir.lineage.environment import redact, worker_name
from zscir.runtime.errors import RequestError, StageError, ZscirError
from zscir.runtime.progress import log_info
from zscir.runtime.retries import RetryPolicy, is_out_of_memory, with_retries
from zscir.runtime.specs import Spec, canonical_json
from zscir.store.artifacts import Artifact, Facts, FileEntry, make_key
from zscir.store.leases import LeaseLost
from zscir.store.store import Store
from zscir.store.touch import touch_artifact

Inputs = Mapping[str, Artifact | list[Artifact]]
CHUNK_STAGES = frozenset({"plan_download", "fetch_chunk", "list_failed"})  # called by another stage, never as a step
SKIPPED = "skipped"  # the outcome of a piece that was not begun: the time for it was over


@dataclass(frozen=True)
class InputRole:
    """One input of a stage: its parameter name, whether it may be absent, whether it takes many artifacts."""

    name: str
    optional: bool
    many: bool


@dataclass(frozen=True)
class Stage:
    """A named, versioned function ``(spec, **inputs, out) -> facts``; call it bare to test it.

    ``cut`` gives the rounds of its pieces, which ``function`` then takes as ``pieces``; the files of pieces that end
    in ``lends`` become files of the joined artifact without a copy: ``00003.tar`` is that of the fourth piece.
    """

    name: str
    own_version: int
    function: Callable[..., Facts]
    spec_type: type[Spec]
    roles: tuple[InputRole, ...]
    cut: "Callable[..., ChunkRounds] | None" = None
    cut_into: tuple[str, ...] = ()
    lends: str = ""

    @property
    def version(self) -> int:
        """Its own version; that of a stage that is cut moves with the versions of the stages of its pieces."""
        return self.own_version + sum(stage_named(name).version for name in self.cut_into)

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
class StageResult:
    """What materialize gives: the artifact, and whether it was ``made`` or ``reused``."""

    artifact: Artifact
    outcome: str


@dataclass(frozen=True)
class Chunk:
    """One call of a stage on behalf of a stage that is cut; ``name`` tells it from the others of its round."""

    name: str
    stage: Stage
    spec: Spec
    inputs: Inputs
    terms: RetryPolicy = field(default_factory=RetryPolicy)


@dataclass(frozen=True)
class ChunkResult:
    """What became of a piece: its key, or the error that stopped it."""

    name: str
    stage: str
    key: str | None
    outcome: str  # made, reused, failed or skipped
    started_at: datetime
    wall_s: float
    worker: str
    error: str | None = None
    attempts: int = 1
    out_of_memory: bool = False


ChunkRounds = Generator[list[Chunk], list[Artifact], list[Artifact]]
ChunkMapper = Callable[[Store, Sequence[Chunk]], Iterator[ChunkResult]]


def stage(
    version: int, cut: Callable[..., ChunkRounds] | None = None, into: tuple[str, ...] = (), lends: str = ""
) -> Callable[[Callable[..., Facts]], Stage]:
    """Declare a stage; its name is the function's, its roles are the parameters between ``spec`` and ``out``."""

    def declare(function: Callable[..., Facts]) -> Stage:
        hints = typing.get_type_hints(function)
        names = list(inspect.signature(function).parameters)
        if names[0] != "spec" or "out" not in names:
            raise TypeError(f"{function.__name__}: a stage takes (spec, inputs..., out)")
        roles = tuple(_input_role(name, hints[name]) for name in names if name not in ("spec", "pieces", "out"))
        return Stage(function.__name__, version, function, hints["spec"], roles, cut, into, lends)

    return declare


def _input_role(name: str, hint: Any) -> InputRole:
    optional = isinstance(hint, types.UnionType) and type(None) in typing.get_args(hint)
    return InputRole(name, optional, typing.get_origin(hint) is list)


def stage_named(name: str) -> Stage:
    """The stage in ``zscir/stages/<name>.py``; RequestError names the stages that exist."""
    if name not in stage_names():
        raise RequestError(f"no stage '{name}'; the stages are {', '.join(stage_names())}")
    module = importlib.import_module(f"zscir.stages.{name}")
    found: Stage = getattr(module, name)
    return found


def stage_names() -> list[str]:
    """The names of all stages, sorted; their modules are not imported."""
    return sorted(path.stem for path in (Path(__file__).parents[1] / "stages").glob("[a-z]*.py"))


def step_stage_names() -> list[str]:
    """The names of the stages that a step of a pipeline may have, sorted."""
    return [name for name in stage_names() if name not in CHUNK_STAGES]


def flatten_inputs(inputs: Inputs) -> dict[str, Artifact]:
    """Role -> artifact, where the n-th artifact of a role that takes many has the role ``name.n``."""
    flat: dict[str, Artifact] = {}
    for role, value in inputs.items():
        if isinstance(value, list):
            flat.update({f"{role}.{number}": one for number, one in enumerate(value)})
        else:
            flat[role] = value
    return flat


def stage_key(stage: Stage, spec: Spec, inputs: Inputs) -> str:
    """The key of what ``stage`` would make of ``spec`` and ``inputs``."""
    digests = {role: one.digest for role, one in flatten_inputs(inputs).items()}
    return make_key(stage.name, stage.version, spec, digests)


def materialize(
    store: Store, stage: Stage, spec: Spec, inputs: Inputs, mapper: ChunkMapper | None = None
) -> StageResult:
    """The artifact of (stage, spec, inputs): the one in the store if it is whole, else made and committed now.

    ``mapper`` makes the pieces of a stage that is cut; without one they are made here, one after another.
    """
    key = stage_key(stage, spec, inputs)
    found = store.look(stage.name, key)
    if found.artifact is not None and touch_artifact(store, found.artifact):
        return StageResult(found.artifact, "reused")
    while True:
        try:
            return _make(store, stage, spec, inputs, mapper, key)
        except LeaseLost as lost:  # what the other machine makes is waited for and reused
            log_info(f"{stage.name} {key[:12]}: {lost}")


def _make(store: Store, stage: Stage, spec: Spec, inputs: Inputs, mapper: ChunkMapper | None, key: str) -> StageResult:
    with store.work_folder(stage.name, key) as folder:
        found = store.look(stage.name, key)
        if found.artifact is not None:
            shutil.rmtree(folder)  # whoever had the key meanwhile made it
            return StageResult(found.artifact, "reused")
        lent: list[FileEntry] = []
        if stage.cut is None:
            facts = stage.function(spec, **inputs, out=folder)
        else:
            pieces = _run_rounds(store, stage.cut(spec, **inputs), mapper or map_sequentially)
            lent = [
                entry for number, piece in enumerate(pieces) for entry in _shared_entries(piece, number, stage.lends)
            ]
            facts = stage.function(spec, **inputs, pieces=pieces, out=folder)
        canonical_json(facts)
        artifact = store.commit(folder, stage.name, stage.version, key, spec, flatten_inputs(inputs), facts, lent)
    return StageResult(artifact, "made")


def map_sequentially(store: Store, pieces: Sequence[Chunk]) -> Iterator[ChunkResult]:
    """Make the pieces here, one after another."""
    return (run_chunk(store, piece) for piece in pieces)


def run_chunk(store: Store, piece: Chunk) -> ChunkResult:
    """Make or reuse one piece. A failure is told, not raised: the pieces beside it go on."""
    began, clock = datetime.now(UTC), time.monotonic()

    attempts = 0

    def count(number: int) -> None:
        nonlocal attempts
        attempts = number

    def done(key: str | None, outcome: str, error: str | None = None, out_of_memory: bool = False) -> ChunkResult:
        wall_s, name = time.monotonic() - clock, piece.stage.name
        who = worker_name()
        return ChunkResult(piece.name, name, key, outcome, began, wall_s, who, error, attempts, out_of_memory)

    if piece.terms.over:
        return done(None, SKIPPED, "not begun: the time for it was over")
    what = f"{piece.stage.name} {piece.name}"
    try:
        made = with_retries(lambda: materialize(store, piece.stage, piece.spec, piece.inputs), piece.terms, count, what)
    except Exception as error:  # noqa: BLE001 - whatever a stage raises is its piece's error, and is told whole
        words = str(error) if isinstance(error, ZscirError) else f"{type(error).__name__}: {error}"
        return done(None, "failed", str(redact(words))[:2000], is_out_of_memory(error))
    return done(made.artifact.key, made.outcome)


def _run_rounds(store: Store, rounds: ChunkRounds, mapper: ChunkMapper) -> list[Artifact]:
    """Walk the rounds of a stage that is cut; a lone piece, such as a plan, is made here at once."""
    asked = next(rounds)
    while True:
        done = list((mapper if len(asked) > 1 else map_sequentially)(store, asked))
        failed = [one for one in done if one.key is None]
        if failed:
            raise StageError(_explain(failed, len(asked)))
        keys = {one.name: one.key for one in done}
        try:
            asked = rounds.send([store.get(piece.stage.name, str(keys[piece.name])) for piece in asked])
        except StopIteration as stop:
            pieces: list[Artifact] = stop.value
            return pieces


def _explain(failed: list[ChunkResult], asked: int) -> str:
    first = sorted(failed, key=lambda one: one.name)[:3]
    lines = "; ".join(f"{one.stage} {one.name}: {one.error}" for one in first)
    return f"{len(failed)} of {asked} pieces failed, the others are kept: {lines}"


def _shared_entries(piece: Artifact, number: int, suffix: str) -> list[FileEntry]:
    names = piece.files(suffix) if suffix else []
    if len(names) > 1:
        raise StageError(f"{piece.stage}/{piece.key[:12]}: more than one file ends in {suffix}: {names[:3]}")
    return [piece.entries[name].lent(piece, f"{number:05d}{suffix}") for name in names]
