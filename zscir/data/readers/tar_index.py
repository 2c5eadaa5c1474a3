"""List the members of a tar from a stranger, header by header; nothing in it is unpacked.

The standard library's reader trusts more: it reads headers of any length into memory, follows sparse maps and, in older
releases of Python 3.11, loops over a header made for it. Here a header is 512 bytes, its extensions are bounded, and
the first violation of the format ends the reading of that tar, with a reason.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from zscir.data.images.shards import TAR_BLOCK_BYTES, MemberSpan, check_member_name, round_up_to_block
from zscir.runtime.errors import StageError

MAX_EXTENSION_BYTES = 64 * 1024  # a long name or a set of pax values; real ones have a few hundred bytes
MAX_MEMBERS = 2_000_000
MAX_TAIL_BYTES = 1024 * 1024  # of zeros after the end; writers fill up to 10 KiB
REGULAR = (b"0", b"\0", b"7")
SPECIAL_MEMBER_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a pipe",
}
FOLDER_TYPE, LONG_NAME, LONG_LINK, PAX, PAX_GLOBAL, SPARSE = b"5", b"L", b"K", b"x", b"g", b"S"


@dataclass(frozen=True)
class TarProblem:
    """What is wrong with a member (``name``), or, where there is no name, with the tar, which then ends there."""

    reason: str
    detail: str
    name: str = ""


class _BrokenTar(Exception):
    """The tar cannot be read on; the text says why."""


@dataclass(frozen=True)
class _TarHeader:
    name: bytes
    size: int
    kind: bytes
    extension: bytes  # the bytes of the header block from 345 on: the rest of a long name, or of a sparse map


def read_tar_members(path: Path) -> Iterator[MemberSpan | TarProblem]:
    """Every regular file of a tar with a plain relative name, in order, and a TarProblem for all else but folders.

    Pictures and texts are not read. A TarProblem without a name is the last one: what lies behind it is not looked at.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        try:
            yield from _read_tar_members(stream, size)
        except _BrokenTar as error:
            yield TarProblem("bad_tar", f"{error}; what comes after is not read")


def _read_tar_members(stream: IO[bytes], total: int) -> Iterator[MemberSpan | TarProblem]:
    position = count = 0
    extended: dict[str, bytes] = {}
    while position + TAR_BLOCK_BYTES <= total:
        stream.seek(position)
        block = stream.read(TAR_BLOCK_BYTES)
        if not any(block):
            yield from _tail(stream, position + TAR_BLOCK_BYTES, total)
            return
        header, start = _parse(block, position), position + TAR_BLOCK_BYTES
        if header.kind in (LONG_NAME, LONG_LINK, PAX, PAX_GLOBAL):
            extended |= _extension(stream, header, start, total)
            position = start + round_up_to_block(header.size)
            continue
        count += 1
        if count > MAX_MEMBERS:
            raise _BrokenTar(f"more than {MAX_MEMBERS:,} members")
        size = _decimal(extended["size"], position) if "size" in extended else header.size
        has_data = header.kind not in SPECIAL_MEMBER_KINDS and header.kind != FOLDER_TYPE  # bytes of its own
        position = _sparse_end(stream, header, start, total) if header.kind == SPARSE else start
        if has_data and position + size > total:
            raise _BrokenTar(f"truncated: a member of {size:,} bytes at {position:,} of {total:,}")
        if header.kind != FOLDER_TYPE:
            yield _member(header, extended, position, size)
        position += round_up_to_block(size) if has_data else 0
        extended = {}
    raise _BrokenTar(f"truncated: no end-of-archive mark at {position:,} of {total:,}")


def _parse(block: bytes, position: int) -> _TarHeader:
    stored, summed = _octal(block[148:156], position), sum(block) - sum(block[148:156]) + 8 * ord(" ")
    if stored != summed:
        raise _BrokenTar(f"the header at {position:,} has a wrong checksum")
    name = block[:100].split(b"\0")[0]
    kind = block[156:157]
    if block[257:263] == b"ustar\0" and block[345:500].strip(b"\0"):
        name = block[345:500].split(b"\0")[0] + b"/" + name
    if kind == b"\0" and name.endswith(b"/"):
        kind = FOLDER_TYPE  # as tars were written before 1988
    return _TarHeader(name, _octal(block[124:136], position), kind, block[345:])


