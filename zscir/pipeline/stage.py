"""Declare stages, versioned functions of (spec, input artifacts, folder), and make each artifact once under its key.

A heavy stage may be split: it names its chunks in rounds, each an ordinary stage with an ordinary key, so that a
failure or a changed row costs one chunk; then it joins them. A ``ChunkMapper`` decides where the chunks are made.
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
from functools import partial
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
MAX_ERROR_CHARS = 2000  # of an error in a row or a report; a worker's goes through the message of a Prefect state
SKIPPED = "skipped"  # the outcome of a chunk that was not begun because its deadline had passed


@dataclass(frozen=True)
class InputRole:
    """One input of a stage: its parameter name, whether it may be absent, whether it takes many artifacts."""

    name: str
    is_optional: bool
    is_list: bool


@dataclass(frozen=True)
class Stage:
    """A named, versioned function ``(spec, **inputs, out) -> facts``; call it bare to test it.

    ``split`` gives the rounds of its chunks, whose artifacts ``function`` takes as ``chunks``. Each chunk's file that
    ends in ``shared_suffix`` becomes a file of the joined artifact without a copy: ``00003.tar`` is the fourth chunk's.
    """

    name: str
    declared_version: int
    function: Callable[..., Facts]
    spec_type: type[Spec]
    roles: tuple[InputRole, ...]
    split: "Callable[..., ChunkRounds] | None" = None
    chunk_stages: tuple[str, ...] = ()
    shared_suffix: str = ""

    @property
    def version(self) -> int:
        """The declared version plus those of the stages of its chunks: a changed chunk stage re-keys the whole."""
        return self.declared_version + sum(stage_named(name).version for name in self.chunk_stages)

    def __call__(self, *args: Any, **kwargs: Any) -> Facts:
        return self.function(*args, **kwargs)

    def check_inputs(self, given: Mapping[str, Any], where: str) -> None:
        """RequestError when a role is unknown, missing, or single where many are meant (or the reverse)."""
        allowed = {role.name: role for role in self.roles}
        for name, value in given.items():
            if name not in allowed:
                raise RequestError(f"{where}: stage {self.name} has no input '{name}'; it has {sorted(allowed)}")
            if isinstance(value, list) != allowed[name].is_list:
                count = "a list" if allowed[name].is_list else "one"
                raise RequestError(f"{where}: input '{name}' takes {count} of steps")
        for role in self.roles:
            if not role.is_optional and role.name not in given:
                raise RequestError(f"{where}: stage {self.name} needs the input '{role.name}'")


@dataclass(frozen=True)
class StageResult:
    """What materialize gives: the artifact, and whether it was ``made`` or ``reused``."""

    artifact: Artifact
    outcome: str


@dataclass(frozen=True)
class Chunk:
    """One call of a stage on behalf of a stage that is split; ``name`` tells it from the others of its round."""

    name: str
    stage: Stage
    spec: Spec
    inputs: Inputs
    retry_policy: RetryPolicy = field(default_factory=RetryPolicy)


@dataclass(frozen=True)
class ChunkResult:
    """What became of a chunk: its key, or the error that stopped it. The record has a row of these fields."""

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
    version: int,
    split: Callable[..., ChunkRounds] | None = None,
    chunk_stages: tuple[str, ...] = (),
    shared_suffix: str = "",
) -> Callable[[Callable[..., Facts]], Stage]:
    """Declare a stage; its name is the function's, its roles are the parameters between ``spec`` and ``out``."""

    def declare(function: Callable[..., Facts]) -> Stage:
        # Resolves annotations that are strings, such as those of forward references.
        hints = typing.get_type_hints(function)
        names = list(inspect.signature(function).parameters)
        if names[0] != "spec" or "out" not in names:
            raise TypeError(f"{function.__name__}: a stage takes (spec, inputs..., out)")
        roles = tuple(_input_role(name, hints[name]) for name in names if name not in ("spec", "chunks", "out"))
        return Stage(function.__name__, version, function, hints["spec"], roles, split, chunk_stages, shared_suffix)

    return declare


def _input_role(name: str, hint: Any) -> InputRole:
    # ``X | None`` only: typing.Optional[X] is no UnionType, and would make the input a required one.
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
    # From the file names: importing all stages would cost every command the time of their libraries.
    return sorted(path.stem for path in (Path(__file__).parents[1] / "stages").glob("[a-z]*.py"))


def step_stage_names() -> list[str]:
    """The names of the stages that a step of a pipeline may have, sorted."""
    return [name for name in stage_names() if name not in CHUNK_STAGES]


def flatten_inputs(inputs: Inputs) -> dict[str, Artifact]:
    """Role -> artifact, where the n-th artifact of a role that takes many has the role ``name.n``."""
    flat: dict[str, Artifact] = {}
    for role, value in inputs.items():
        if isinstance(value, list):
            flat.update({f"{role}.{number}": artifact for number, artifact in enumerate(value)})
        else:
            flat[role] = value
    return flat


def stage_key(stage: Stage, spec: Spec, inputs: Inputs) -> str:
    """The key of what ``stage`` would make of ``spec`` and ``inputs``."""
    digests = {role: artifact.digest for role, artifact in flatten_inputs(inputs).items()}
    return make_key(stage.name, stage.version, spec, digests)


