"""List the files of a store by stage and key, with sizes and dates, and read the manifests among them."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from zscir.runtime.errors import RequestError
from zscir.store.artifacts import MANIFEST, DamagedManifest, Manifest, parse_manifest
from zscir.store.storage_errors import translate_storage_errors
from zscir.store.store import Store

MANIFEST_READERS = 16  # manifests that are read at the same time
_KEY = re.compile(r"[0-9a-f]{64}")  # a SHA-256; folders such as lineage/RUN_ID or reports never look like that


@dataclass(frozen=True)
class ObjectStat:
    """One file of a store: its size in bytes, and its date by the store's clock."""

    size: int
    modified_at: datetime


@dataclass(frozen=True)
class StoredArtifact:
    """The files under one key of one stage, by name; they are an artifact if a manifest is among them."""

    stage: str
    key: str
    files: dict[str, ObjectStat]

    @property
    def manifest_date(self) -> datetime | None:
        """The date of the manifest; None where there is none."""
        manifest = self.files.get(MANIFEST)
        return None if manifest is None else manifest.modified_at

    @property
    def newest(self) -> datetime:
        """The date of the newest file; ``datetime.min`` where there is none."""
        return max((stat.modified_at for stat in self.files.values()), default=datetime.min.replace(tzinfo=UTC))

    @property
    def size(self) -> int:
        """All its bytes; a file shared from another artifact counts there."""
        return sum(stat.size for stat in self.files.values())


@dataclass(frozen=True)
class StoredManifest:
    """A manifest as it was read: its text, and what it says, or why it cannot be used."""

    text: str
    manifest: Manifest | None
    problem: str = ""
    input_keys: frozenset[str] = field(default_factory=frozenset)  # and the keys of artifacts that share files with it


def check_store_exists(store: Store) -> None:
    """RequestError when there is nothing at the store's address: more likely a typing mistake than an empty store."""
    with translate_storage_errors(store.uri):
        there = store.fs.exists(store.root) and bool(store.fs.ls(store.root, detail=False))
    if not there:
        raise RequestError(f"store {store.uri}: nothing lies there; check --store / ZSCIR_STORE")


def list_stored_artifacts(store: Store, stage: str | None = None) -> Iterator[StoredArtifact]:
    """The files under every key of the store, or of one stage, sorted; all other folders are skipped."""
    for name in store.list_folders() if stage is None else [stage]:
        yield from _stored_artifacts_of(store, name)


def _stored_artifacts_of(store: Store, stage: str) -> Iterator[StoredArtifact]:
    found: dict[str, dict[str, ObjectStat]] = {}
    if not store.remote:  # a folder without a file is no object anywhere, but lies on a disk all the same
        with translate_storage_errors(store.uri):
            empty = [path.rsplit("/", 1)[1] for path in store.fs.glob(store.address(stage, "*"))]
        found = {key: {} for key in empty if _KEY.fullmatch(key)}
    for name, stat in list_objects(store, stage).items():
        key, _, inner = name.partition("/")
        if inner and _KEY.fullmatch(key):
            found.setdefault(key, {})[inner] = stat
    for key, files in sorted(found.items()):
        yield StoredArtifact(stage, key, files)


def list_objects(store: Store, *parts: str) -> dict[str, ObjectStat]:
    """Name below a folder of the store -> size and date of every file in it, at any depth."""
    top = store.address(*parts)
    with translate_storage_errors(store.uri):
        found = store.fs.find(top, detail=True)
    return {path[len(top) + 1 :]: ObjectStat(int(info["size"]), _date(info)) for path, info in found.items()}


def read_stored_manifests(store: Store, stored: list[StoredArtifact]) -> dict[tuple[str, str], StoredManifest]:
    """(stage, key) -> every manifest among ``stored``, as it is now."""
    names = [(artifact.stage, artifact.key) for artifact in stored if artifact.manifest_date is not None]
    # One reader on a disk, where there is no round trip to wait for.
    with ThreadPoolExecutor(MANIFEST_READERS if store.remote else 1) as pool:
        found = pool.map(lambda name: read_stored_manifest(store, *name), names)
        return {name: manifest for name, manifest in zip(names, found, strict=True) if manifest is not None}


def read_stored_manifest(store: Store, stage: str, key: str) -> StoredManifest | None:
    """The manifest under one key; None where there is none. RequestError when a newer zscir wrote it."""
    text = store.read_text(stage, key, MANIFEST)
    if text is None:
        return None
    try:
        manifest = parse_manifest(text, f"{store.uri}/{stage}/{key}/{MANIFEST}")
    except DamagedManifest as error:
        return StoredManifest(text, None, str(error))
    if (manifest.stage, manifest.key) != (stage, key):
        return StoredManifest(text, None, f"manifest of another artifact: {manifest.stage}/{manifest.key[:12]}")
    inputs = [entry.key for entry in manifest.inputs.values()]
    # Without the artifact that holds a shared file this one is not whole, so a gc must see the link.
    homes = [entry.home.split("/")[1] for entry in manifest.files if entry.home]
    return StoredManifest(text, manifest, "", frozenset([*inputs, *homes]))


def _date(info: dict[str, Any]) -> datetime:
    if "LastModified" in info:  # s3fs; fsspec's local file system says mtime, in seconds
        at: datetime = info["LastModified"]
        return at
    return datetime.fromtimestamp(info["mtime"], UTC)
