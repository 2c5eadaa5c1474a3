"""A benchmark's facts (``data_specs/benchmarks/*.toml``) and a folder become a list of altered annotation files."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from hashlib import file_digest
from pathlib import Path

from zscir.errors import RequestError


def official_checksums(facts: Path) -> dict[str, str]:
    """File -> SHA-256 from the ``[sha256]`` table of a benchmark's facts."""
    try:
        table = tomllib.loads(facts.read_text(encoding="utf-8")).get("sha256")
    except OSError as error:
        raise RequestError(f"{facts}: cannot be read ({error.strerror})") from None
    except tomllib.TOMLDecodeError as error:
        raise RequestError(f"{facts}: not valid TOML: {error}") from None
    if not isinstance(table, dict) or not all(isinstance(digest, str) for digest in table.values()):
        raise RequestError(f"{facts}: no table [sha256] of file -> digest")
    return dict(table)


def altered_files(root: Path, checksums: Mapping[str, str]) -> list[str]:
    """One line for each file below ``root`` that exists and is not the official one; missing files are not altered."""
    lines = []
    for name, expected in sorted(checksums.items()):
        path = root / name
        if path.is_file():
            with path.open("rb") as stream:
                found = file_digest(stream, "sha256").hexdigest()
            if found != expected:
                lines.append(f"{name}: sha256 {found[:16]}..., the official file's is {expected[:16]}...")
    return lines


def require_official(root: Path, checksums: Mapping[str, str], how_to_get: str) -> None:
    """RequestError that names every altered annotation file (PLI, for one, ships its own toptee captions).

    The files lie in ``root``, or in the subfolders of ``root`` that hold any of them. None at all is an error too.
    """
    folders = [root, *sorted(path for path in root.iterdir() if path.is_dir())] if root.is_dir() else []
    holding = [folder for folder in folders if any((folder / name).is_file() for name in checksums)]
    if not holding:
        raise RequestError(f"{root}: none of the official annotation files is there. Get them: {how_to_get}")
    altered = [line for folder in holding for line in altered_files(folder, checksums)]
    if altered:
        listed = "\n  ".join(altered)
        raise RequestError(
            f"{root}: {len(altered)} annotation files were altered:\n  {listed}\nGet the originals: {how_to_get}"
        )
