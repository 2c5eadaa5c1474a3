"""The store: artifacts under ``STORE/<stage>/<key>/`` and lineage, in a local folder or on S3."""

import glob
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from zscir.runtime.errors import RequestError, StageError
from zscir.runtime.settings import LEASE_S, STORE_RETRY_S, Settings
from zscir.runtime.specs import Spec
from zscir.store.artifacts import (
    MANIFEST,
    Artifact,
    DamagedManifest,
    FileEntry,
    InputEntry,
    Manifest,
    atomic_path,
    check_file_types,
    digest_of_files,
    fsync_path,
    manifest_text,
    parse_manifest,
    remove_partial_files,
    remove_scratch_files,
    scan_folder,
    store_folder_name,
)
from zscir.store.file_sizes import sizes_in_bucket, sizes_on_disk
from zscir.store.key_lock import hold_key
from zscir.store.leases import LeaseManager
from zscir.store.list_files import sha256_of
from zscir.store.retrying_fs import RetryingFileSystem
from zscir.store.storage_errors import translate_storage_errors
from zscir.store.upload import upload_folder

LINEAGE_FOLDER = "lineage"
NO_ARTIFACT = "no artifact"
CHECK_TIMEOUT_S = 20.0  # for the first look at a store; a mistyped address must not wait for ZSCIR_PATIENCE_S
SCHEMES = ("s3", "file")
# Three layers retry: botocore, s3fs around it, and RetryingFileSystem for what takes longer than a few seconds.
BOTO_OPTIONS = {"connect_timeout": 5, "read_timeout": 20, "retries": {"mode": "standard", "total_max_attempts": 3}}
# s3fs would answer from its listing of a folder after another machine has changed it.
REMOTE_OPTIONS = {"use_listings_cache": False, "config_kwargs": BOTO_OPTIONS}


@dataclass(frozen=True)
class LookupResult:
    """The artifact that was looked up, or why there is none."""

    artifact: Artifact | None
    problem: str


