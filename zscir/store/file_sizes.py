"""Look up the sizes of many files, on disk or on S3."""

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from stat import S_ISREG
from typing import Any

PARALLEL_LISTINGS = 16  # the time goes into waiting for answers, so more threads than cores are right


def sizes_on_disk(paths: Iterable[str]) -> dict[str, int]:
    """Path -> bytes, of the files that exist; one ``stat`` each, which is fast on a disk."""
    return {path: size for path in paths if (size := _size(path)) is not None}


def sizes_in_bucket(fs: Any, paths: Mapping[str, str]) -> dict[str, int]:
    """Path -> bytes of the files in the folders of ``paths`` (file -> folder).

    Each folder is listed in one round trip, many at the same time.
    """
    folders = sorted(set(paths.values()))
    with ThreadPoolExecutor(PARALLEL_LISTINGS) as pool:
        found = list(pool.map(partial(fs.find, detail=True), folders))
    return {path: int(info["size"]) for there in found for path, info in there.items()}


def _size(path: str) -> int | None:
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    # A folder in the place of a file has a size too, and is no file: it counts as missing.
    return found.st_size if S_ISREG(found.st_mode) else None