def _octal(field: bytes, position: int) -> int:
    """A number of a header: octal digits, or big-endian bytes after 0x80 (GNU, for sizes from 8 GiB on)."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0")[0].strip()
    if not digits or any(digit not in b"01234567" for digit in digits):
        raise _BrokenTar(f"the header at {position:,} holds no number where one must be")
    return int(digits, 8)


def _extension(stream: IO[bytes], header: _TarHeader, start: int, total: int) -> dict[str, bytes]:
    """What a header that is not a member says about the next one: its name, size, and whether it is sparse."""
    if header.size > MAX_EXTENSION_BYTES:
        raise _BrokenTar(
            f"an extended header of {header.size:,} bytes at {start:,}; allowed are {MAX_EXTENSION_BYTES:,}"
        )
    if start + header.size > total:
        raise _BrokenTar(f"truncated: an extended header at {start:,} of {total:,}")
    data = stream.read(header.size)
    if header.kind == LONG_NAME:
        return {"path": data.split(b"\0")[0]}
    values = _pax(data, start) if header.kind in (PAX, PAX_GLOBAL) else {}
    if header.kind == PAX_GLOBAL:
        if {"path", "size"} & set(values):
            raise _BrokenTar(f"the header at {start:,} gives one name or size to all members")
        return {}
    return values


def _pax(data: bytes, start: int) -> dict[str, bytes]:
    """The values that count of records ``LENGTH NAME=VALUE``, whose length counts all of a record."""
    values: dict[str, bytes] = {}
    position = 0
    while position < len(data.rstrip(b"\0")):
        digits, _, _ = data[position : position + 8].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        record = data[position + len(digits) + 1 : position + length]
        name, equals, value = record.partition(b"=")
        if length < len(digits) + 4 or position + length > len(data) or not equals or not value.endswith(b"\n"):
            raise _BrokenTar(f"the extended header at {start:,} is malformed")
        if name in (b"path", b"size") or name.startswith(b"GNU.sparse."):
            values["sparse" if name.startswith(b"GNU") else name.decode()] = value[:-1]
        position += length
    return values


def _decimal(value: bytes, position: int) -> int:
    if not value.isdigit() or len(value) > 18:
        raise _BrokenTar(f"the extended header before {position:,} holds no size")
    return int(value)


def _sparse_end(stream: IO[bytes], header: _TarHeader, start: int, total: int) -> int:
    """Where the data of an old GNU sparse member begin: behind all blocks of its map."""
    more, position = header.extension[482 - 345] != 0, start
    while more and position + TAR_BLOCK_BYTES <= total:
        stream.seek(position)
        more = stream.read(TAR_BLOCK_BYTES)[504] != 0
        position += TAR_BLOCK_BYTES
    return position


def _member(header: _TarHeader, extended: dict[str, bytes], offset: int, size: int) -> MemberSpan | TarProblem:
    raw = extended.get("path", header.name)
    shown = raw.decode("ascii", "backslashreplace")[:200]
    if header.kind not in REGULAR or "sparse" in extended:
        what = (
            "sparse"
            if header.kind == SPARSE or "sparse" in extended
            else SPECIAL_MEMBER_KINDS.get(header.kind, "of a kind unknown here")
        )
        return TarProblem("odd_member", f"{what}; only regular files are read", shown)
    try:
        name = raw.decode()
        name = name.removeprefix("./") if name != "./" else name
        check_member_name(name)
    except (UnicodeDecodeError, StageError):
        return TarProblem("bad_name", "not a plain relative path in UTF-8", shown)
    return MemberSpan(name, offset, size)


def _tail(stream: IO[bytes], position: int, total: int) -> Iterator[TarProblem]:
    """After the mark of the end nothing but zeros may come: what else is there, no reader would see."""
    stream.seek(position)
    if total - position > MAX_TAIL_BYTES or any(stream.read(MAX_TAIL_BYTES)):
        yield TarProblem("bad_tar", f"{total - position:,} bytes lie after the end-of-archive mark; they are not read")