class Store:
    """Artifacts and lineage in one place, through fsspec; ``open_store`` makes one."""

    def __init__(self, uri: str, cache: Path, retry_s: float = STORE_RETRY_S, lease_s: float = LEASE_S) -> None:
        import fsspec

        self.uri = uri.rstrip("/")
        self.remote = "://" in uri and not uri.startswith("file://")
        self.fs: Any
        self.fs, self.root = fsspec.core.url_to_fs(self.uri, **(REMOTE_OPTIONS if self.remote else {}))
        self.leases: LeaseManager | None = None
        if self.remote:
            self.fs = RetryingFileSystem(self.fs, retry_s)
            self.leases = LeaseManager(self.uri, self.fs, self.root, lease_s)
        # Inside a local store, since the last step of a commit is a rename, which works within one file system only.
        self.scratch = cache / "scratch" / store_folder_name(self.uri) if self.remote else Path(self.root) / ".work"
        self.local_copies = cache / "artifacts" / store_folder_name(self.uri)

    def check(self) -> None:
        """Raise RequestError unless the store can be listed and, if it is a folder, written to; nothing is written."""
        self.check_listed()
        if not self.remote and not os.access(_nearest_existing(Path(self.root)), os.W_OK | os.X_OK):
            raise RequestError(
                f"store {self.uri}: no permission to write there; check --store / ZSCIR_STORE and who may write to it"
            )

    def check_listed(self) -> None:
        """As ``check``, for a command that only reads."""
        try:
            with translate_storage_errors(self.uri):
                if self.remote:
                    self._list_one_object()
                elif not (nearest := _nearest_existing(Path(self.root))).is_dir():
                    raise RequestError(f"store {self.uri}: {nearest} is a file, not a folder")
        except StageError as error:
            raise RequestError(f"{error}; check --store / ZSCIR_STORE, the endpoint and the credentials") from None

    def _list_one_object(self) -> None:  # past the retrying layer: a wrong address is reported at once
        from fsspec.asyn import sync

        bucket, _, prefix = self.root.partition("/")
        parameters = {"Bucket": bucket, "Prefix": prefix, "MaxKeys": 1}
        sync(self.fs.loop, self.fs._call_s3, "list_objects_v2", timeout=CHECK_TIMEOUT_S, **parameters)

    @property
    def location(self) -> str:
        """The absolute address of the store."""
        return self.uri if self.remote else self.root

    def address(self, *parts: str) -> str:
        """The file system path of something in the store."""
        return "/".join([self.root, *parts])

    def read_text(self, *parts: str) -> str | None:
        """A small text file, or None when there is none."""
        data = self.read_bytes(*parts)
        return None if data is None else data.decode(errors="replace")

    def read_bytes(self, *parts: str) -> bytes | None:
        """A small file, or None when there is none."""
        with translate_storage_errors(self.uri):
            try:
                return bytes(self.fs.cat_file(self.address(*parts)))
            except FileNotFoundError:
                return None

    def list_folders(self, *parts: str) -> list[str]:
        """The names of the folders in a folder, sorted; none where the folder is missing."""
        with translate_storage_errors(self.uri):
            try:
                found = self.fs.ls(self.address(*parts), detail=True)
            except FileNotFoundError:
                return []
        names = [entry["name"].rstrip("/").rsplit("/", 1)[1] for entry in found if entry["type"] == "directory"]
        return sorted(name for name in names if not name.startswith("."))

    def write_file(self, local: Path, *parts: str) -> None:
        """Put one file under its final name in one step, so that a reader sees the old or the new, never half."""
        target = self.address(*parts)
        with translate_storage_errors(self.uri):
            if self.remote:
                self.fs.put_file(str(local), target)
            else:
                own = Path(target).with_name(f".{parts[-1]}.{os.getpid()}-{threading.get_ident()}")
                with atomic_path(own) as part:
                    shutil.copyfile(local, part)
                os.replace(own, target)

    def lookup(self, stage: str, key: str, verify: bool = False) -> LookupResult:
        """The artifact of this key if its manifest is there and its files are (sizes; digests with ``verify``)."""
        text = self.read_text(stage, key, MANIFEST)
        if text is None:
            return LookupResult(None, NO_ARTIFACT)
        try:
            manifest = parse_manifest(text, f"{self.uri}/{stage}/{key}/{MANIFEST}")
        except DamagedManifest as error:
            return LookupResult(None, str(error))
        if (manifest.stage, manifest.key) != (stage, key):
            return LookupResult(None, f"manifest of another artifact: {manifest.stage}/{manifest.key[:12]}")
        problem = self._compare(stage, key, manifest)
        artifact = Artifact(
            stage, key, manifest.digest, {entry.path: entry for entry in manifest.files}, manifest.facts, self, manifest
        )
        if not problem and verify:
            problem = self._compare_digests(artifact)
        return LookupResult(None if problem else artifact, problem)

    def get(self, stage: str, key: str) -> Artifact:
        """The artifact of this key; RequestError with the reason when it is not whole."""
        found = self.lookup(stage, key)
        if found.artifact is None:
            raise RequestError(
                f"store {self.uri}: {stage}/{key[:12]}: {found.problem}; run the pipeline again to make it"
            )
        return found.artifact

    def list_keys(self, stage: str | None = None) -> list[tuple[str, str]]:
        """(stage, key) of every folder that has a manifest, sorted."""
        found = [path.split("/")[-3:-1] for path in self._glob(stage or "*", "*", MANIFEST)]
        return sorted((stage_name, key) for stage_name, key in found)

    def lineage_tables(self, name: str, scratch: Path) -> list[str]:
        """Copies, below ``scratch``, of one lineage table of every run.

        A run under way replaces its tables at any moment; a reader that opens a file twice needs one that stays.
        """
        return self._copy(self._glob(LINEAGE_FOLDER, "*", f"{name}.parquet"), scratch)

    def artifact_files(self, name: str, scratch: Path) -> list[str]:
        """Local paths of the file ``name`` of every artifact that has one; unfinished ones have no manifest."""
        made = {"/".join(pair) for pair in self.list_keys()}
        found = self._glob("*", "*", name)
        found = [path for path in found if "/".join(path.split("/")[-3:-1]) in made]
        return self._copy(found, scratch) if self.remote else found  # files of artifacts never change

    def _file_address(self, stage: str, key: str, entry: FileEntry) -> str:
        """The file system path of the bytes of one file of an artifact."""
        return self.address(entry.home) if entry.home else self.address(stage, key, entry.path)

    def _glob(self, *parts: str) -> list[str]:
        with translate_storage_errors(self.uri):
            found = self.fs.glob("/".join([glob.escape(self.root), *parts]))  # a store may lie in a folder ``a[1]``
        return sorted(path for path in found if "/." not in path[len(self.root) :])

    def _copy(self, found: list[str], scratch: Path) -> list[str]:
        copies = []
        for path in found:
            local = scratch / path[len(self.root) + 1 :]
            local.parent.mkdir(parents=True, exist_ok=True)
            with translate_storage_errors(self.uri):
                self.fs.get_file(path, str(local))
            copies.append(str(local))
        return copies

    def fetch(self, artifact: Artifact, entry: FileEntry) -> Path:
        """A local path of one file; from S3 it is copied once, its digest checked, and kept in the cache."""
        remote = self._file_address(artifact.stage, artifact.key, entry)
        if not self.remote:
            return Path(remote)
        place = entry.home or f"{artifact.stage}/{artifact.key}/{artifact.digest[:16]}/{entry.path}"
        local = self.local_copies / place
        if not (local.exists() and local.stat().st_size == entry.size):  # its digest was checked when it was copied
            own = local.with_name(f"{local.name}.{os.getpid()}-{threading.get_ident()}")
            with translate_storage_errors(self.uri), atomic_path(own) as part:
                self.fs.get_file(remote, str(part))
                if sha256_of(str(part)) != entry.sha256:
                    raise StageError(
                        f"{self.uri}: {remote}: the bytes do not match the manifest; remove them, run again"
                    )
            os.replace(own, local)
        return local

    @contextmanager
    def work_folder(self, stage: str, key: str) -> Iterator[Path]:
        """The folder where a stage works on this key, kept after a crash; one process at a time, others wait.

        On S3 that is one of all machines: ``commit`` raises LeaseLost if another took over while this one was away.
        """
        folder = self.scratch / stage / key
        with hold_key(self.scratch, self.leases, stage, key):
            for trash in self.scratch.glob(f".trash-{key}-*"):
                shutil.rmtree(trash)
            folder.mkdir(exist_ok=True)
            remove_partial_files(folder)
            (folder / MANIFEST).unlink(missing_ok=True)  # of a commit killed while uploading; a stage may leave none
            yield folder

    def commit(
        self,
        folder: Path,
        stage: str,
        version: int,
        key: str,
        spec: Spec,
        inputs: dict[str, Artifact],
        facts: dict[str, Any],
        shared_files: Sequence[FileEntry] = (),
    ) -> Artifact:
        """Close a finished work folder: hash and flush its files, manifest last, one rename (or PUTs).

        ``shared_files`` are files of other artifacts of this store that belong to this one too, without a copy.
        """
        remove_scratch_files(folder)
        check_file_types(folder)
        entries = sorted([*scan_folder(folder), *shared_files], key=lambda entry: entry.path)
        manifest = Manifest(
            stage=stage,
            stage_version=version,
            key=key,
            digest=digest_of_files(entries),
            spec=spec.literals(),
            inputs={
                role: InputEntry(stage=artifact.stage, key=artifact.key, digest=artifact.digest)
                for role, artifact in inputs.items()
            },
            files=tuple(entries),
            facts=facts,
        )
        for path in [folder, *folder.rglob("*")]:  # before the manifest: a power cut must not leave it alone
            fsync_path(path)
        with atomic_path(folder / MANIFEST) as part:
            part.write_text(manifest_text(manifest), encoding="utf-8")
        with translate_storage_errors(self.uri):
            (self._upload if self.remote else self._rename)(folder, stage, key, manifest)
        return self.get(stage, key)

    def _rename(self, folder: Path, stage: str, key: str, manifest: Manifest) -> None:
        final = Path(self.address(stage, key))
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists():  # a damaged one; no rename replaces a folder that is not empty
            trash = self.scratch / f".trash-{key}-{os.getpid()}"  # by key: who holds it next clears what a kill leaves
            os.rename(final, trash)
            shutil.rmtree(trash)
        os.rename(folder, final)
        fsync_path(final.parent)  # only then is the rename on the disk

    def _upload(self, folder: Path, stage: str, key: str, manifest: Manifest) -> None:
        names = [entry.path for entry in manifest.files if entry.home is None]
        lease = self.leases.held(stage, key) if self.leases is not None else None
        upload_folder(self.fs, folder, names, MANIFEST, self.address(stage, key), lease)
        shutil.rmtree(folder)

    def _compare(self, stage: str, key: str, manifest: Manifest) -> str:
        own = f"{stage}/{key}"
        paths = {  # file -> folder of the artifact that holds it: this one, or one that shares it
            self._file_address(stage, key, entry): self.address(*(entry.home or own).split("/")[:2])
            for entry in manifest.files
        }
        with translate_storage_errors(self.uri):
            sizes = sizes_in_bucket(self.fs, paths) if self.remote else sizes_on_disk(paths)
        for entry in manifest.files:
            size = sizes.get(self._file_address(stage, key, entry))
            if size is None:
                return f"file missing: {entry.path}"
            if size != entry.size:
                return f"file damaged: {entry.path} has {size} bytes, the manifest says {entry.size}"
        return ""

    def _compare_digests(self, artifact: Artifact) -> str:
        for name, entry in artifact.entries.items():
            home = self._file_address(artifact.stage, artifact.key, entry)
            with translate_storage_errors(self.uri), self.fs.open(home, "rb") as stream:
                if _sha256_of(stream) != entry.sha256:
                    return f"file damaged: {name} does not have the digest in the manifest"
        return ""


def open_store(settings: Settings) -> Store:
    """The store that the settings name; RequestError when its address makes no sense."""
    scheme, sign, rest = settings.store.partition("://")
    if sign and (scheme not in SCHEMES or not rest.strip("/")):
        raise RequestError(f"store {settings.store}: not an address of a store; use a folder or s3://bucket/prefix")
    try:
        return Store(settings.store, settings.cache, settings.store_retry_s, settings.lease_s)
    except (ValueError, ImportError) as error:
        raise RequestError(f"store {settings.store}: {error}; use a folder or s3://bucket/prefix") from None


def _sha256_of(stream: Any) -> str:
    total = sha256()
    while block := stream.read(1 << 22):
        total.update(block)
    return total.hexdigest()


def _nearest_existing(path: Path) -> Path:
    """The nearest existing file or folder at or above ``path``."""
    while not path.exists():
        path = path.absolute().parent
    return path