def materialize(
    store: Store, stage: Stage, spec: Spec, inputs: Inputs, mapper: ChunkMapper | None = None
) -> StageResult:
    """The artifact of (stage, spec, inputs): the one in the store if it is whole, else made and committed now.

    ``mapper`` makes the chunks of a stage that is split; without one they are made here, one after another.
    """
    key = stage_key(stage, spec, inputs)
    found = store.lookup(stage.name, key)
    # The touch keeps it from a concurrent gc; it fails where gc was faster, and then it is made again.
    if found.artifact is not None and touch_artifact(store, found.artifact):
        return StageResult(found.artifact, "reused")
    while True:
        try:
            return _make(store, stage, spec, inputs, mapper, key)
        except LeaseLost as lost:  # another machine took the key over: wait for it, and reuse its artifact
            log_info(f"{stage.name} {key[:12]}: {lost}")


def _make(store: Store, stage: Stage, spec: Spec, inputs: Inputs, mapper: ChunkMapper | None, key: str) -> StageResult:
    with store.work_folder(stage.name, key) as folder:
        found = store.lookup(stage.name, key)
        if found.artifact is not None:
            shutil.rmtree(folder)  # made by the process that held the key while this one waited for it
            return StageResult(found.artifact, "reused")
        shared: list[FileEntry] = []
        if stage.split is None:
            facts = stage.function(spec, **inputs, out=folder)
        else:
            chunks = _run_rounds(store, stage.split(spec, **inputs), mapper or map_sequentially)
            for number, chunk in enumerate(chunks):
                shared += _shared_entries(chunk, number, stage.shared_suffix)
            facts = stage.function(spec, **inputs, chunks=chunks, out=folder)
        canonical_json(facts)  # facts that are not JSON fail here, before anything is committed
        artifact = store.commit(folder, stage.name, stage.version, key, spec, flatten_inputs(inputs), facts, shared)
    return StageResult(artifact, "made")


def map_sequentially(store: Store, chunks: Sequence[Chunk]) -> Iterator[ChunkResult]:
    """Make the chunks in this process, one after another."""
    return (run_chunk(store, chunk) for chunk in chunks)


def run_chunk(store: Store, chunk: Chunk) -> ChunkResult:
    """Make or reuse one chunk. A failure is returned, not raised: the chunks beside it go on."""
    started_at, clock = datetime.now(UTC), time.monotonic()
    attempts = 0

    def count_attempt(number: int) -> None:
        nonlocal attempts
        attempts = number

    def result(key: str | None, outcome: str, error: str | None = None, out_of_memory: bool = False) -> ChunkResult:
        wall_s = time.monotonic() - clock
        made_by = worker_name()
        return ChunkResult(
            chunk.name, chunk.stage.name, key, outcome, started_at, wall_s, made_by, error, attempts, out_of_memory
        )

    if chunk.retry_policy.is_past_deadline:
        return result(None, SKIPPED, "not begun: the time for it was over")
    make = partial(materialize, store, chunk.stage, chunk.spec, chunk.inputs)
    try:
        made = with_retries(make, chunk.retry_policy, count_attempt, f"{chunk.stage.name} {chunk.name}")
    except Exception as error:  # noqa: BLE001 - whatever a stage raises is its chunk's error, and is reported whole
        message = str(error) if isinstance(error, ZscirError) else f"{type(error).__name__}: {error}"
        return result(None, "failed", str(redact(message))[:MAX_ERROR_CHARS], is_out_of_memory(error))
    return result(made.artifact.key, made.outcome)


def _run_rounds(store: Store, rounds: ChunkRounds, mapper: ChunkMapper) -> list[Artifact]:
    """The chunks to join, after all rounds of a stage that is split.

    A round of one chunk, such as a plan, is made in this process: sending it away would cost more than it does.
    """
    chunks = next(rounds)
    while True:
        # All of a round before the first failure is raised: what the others made is kept for the next attempt.
        results = list((mapper if len(chunks) > 1 else map_sequentially)(store, chunks))
        failed = [result for result in results if result.key is None]
        if failed:
            raise StageError(_explain_failures(failed, len(chunks)))
        # By name: chunks come back in the order in which they end, and those that ran out of memory last.
        keys = {result.name: str(result.key) for result in results}
        try:
            chunks = rounds.send([store.get(chunk.stage.name, keys[chunk.name]) for chunk in chunks])
        except StopIteration as stop:
            joined: list[Artifact] = stop.value
            return joined


def _explain_failures(failed: list[ChunkResult], total: int) -> str:
    first = sorted(failed, key=lambda result: result.name)[:3]
    lines = "; ".join(f"{result.stage} {result.name}: {result.error}" for result in first)
    return f"{len(failed)} of {total} chunks failed, the others are kept: {lines}"


def _shared_entries(chunk: Artifact, number: int, suffix: str) -> list[FileEntry]:
    names = chunk.files(suffix) if suffix else []
    # Two would get the same name in the whole.
    if len(names) > 1:
        raise StageError(f"{chunk.stage}/{chunk.key[:12]}: more than one file ends in {suffix}: {names[:3]}")
    return [chunk.entries[name].shared_from(chunk, f"{number:05d}{suffix}") for name in names]
