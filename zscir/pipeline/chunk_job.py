"""Send chunks between processes: a chunk as a JSON job, and its result or failure back; only keys and paths travel."""

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


def chunk_job_for(store: Store, chunk: Chunk) -> ChunkJob:
    """All that another process needs to make ``chunk``: the store's address, stage, spec, and where its inputs lie.

    StageError when an input lies outside the store.
    """
    return {
        "store": store.location,
        "name": chunk.name,
        "stage": chunk.stage.name,
        "spec": chunk.spec.literals(),
        "inputs": {
            role: [_address(artifact) for artifact in value] if isinstance(value, list) else _address(value)
            for role, value in chunk.inputs.items()
        },
        "terms": vars(chunk.retry_policy),
    }


def load_chunk_job(job: ChunkJob) -> tuple[Store, Chunk]:
    """The store and the chunk of a job; RequestError when this version knows no such stage, spec or input."""
    store = _store(job["store"])
    stage = stage_named(job["stage"])
    inputs = {
        role: [_artifact(store, address) for address in value] if isinstance(value, list) else _artifact(store, value)
        for role, value in job["inputs"].items()
    }
    spec = stage.spec_type.parse(job["spec"], f"job of {job['stage']} {job['name']}")
    return store, Chunk(job["name"], stage, spec, inputs, RetryPolicy(**job["terms"]))


# A worker gets one job per chunk; the caches keep it from opening the store, and reading the same manifest, each time.
@lru_cache(maxsize=4)
def _store(uri: str) -> Store:
    return open_store(Settings.from_env(uri))


@lru_cache(maxsize=64)
def _stored_artifact(store: Store, stage: str, key: str) -> Artifact:
    return store.get(stage, key)


def _address(artifact: Artifact) -> dict[str, Any]:
    source = artifact.source
    if isinstance(source, SingleFileSource):
        # One file of an artifact has no key in the store: it travels as its artifact's address and its name.
        return {**_address(source.artifact), "only": source.name, "path": next(iter(artifact.entries))}
    if isinstance(source, FolderSource):
        if not is_shipped_spec(source.root):
            raise StageError(f"{source.root}: files outside the store cannot be handed to another process")
        # Relative: the other machine's installation lies in another folder.
        root = source.root.resolve().relative_to(data_specs().resolve())
        return {"shipped": root.as_posix(), "files": artifact.files()}
    return {"stage": artifact.stage, "key": artifact.key}


def _artifact(store: Store, address: dict[str, Any]) -> Artifact:
    if "shipped" in address:
        return _shipped_files(address["shipped"], address["files"])
    whole = _stored_artifact(store, address["stage"], address["key"])
    return whole.single_file(address["only"], address["path"]) if "only" in address else whole


def _shipped_files(folder: str, names: list[str]) -> Artifact:
    """The files of that name that this machine's installation ships; other contents would give another key."""
    root = data_specs() / folder
    is_shipped = is_shipped_spec(root) and root.is_dir()
    found = [entry for entry in scan_folder(root) if entry.path in names] if is_shipped else []
    if len(found) != len(names):
        raise StageError(
            f"{root}: this machine's zscir does not have the files {names}; give it the version of the run"
        )
    return Artifact.of_entries(root, found)


class ChunkFailed(StageError):
    """A failed chunk as an exception, since Prefect marks only a task that raises as failed; it carries the result."""

    def __init__(self, result: ChunkResult) -> None:
        super().__init__(result.error or "failed")
        self.result = result

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are pickled by their ``args``, which would give the message back in place of the result.
        return ChunkFailed, (self.result,)


def run_chunk_job(job: ChunkJob) -> ChunkResult:
    """Make or reuse the chunk of a job in this process; ChunkFailed where it failed."""
    result = run_chunk(*load_chunk_job(job))
    if result.key is None:
        raise ChunkFailed(result)
    return result


def chunk_result_of(chunk: Chunk, returned: object) -> ChunkResult:
    """What became of ``chunk``, from what its task returned or raised; the task may have been lost with its worker."""
    if isinstance(returned, ChunkResult):
        return returned
    if isinstance(returned, ChunkFailed):
        return returned.result
    # Anything else came from around the chunk: a worker that was killed, or a job that its version cannot read.
    error = f"{type(returned).__name__}: {returned}"
    return ChunkResult(
        name=chunk.name,
        stage=chunk.stage.name,
        key=None,
        outcome="failed",
        started_at=datetime.now(UTC),
        wall_s=0.0,
        worker="",
        error=error,
        out_of_memory=is_out_of_memory(returned),
    )
