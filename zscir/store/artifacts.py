"""Artifacts: immutable sets of files, closed by a manifest that is written last.

A store is a local folder or ``s3://bucket/prefix``. Without a manifest there is no artifact: what a killed process
leaves behind is invisible to readers, and the next attempt resumes from it or removes it.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from errno import EINVAL, ENOTSUP
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError, field_validator

from zscir.runtime.errors import RequestError, StageError
from zscir.runtime.specs import Spec, canonical_json, json_digest
from zscir.store.list_files import list_files, sha256_of

MANIFEST = "manifest.json"
MANIFEST_FORMAT = 1
# What a stage reports about its artifact: counts and measures as JSON values.
Facts = dict[str, Any]


class DamagedManifest(RequestError):
    """A manifest that cannot be read or belongs to another key; its artifact counts as missing."""


class FileEntry(Spec):
    """One file of an artifact: its name inside the folder, size in bytes and SHA-256.

    ``home`` (``stage/key/name``) is where its bytes are when another artifact of the store holds them; it is no part of
    the digest, since the bytes are the same.
    """

    path: str
    size: int
    sha256: str
    home: str | None = None

    @field_validator("path", "home")
    @classmethod
    def _stays_inside(cls, value: str | None) -> str | None:
        if value is None:
            return None
        name = PurePosixPath(value)
        odd = "\\" in value or "\0" in value or name.as_posix() != value
        if odd or not name.parts or name.is_absolute() or ".." in name.parts:
            raise ValueError("a file name must stay inside its artifact")
        return value

    @field_validator("home")
    @classmethod
    def _names_a_file_of_the_store(cls, value: str | None) -> str | None:
        # The store's own folders (``.work``, ``.leases``) begin with a dot and hold no artifact.
        if value is not None and (len(PurePosixPath(value).parts) < 3 or value.startswith(".")):
            raise ValueError("a home is stage/key/name")
        return value

    def shared_from(self, artifact: "Artifact", path: str) -> "FileEntry":
        """An entry for another artifact, named ``path``, that shares this file of ``artifact`` without a copy."""
        # A shared file shared again keeps its first home, so no reader follows a chain.
        home = self.home or f"{artifact.stage}/{artifact.key}/{self.path}"
        return FileEntry(path=path, size=self.size, sha256=self.sha256, home=home)


class InputEntry(Spec):
    """One input of an artifact: its stage and key, and the digest of its contents, which enters the key."""

    stage: str
    key: str
    digest: str


class Manifest(Spec):
    """The description of an artifact. Nothing in it depends on when, where or how fast the artifact was made."""

    format: int = MANIFEST_FORMAT
    stage: str
    stage_version: int
    key: str
    digest: str
    spec: dict[str, Any]
    inputs: dict[str, InputEntry]
    files: tuple[FileEntry, ...]
    facts: dict[str, Any]


@dataclass(frozen=True)
class Artifact:
    """An immutable set of files; ``source`` copies a file to this machine where it is not on it."""

    stage: str
    key: str
    digest: str
    entries: dict[str, FileEntry]
    facts: dict[str, Any] = field(default_factory=dict)
    # Or a Store, which cannot be named here: store.py imports this module.
    source: "FolderSource | Any" = None
    manifest: Manifest | None = None

    @classmethod
    def of_folder(cls, path: Path | str) -> "Artifact":
        """A view of plain files on disk, as external inputs and tests have them; its key is its digest."""
        root = Path(path)
        if not root.exists():
            raise RequestError(f"{root}: no such file or folder")
        return cls.of_entries(root, scan_folder(root)) if root.is_dir() else cls.of_files([root], str(root))

    @classmethod
    def of_files(cls, paths: list[Path], where: str) -> "Artifact":
        """A view of files of one folder; RequestError when there are none."""
        if not paths:
            raise RequestError(f"{where}: no file matches")
        return cls.of_entries(paths[0].parent, scan_folder(paths[0].parent, paths))

    @classmethod
    def of_entries(cls, root: Path, entries: list[FileEntry]) -> "Artifact":
        """A view of files of one folder whose sizes and digests are known."""
        digest = digest_of_files(entries)
        return cls("file", digest, digest, {entry.path: entry for entry in entries}, source=FolderSource(root))

    def files(self, suffix: str = "") -> list[str]:
        """The names that end in ``suffix``, sorted; from the manifest, never from a listing."""
        return sorted(name for name in self.entries if name.endswith(suffix))

    def single_file(self, name: str, path: str) -> "Artifact":
        """One file, named ``path``, as an input: the key of its reader does not depend on the other files."""
        if name not in self.entries:
            raise RequestError(f"artifact {self.stage}/{self.key[:12]} has no file {name!r}; it has {self.files()[:8]}")
        entry = self.entries[name].model_copy(update={"path": path})
        return Artifact(
            self.stage, self.key, digest_of_files([entry]), {path: entry}, source=SingleFileSource(self, name)
        )

    def path(self, name: str) -> Path:
        """A local path of one file; RequestError if the artifact has no such file."""
        if name not in self.entries:
            raise RequestError(f"artifact {self.stage}/{self.key[:12]} has no file {name!r}; it has {self.files()[:8]}")
        local: Path = self.source.fetch(self, self.entries[name])
        return local


@dataclass(frozen=True)
class FolderSource:
    """Files that are on this machine already."""

    root: Path

    def fetch(self, artifact: Artifact, entry: FileEntry) -> Path:
        """The path itself."""
        return self.root / entry.path


@dataclass(frozen=True)
class SingleFileSource:
    """One file of an artifact, under another name."""

    artifact: Artifact
    name: str

    def fetch(self, artifact: Artifact, entry: FileEntry) -> Path:
        """Its path in the artifact that has it."""
        return self.artifact.path(self.name)


def digest_of_files(entries: list[FileEntry]) -> str:
    """The content digest of an artifact: SHA-256 over the sorted (name, size, SHA-256) of its files."""
    return json_digest(sorted([entry.path, entry.size, entry.sha256] for entry in entries))


def scan_folder(root: Path, paths: list[Path] | None = None) -> list[FileEntry]:
    """Hashed entries of the files under ``root`` (or of ``paths``) by name; ``list_files`` says which count."""
    return [
        FileEntry(path=name, size=found.st_size, sha256=sha256_of(path))
        for name, path, found in list_files(root, paths)
    ]


def check_file_types(root: Path) -> None:
    """StageError when a stage left a symbolic link or a manifest of its own in its folder."""
    for path in root.rglob("*"):
        if path.is_symlink():
            raise StageError(f"{path}: a stage may not leave a symbolic link in its folder")
    if (root / MANIFEST).exists():
        raise StageError(f"{root}: a stage may not write a file named {MANIFEST}")


def remove_partial_files(root: Path) -> None:
    """Remove half-written ``.part`` files; dot names stay, since a stage keeps there what it needs to resume."""
    for path in sorted(root.rglob("*.part")):
        if path.is_file() or path.is_symlink():
            path.unlink()


def remove_scratch_files(root: Path) -> None:
    """Remove everything that is no part of the artifact: ``.part`` files and dot names."""
    # Deepest names first: a dot name inside a folder that is removed already could not be removed any more.
    for path in sorted(root.rglob("*"), reverse=True):
        if path.name.startswith(".") or path.suffix == ".part":
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path; on success it is flushed to disk and renamed to ``path``, on failure removed.

    If ``path`` exists it is whole: a resumed stage may skip it.
    """
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield part
        # Flushed before the rename: after a power cut the name could otherwise be there without the bytes.
        fsync_path(part)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def fsync_path(path: Path) -> None:
    """Wait until a file (or a folder's list of names) is on the disk."""
    # Read only: a folder cannot be opened otherwise, and a flush needs no right to write.
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (EINVAL, ENOTSUP) or not path.is_dir():  # some network disks cannot flush a folder
            raise
    finally:
        os.close(handle)


