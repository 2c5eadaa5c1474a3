"""Write byte-stable tar shards, read them back with checks, and read spans of them by offset."""

import os
import tarfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Self

from zscir.runtime.errors import StageError

TAR_BLOCK_BYTES = 512
FILE_MODE = 0o644
MAX_MEMBER_BYTES = 256 * 1024 * 1024
MAX_OPEN_SHARDS = 64  # of the usual 1,024 files of a process


class BadShard(StageError):
    """A tar that is truncated, unsafe or does not say what its index says."""


@dataclass(frozen=True)
class MemberSpan:
    """Where the data of one member lie: byte offset in the tar and size in bytes."""

    name: str
    offset: int
    size: int


def write_shard(path: Path, members: Iterable[tuple[str, bytes]]) -> list[MemberSpan]:
    """Write members in the order given (mtime 0, no owner, one mode) and say where each lies.

    Raises StageError on a name that would leave its folder or comes twice.
    """
    spans = []
    seen: set[str] = set()
    # PAX: no limit on names or sizes; the fields below are all that could differ between two runs.
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in members:
            check_member_name(name)
            if name in seen:
                raise StageError(f"{path.name}: member {name} comes twice")
            seen.add(name)
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(data), FILE_MODE, 0
            tar.addfile(entry, BytesIO(data))
            spans.append(MemberSpan(name, tar.offset - round_up_to_block(len(data)), len(data)))
    return spans


def check_member_name(name: str) -> None:
    """StageError unless ``name`` is a plain relative path: no root, no ``..``, no backslash, no control character."""
    parts = PurePosixPath(name).parts
    odd = not parts or name.startswith("/") or ".." in parts or "\\" in name or any(ord(c) < 32 for c in name)
    if odd or PurePosixPath(name).as_posix() != name:
        raise StageError(f"a shard may not hold a member named {name!r}")


def read_members(path: Path, max_member_bytes: int = MAX_MEMBER_BYTES) -> Iterator[tuple[MemberSpan, bytes]]:
    """Every member and its data, in file order.

    Raises BadShard when the tar is truncated, or a member is no regular file, has an unsafe or repeated name
    or is larger than ``max_member_bytes``.
    """
    seen: set[str] = set()
    try:
        with tarfile.open(path, "r:") as tar:
            for entry in tar:
                _check_entry(path, entry, seen, max_member_bytes)
                stream = tar.extractfile(entry)
                data = stream.read() if stream is not None else b""
                if len(data) != entry.size:
                    raise BadShard(f"{path}: member {entry.name} ends early ({len(data)} of {entry.size} bytes)")
                yield MemberSpan(entry.name, entry.offset_data, entry.size), data
    except (tarfile.TarError, EOFError) as error:
        raise BadShard(f"{path}: not a whole tar: {error}") from None


def _check_entry(path: Path, entry: tarfile.TarInfo, seen: set[str], max_member_bytes: int) -> None:
    if not entry.isreg():
        raise BadShard(f"{path}: member {entry.name!r} is not a regular file")
    if entry.name in seen:
        raise BadShard(f"{path}: member {entry.name!r} comes twice")
    if entry.size > max_member_bytes:
        raise BadShard(f"{path}: member {entry.name!r} has {entry.size} bytes; allowed are {max_member_bytes}")
    try:
        check_member_name(entry.name)
    except StageError as error:
        raise BadShard(f"{path}: {error}") from None
    seen.add(entry.name)


def index_shard(path: Path) -> list[MemberSpan]:
    """Where every member of a shard lies; the whole tar is read and checked on the way."""
    return [span for span, _ in read_members(path)]


class ShardReader:
    """Reads spans of shards by position; keeps a bounded number of files open, and may be shared by threads.

    ``locate`` turns a shard's name into a path, as ``Artifact.path`` does.
    """

    def __init__(self, locate: Callable[[str], Path], max_member_bytes: int = MAX_MEMBER_BYTES) -> None:
        self._locate = locate
        self._max_member_bytes = max_member_bytes
        self._file_descriptors: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()  # a file may not be closed to make room while another thread reads it

    def read(self, shard: str, offset: int, size: int) -> bytes:
        """Exactly ``size`` bytes at ``offset`` of ``shard``; BadShard when the shard ends earlier."""
        if not 0 <= size <= self._max_member_bytes or offset < 0:
            raise BadShard(f"{shard}: a span of {size} bytes at {offset} is out of bounds")
        with self._lock:
            data = os.pread(self._file_descriptor(shard), size, offset)
        if len(data) != size:
            raise BadShard(f"{shard}: {len(data)} of {size} bytes at {offset}; the shard is truncated")
        return data

    def _file_descriptor(self, shard: str) -> int:
        if shard not in self._file_descriptors:
            self._file_descriptors[shard] = os.open(self._locate(shard), os.O_RDONLY)
            if len(self._file_descriptors) > MAX_OPEN_SHARDS:
                os.close(self._file_descriptors.popitem(last=False)[1])
        return self._file_descriptors[shard]

    def close(self) -> None:
        """Close all files."""
        while self._file_descriptors:
            os.close(self._file_descriptors.popitem()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def round_up_to_block(size: int) -> int:
    """Bytes that ``size`` bytes of data take in a tar, which is made of 512-byte blocks."""
    return -(-size // TAR_BLOCK_BYTES) * TAR_BLOCK_BYTES
