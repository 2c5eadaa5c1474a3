"""Tickets: a piece becomes JSON that another process or machine can make it from; only keys and paths travel."""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from zscir.pipeline.stage import Chunk, ChunkResult, run_chunk, stage_named
from zscir.runtime.errors import StageError
from zscir.runtime.retries import RetryPolicy, is_out_of_memory
from zscir.runtime.settings import Settings, data_specs, is_shipped_spec
from zscir.store.artifacts import Artifact, FolderSource, SingleFileSource, scan_folder
from zscir.store.store import Store, open_store

ChunkJob = dict[str, Any]


def chunk_job_for(store: Store, piece: Chunk) -> ChunkJob:
    """All that another process needs to make ``piece``: the store's address, stage, spec, and where its inputs lie."""
    return {
        "store": store.location,
        "name": piece.name,
        "stage": piece.stage.name,
        "spec": piece.spec.literals(),
        "inputs": {
            role: [_address(one) for one in value] if isinstance(value, list) else _address(value)
            for role, value in piece.inputs.items()
        },
        "terms": vars(piece.terms),
    }


def run_chunk_job(ticket: ChunkJob) -> ChunkResult:
    """Make or reuse the piece of a ticket, in whatever process this is."""
    return run_chunk(*load_chunk_job(ticket))


def load_chunk_job(ticket: ChunkJob) -> tuple[Store, Chunk]:
    """The store and the piece of a ticket; RequestError when its spec, or an input, is none that is known here."""
    store = _store(ticket["store"])
    stage = stage_named(ticket["stage"])
    inputs = {
        role: [_artifact(store, one) for one in value] if isinstance(value, list) else _artifact(store, value)
        for role, value in ticket["inputs"].items()
    }
    spec = stage.spec_type.parse(ticket["spec"], f"ticket of {ticket['stage']} {ticket['name']}")
    return store, Chunk(ticket["name"], stage, spec, inputs, RetryPolicy(**ticket["terms"]))


@lru_cache(maxsize=4)
def _store(uri: str) -> Store:
    return open_store(Settings.from_env(uri))


def _address(artifact: Artifact) -> dict[str, Any]:
    source = artifact.source
    if isinstance(source, SingleFileSource):
        return {**_address(source.whole), "only": source.name, "path": next(iter(artifact.entries))}
    if isinstance(source, FolderSource):
        if not is_shipped_spec(source.root):
            raise StageError(f"{source.root}: files outside the store cannot be handed to another process")
        root = source.root.resolve().relative_to(data_specs().resolve())
        return {"shipped": root.as_posix(), "files": artifact.files()}
    return {"stage": artifact.stage, "key": artifact.key}


@lru_cache(maxsize=64)
def _stored_artifact(store: Store, stage: str, key: str) -> Artifact:
    return store.get(stage, key)


def _artifact(store: Store, address: dict[str, Any]) -> Artifact:
    if "shipped" in address:
        return _shipped_files(address["shipped"], address["files"])
    whole = _stored_artifact(store, address["stage"], address["key"])
    return whole.only(address["only"], address["path"]) if "only" in address else whole


def _shipped_files(folder: str, names: list[str]) -> Artifact:
    """The same shipped files on this machine; that they hold the same is seen by the key that comes out."""
    root = data_specs() / folder
    found = (
        [entry for entry in scan_folder(root) if entry.path in names] if is_shipped_spec(root) and root.is_dir() else []
    )
    if len(found) != len(names):
        raise StageError(
            f"{root}: this machine's zscir does not have the files {names}; give it the version of the run"
        )
    return Artifact.of_entries(root, found)


class ChunkFailed(StageError):
    """A piece that failed, raised where a task has to fail to be seen; it carries what is known of it."""

    def __init__(self, done: ChunkResult) -> None:
        super().__init__(done.error or "failed")
        self.done = done

    def __reduce__(self) -> tuple[Any, ...]:
        return ChunkFailed, (self.done,)


def run_chunk_job_or_raise(ticket: ChunkJob) -> ChunkResult:
    """Make the piece of a ticket; PieceFailed where it failed."""
    done = run_chunk_job(ticket)
    if done.key is None:
        raise ChunkFailed(done)
    return done


def chunk_result_of(piece: Chunk, result: object) -> ChunkResult:
    """What became of ``piece``, from what its task returned or raised; it may have been lost with its worker."""
    if isinstance(result, ChunkResult):
        return result
    if isinstance(result, ChunkFailed):
        return result.done
    lost = f"{type(result).__name__}: {result}"
    what = piece.name, piece.stage.name, None, "failed", datetime.now(UTC), 0.0, "", lost
    return ChunkResult(*what, out_of_memory=is_out_of_memory(result))
