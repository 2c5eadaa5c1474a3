"""Sizes: the files that a manifest lists become the number of bytes that each one has in the store, if it is there."""

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from stat import S_ISREG
from typing import Any

PARALLEL_LISTINGS = 16


def sizes_on_disk(paths: Iterable[str]) -> dict[str, int]:
    """Path -> bytes, of those that are there: each file is asked for by itself, which is quick."""
    return {path: size for path in paths if (size := _size(path)) is not None}


def sizes_in_bucket(fs: Any, paths: Mapping[str, str]) -> dict[str, int]:
    """The same for files and the folders in which they lie: each is listed in one round trip, many at the same time."""
    folders = sorted(set(paths.values()))
    with ThreadPoolExecutor(PARALLEL_LISTINGS) as pool:
        found = list(pool.map(partial(fs.find, detail=True), folders))
    return {path: int(info["size"]) for there in found for path, info in there.items()}


def _size(path: str) -> int | None:
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_size if S_ISREG(found.st_mode) else None
