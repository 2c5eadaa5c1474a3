"""Group the members of a WebDataset tar into samples: an image, its text and the URL that it is from.

Members in a row whose names are equal up to the first dot belong together: 0012.jpg, 0012.json, 0012.txt are a sample.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from zscir.data.images.decode import IMAGE_SUFFIXES
from zscir.data.images.shards import MemberSpan
from zscir.data.readers.json_documents import field_of
from zscir.data.readers.pairs import PairError, clean_string, clean_text, clean_url, file_url
from zscir.data.readers.tar_index import TarProblem, read_tar_members

IMAGE_EXTENSIONS = tuple(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES)
IGNORED_REASON = "ignored"  # of members that are no part of a sample
MAX_TEXT_BYTES = 1_000_000  # of a .txt or .json; a caption is at most a few kB
# Key and extension, split at the first dot as WebDataset does; names that begin with a dot have no key.
MEMBER_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")


@dataclass(frozen=True)
class SampleLayout:
    """How samples are read: which fields of the .json count, and what lengths of texts.

    Without ``text_column`` the text is that of the .txt. ``url_column`` may be absent from the .json.
    """

    url_column: str
    text_column: str | None
    licence_column: str | None
    min_text_chars: int
    max_text_chars: int


@dataclass(frozen=True)
class TarSample:
    """An image in a tar and its pair. ``place`` is TAR#KEY, for rejects; ``offset`` and ``size`` are in bytes."""

    place: str
    offset: int
    size: int
    url: str
    text: str
    licence: str | None


@dataclass(frozen=True)
class LeftOutMember:
    """What is no sample in a tar, and why; it stands for ``count`` members."""

    place: str
    reason: str
    detail: str
    count: int = 1


@dataclass
class _SampleMembers:
    key: str
    members: dict[str, MemberSpan] = field(default_factory=dict)
    repeated: str = ""


def read_samples(path: Path, name: str, layout: SampleLayout) -> Iterator[TarSample | LeftOutMember]:
    """The samples of the tar at ``path``, known as ``name``, in its order; at the end what was ignored, by ending.

    Nothing is unpacked or unpickled: only .txt and .json members are read, and those of at most 1 MB.
    """
    ignored: Counter[str] = Counter()
    seen: set[str] = set()
    with path.open("rb") as stream:
        for found in _groups(path, ignored):
            if isinstance(found, TarProblem):
                yield LeftOutMember(f"{name}#{found.name}" if found.name else name, found.reason, found.detail)
                continue
            place = f"{name}#{found.key}"
            try:
                if found.key in seen:
                    raise PairError("duplicate_key", "a sample of this name came before; which one is meant?")
                seen.add(found.key)
                yield _sample(stream, found, name, place, layout)
            except PairError as bad:
                yield LeftOutMember(place, bad.reason, bad.detail)
    yield from (
        LeftOutMember(f"{name}#*.{kind}", IGNORED_REASON, kind, count) for kind, count in sorted(ignored.items())
    )


def _groups(path: Path, ignored: Counter[str]) -> Iterator[_SampleMembers | TarProblem]:
    group: _SampleMembers | None = None
    for member in read_tar_members(path):
        if isinstance(member, TarProblem):
            yield member
            continue
        parts = MEMBER_NAME.fullmatch(member.name)
        if parts is None:
            ignored["no ending"] += 1
            continue
        key, kind = parts[1], parts[2].lower()
        if group is not None and key != group.key:
            yield group
            group = None
        group = group or _SampleMembers(key)
        if kind not in (*IMAGE_EXTENSIONS, "txt", "json"):
            ignored[kind[:20]] += 1
        elif kind in group.members:
            group.repeated = kind
        else:
            group.members[kind] = member
    if group is not None:
        yield group


def _sample(stream: IO[bytes], group: _SampleMembers, name: str, place: str, layout: SampleLayout) -> TarSample:
    """The sample of a group of members. Raises PairError."""
    pictures = [kind for kind in group.members if kind in IMAGE_EXTENSIONS]
    if group.repeated:
        raise PairError("duplicate_member", f"two members end in .{group.repeated}")
    if len(pictures) != 1:
        raise PairError("two_images" if pictures else "no_image", f"the sample has {sorted(group.members)}")
    picture = group.members[pictures[0]]
    about = _json_fields(stream, group)
    text: Any = _read(stream, group, "txt") if layout.text_column is None else field_of(about, layout.text_column)
    clean = clean_text(text, layout.min_text_chars, layout.max_text_chars)
    licence = clean_string(field_of(about, layout.licence_column), "licence") if layout.licence_column else ""
    url = _url(field_of(about, layout.url_column), f"{name}/{picture.name}")
    return TarSample(place, picture.offset, picture.size, url, clean, licence or None)


def _url(given: Any, where: str) -> str:
    """The web address that the sample says it is from; where it names none, a ``file:`` URL of its place."""
    if isinstance(given, str) and given.strip().startswith(("http://", "https://")):
        return clean_url(given)
    return file_url(where)


def _json_fields(stream: IO[bytes], group: _SampleMembers) -> dict[str, Any]:
    data = _read(stream, group, "json")
    if data is None:
        return {}
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise PairError("bad_json", str(error)) from None
    if not isinstance(value, dict):
        raise PairError("bad_json", f"a JSON {type(value).__name__}, not an object")
    return value


def _read(stream: IO[bytes], group: _SampleMembers, kind: str) -> bytes | None:
    member = group.members.get(kind)
    if member is None:
        return None
    if member.size > MAX_TEXT_BYTES:
        raise PairError("large_text", f"{member.name} has {member.size:,} bytes; at most {MAX_TEXT_BYTES:,} are read")
    stream.seek(member.offset)
    return stream.read(member.size)
