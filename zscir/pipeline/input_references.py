"""Input references: the name of an earlier step, ``file:`` and a path, or the word ``source``."""

from pathlib import Path

from zscir.runtime.settings import Settings
from zscir.store.artifacts import Artifact
from zscir.store.file_hashes import hash_files_cached

FILE_PREFIX = "file:"


def external_input(reference: str) -> Artifact:
    """The artifact-like view of a ``file:`` input: a file, a folder or a glob; it enters keys by its contents."""
    return hash_files_cached(external_paths(reference), reference.removeprefix(FILE_PREFIX), Settings.from_env().cache)


def external_paths(reference: str) -> list[Path]:
    """What a ``file:`` input names, sorted; empty when nothing of that name is there."""
    path = Path(reference.removeprefix(FILE_PREFIX))
    # Before it is taken as a pattern: a file may be called "run[1].csv".
    if path.exists():
        return [path]
    return sorted(path.parent.glob(path.name)) if any(sign in path.name for sign in "*?[") else []
