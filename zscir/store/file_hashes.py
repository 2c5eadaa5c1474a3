"""Hash files outside the store, and remember the digests, so that a file that has not changed is not read again.

Digests are kept on this machine, in the cache folder, by path, size, times and inode. The time of the last change of
the inode (ctime) is among them: no program can set it, so bytes that changed under an old date are noticed. A file that
was changed just now is not remembered yet: a second change might leave the same stat fields.
"""

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from zscir.runtime.errors import RequestError
from zscir.runtime.progress import log_info
from zscir.store.artifacts import Artifact, FileEntry, atomic_path, store_folder_name
from zscir.store.list_files import list_files, sha256_of

HASH_CACHE_FORMAT = 1
MIN_MTIME_AGE_NS = 2_000_000_000  # some file systems count time in steps of two seconds
StatFields = tuple[int, ...]

# The last look at each folder in this process; a run looks at the same folder before every step that reads it.
_SCAN_CACHE: dict[tuple[str, ...], tuple[list[tuple[str, StatFields]], Artifact]] = {}


def hash_files_cached(paths: list[Path], where: str, cache: Path) -> Artifact:
    """A view of a folder, or of files of a folder, as ``Artifact.of_folder`` and ``of_files``, with cached digests."""
    if not paths:
        raise RequestError(f"{where}: no such file or folder; no file matches")
    root, chosen = (paths[0], None) if paths[0].is_dir() else (paths[0].parent, paths)
    found = [(name, path, _stat_fields(stat)) for name, path, stat in list_files(root, chosen)]
    roots = tuple(str(path.absolute()) for path in paths)
    signature = [(name, marks) for name, _, marks in found]
    last = _SCAN_CACHE.get(roots)
    if last is not None and last[0] == signature:
        return last[1]
    hashes = HashCache(cache / "digests" / f"{store_folder_name(str(root.absolute()))}.json")
    entries = [FileEntry(path=name, size=marks[0], sha256=hashes.digest(path, marks)) for name, path, marks in found]
    hashes.save(only={path for _, path, _ in found} if chosen is None else None)
    artifact = Artifact.of_entries(root, entries)
    # Equal stat fields prove nothing about a file that was changed just now; it is looked at again next time.
    if not hashes.unsettled:
        _SCAN_CACHE[roots] = signature, artifact
    return artifact


class HashCache:
    """Path -> digest, in one file of the cache; a damaged file counts as empty."""

    def __init__(self, file: Path) -> None:
        self.file, self.unsettled, self._changed = file, False, False
        self._known = _read_cache(file)

    def digest(self, path: str, marks: StatFields) -> str:
        """The SHA-256 of a file that the file system describes by ``marks``."""
        known = self._known.get(path)
        if isinstance(known, list) and known[:-1] == [*marks]:
            return str(known[-1])
        before = time.time_ns()  # before the bytes are read: a change during the reading counts as just now
        digest = sha256_of(path)
        settled = before - max(marks[1:3]) > MIN_MTIME_AGE_NS and _stat_fields(os.stat(path)) == marks
        self.unsettled |= not settled
        # A digest that no longer holds must leave the file as well.
        self._changed |= settled or known is not None
        self._known.pop(path, None)
        if settled:
            self._known[path] = [*marks, digest]
        return digest

    def save(self, only: set[str] | None = None) -> None:
        """Save new digests, and drop those of paths outside ``only``. A failure is only logged: it costs time."""
        if only is not None and not self._known.keys() <= only:
            self._known, self._changed = {path: own for path, own in self._known.items() if path in only}, True
        if not self._changed:
            return
        # A name of its own for each writer: two processes that save at once must not write into one file.
        own = self.file.with_name(f"{self.file.name}.{os.getpid()}-{threading.get_ident()}")
        try:
            with atomic_path(own) as part:
                part.write_text(json.dumps({"format": HASH_CACHE_FORMAT, "files": self._known}), encoding="utf-8")
            os.replace(own, self.file)
        except OSError as error:
            log_info(f"{self.file}: digests could not be saved ({error.strerror}); files will be read again next time")


def _stat_fields(stat: os.stat_result) -> StatFields:
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev


def _read_cache(file: Path) -> dict[str, list[Any]]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    files = values.get("files") if isinstance(values, dict) and values.get("format") == HASH_CACHE_FORMAT else None
    return files if isinstance(files, dict) else {}
