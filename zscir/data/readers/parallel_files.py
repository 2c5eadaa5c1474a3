"""Read rows from parallel files: the n-th lines of several text files, or an image and the text file of its name.

Two text files of the same number of lines are a list with two columns; NAME.txt beside NAME.jpg is a row of its own.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from fnmatch import fnmatchcase
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from zscir.data.images.decode import IMAGE_SUFFIXES
from zscir.data.readers.url_lists import LIST_READ_ERRORS, MAX_LINE_BYTES, ListRow, open_decompressed, read_lines
from zscir.runtime.errors import RequestError

LocateFile = Callable[[str], Path]


class FileRow(NamedTuple):
    """A row and the file in which it stands."""

    file: str
    row: ListRow


def rows_by_line(
    names: list[str], locate: LocateFile, patterns: dict[str, str], wanted: list[str]
) -> Iterator[FileRow]:
    """The n-th lines of the files that ``patterns`` (column -> file name or pattern) name are the n-th row.

    RequestError when a pattern does not name exactly one file, or one of them has more lines than the others: from
    some place on, its lines would belong to other rows, and nothing shows where that place is.
    """
    unknown = [column for column in wanted if column not in patterns]
    if unknown:
        raise RequestError(f"no text file is named for the column {unknown[0]!r}; `lines` has {sorted(patterns)}")
    files = [_only_match(names, patterns[column]) for column in wanted]
    try:
        with ExitStack() as stack:
            streams = [read_lines(stack.enter_context(open_decompressed(locate(name)))) for name in files]
            for number, lines in enumerate(zip_longest(*streams), 1):
                if None in lines:
                    raise RequestError(
                        f"{files[lines.index(None)]}: ends after {number - 1:,} lines, and not all of {files} do: "
                        "they do not belong together, or one is not whole"
                    )
                values: list[Any] = [line.rstrip(b"\r\n") for line in lines]
                yield FileRow(files[0], ListRow(number, *values))
    except LIST_READ_ERRORS as error:
        raise RequestError(f"{files}: cannot be read as text ({' '.join(str(error).split())[:200]})") from None


def _only_match(names: list[str], pattern: str) -> str:
    found = [name for name in names if fnmatchcase(PurePosixPath(name).name, pattern)]
    if len(found) != 1:
        raise RequestError(f"{len(found)} files are named {pattern!r} where one is meant; there are {names[:8]}")
    return found[0]


def rows_by_name(names: list[str], locate: LocateFile, text_suffix: str) -> Iterator[FileRow]:
    """Each picture with the text that stands in the file of its name and ``text_suffix``, in the order of the names.

    A picture without such a file is a row without a text; a text without a picture is a row with a problem.
    """
    there = set(names)
    stems = {os.path.splitext(name)[0] for name in names if name.lower().endswith(IMAGE_SUFFIXES)}
    for name in names:
        stem = os.path.splitext(name)[0]
        if name.lower().endswith(IMAGE_SUFFIXES):
            text = stem + text_suffix
            yield FileRow(name, ListRow(1, name, _content(locate(text)) if text in there else None))
        elif name.endswith(text_suffix) and name.removesuffix(text_suffix) not in stems:
            yield FileRow(name, ListRow(1, problem=f"no picture of this name; known are {', '.join(IMAGE_SUFFIXES)}"))


def _content(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(MAX_LINE_BYTES)