def make_key(stage: str, version: int, spec: Spec, inputs: dict[str, str]) -> str:
    """The key of what a stage would make: a digest of its name, version, spec literals and input digests by role."""
    # ``parse_manifest`` computes this list, too: any change to it makes every artifact of every store unknown.
    return json_digest([stage, version, spec.literals(), inputs])


def parse_manifest(text: str, where: str) -> Manifest:
    """Parse and check a manifest.

    DamagedManifest when it is not one, or when its parts do not add up to its key and digest; RequestError when a newer
    zscir wrote it, so that its artifact is not overwritten.
    """
    # First: a newer manifest does not fit this model, and one that counts as damaged would be overwritten.
    _refuse_newer(text, where)
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        raise DamagedManifest(f"{where}: manifest damaged: {error.errors()[0]['msg']}") from None
    inputs = {role: entry.digest for role, entry in manifest.inputs.items()}
    if json_digest([manifest.stage, manifest.stage_version, manifest.spec, inputs]) != manifest.key:
        raise DamagedManifest(f"{where}: manifest damaged: its spec and inputs do not give its key")
    if digest_of_files(list(manifest.files)) != manifest.digest:
        raise DamagedManifest(f"{where}: manifest damaged: its files do not give its digest")
    return manifest


def _refuse_newer(text: str, where: str) -> None:
    try:
        values = json.loads(text)
    except ValueError:
        return
    found = values.get("format") if isinstance(values, dict) else None
    if isinstance(found, int) and found > MANIFEST_FORMAT:
        raise RequestError(
            f"{where}: manifest format {found}, this zscir reads up to {MANIFEST_FORMAT}; upgrade it, "
            "or use another store"
        )


def manifest_text(manifest: Manifest) -> str:
    """The text of a manifest; equal manifests give equal bytes."""
    values = manifest.model_dump(mode="json")
    # ``literals`` leaves ``home`` out where it is null: a manifest without shared files never mentions it.
    values["files"] = [entry.literals() for entry in manifest.files]
    return canonical_json(values) + "\n"


def store_folder_name(uri: str) -> str:
    """A short, stable folder name for a store's address (for caches and scratch folders)."""
    return sha256(uri.encode()).hexdigest()[:16]
