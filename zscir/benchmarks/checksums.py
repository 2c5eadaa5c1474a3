"""Compare annotation files with the official release: checksums and counts in ``data_specs/benchmarks/*.toml``.

A file that is not official but lies among official ones was altered, and a gallery of another size is not the official
one: both are refused wherever numbers are made. A folder without any official file holds another data set, such as the
tabletop world; it is refused only where a spec or ``--official`` asks for the official files.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import file_digest
from pathlib import Path
from typing import Any

from zscir.benchmarks.benchmark import Benchmark
from zscir.benchmarks.missing_images import WITHOUT
from zscir.benchmarks.registry import benchmark_info
from zscir.runtime.errors import RequestError
from zscir.runtime.settings import data_specs


@dataclass(frozen=True)
class OfficialRelease:
    """Where to get a benchmark's files and images, the digests of the files, and how much is in them."""

    path: Path
    annotations: str
    images: str
    sha256: dict[str, str]
    counts: dict[str, Any] = field(default_factory=dict)
    altered: dict[str, str] = field(default_factory=dict)  # file -> how a copy of it is known to have been altered

    @property
    def how_to_get_annotations(self) -> str:
        """The end of a message about annotation files."""
        return f"Get the originals: {self.annotations} ({_short(self.path)})" if self.annotations else ""

    @property
    def how_to_get_images(self) -> str:
        """The end of a message about images."""
        return f"{_short(self.path)} says where to get them: {self.images}" if self.images else ""


def official_release(name: str) -> OfficialRelease:
    """The shipped facts of a benchmark; nothing is known of one whose record says so (``release_facts``).

    RequestError when the file of facts is missing or broken.
    """
    if not benchmark_info(name).release_facts:
        return OfficialRelease(Path(), "", "", {})
    path = data_specs() / "benchmarks" / f"{name}.toml"
    if not path.is_file():
        raise RequestError(
            f"{path}: no such file. It holds the checksums and counts of {name}'s official annotation files; "
            "write it, or register the benchmark with release_facts=False"
        )
    return read_official_release(path)


def read_official_release(path: Path) -> OfficialRelease:
    """The facts in a file; RequestError when it is none."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error.strerror})") from None
    except tomllib.TOMLDecodeError as error:
        raise RequestError(f"{path}: not valid TOML: {error}") from None
    digests = values.get("sha256")
    if not isinstance(digests, dict) or not all(isinstance(digest, str) for digest in digests.values()):
        raise RequestError(f"{path}: no table [sha256] of file -> digest")
    commit = f" at {values['commit'][:12]}" if "commit" in values else ""
    return OfficialRelease(
        path,
        f"{values.get('annotations', '')}{commit}",
        values.get("images", ""),
        digests,
        values.get("counts", {}),
        values.get("altered", {}),
    )


def altered_files(root: Path, checksums: Mapping[str, str], known: Mapping[str, str] | None = None) -> list[str]:
    """One line for each file below ``root`` that exists and is not the official one; missing files are not altered."""
    lines = []
    for name, expected in sorted(checksums.items()):
        found = _digest(root / name)
        if found not in (None, expected):  # a split that was not fetched is no alteration
            known_change = f"; {known[name]}" if known and name in known else ""
            lines.append(f"{name}: sha256 {found[:16]}..., the official file's is {expected[:16]}...{known_change}")
    return lines


def require_official(root: Path, facts: OfficialRelease, checksums: Mapping[str, str] | None = None) -> None:
    """RequestError that names every altered annotation file (PLI, for one, ships its own toptee captions).

    The files lie in ``root``, or in the subfolders of ``root`` that hold any of them. None at all is an error too.
    ``checksums`` take the place of those in the facts, as a spec may name them.
    """
    expected = facts.sha256 if checksums is None else checksums
    folders = _folders_with(root, expected)
    if not folders:
        raise RequestError(f"{root}: none of the official annotation files is there. {facts.how_to_get_annotations}")
    _refuse([line for folder in folders for line in altered_files(folder, expected, facts.altered)], root, facts)


def refuse_mixed_files(root: Path, facts: OfficialRelease, files: Sequence[str]) -> bool:
    """Whether the ``files`` that a benchmark is read from are the official ones.

    RequestError when they are not, but lie among official files.
    """
    digests = {name: facts.sha256[name] for name in files if name in facts.sha256}
    for folder in _folders_with(root, digests):
        altered = altered_files(folder, digests, facts.altered)
        # Other files of the release beside it tell an altered copy from another data set of the same layout.
        if not altered:
            return True
        if any(_digest(folder / name) == expected for name, expected in facts.sha256.items()):
            _refuse(altered, root, facts)
    return False


def check_official_counts(bench: Benchmark, facts: OfficialRelease, missing: int = 0) -> None:
    """RequestError unless ``bench`` has the official numbers of queries and gallery images, less the ``missing``."""
    expected = _expected(bench, facts.counts)
    if expected is None:
        return
    found = len(bench.queries), len(bench.candidate_ids(0))
    if found != (expected[0], expected[1] - missing):
        less = f" (less {missing} that may be missing)" if missing else ""
        raise RequestError(
            f"{bench.where}: {found[0]:,} queries and a gallery of {found[1]:,}; the official ones are "
            f"{expected[0]:,} and {expected[1]:,}{less}. {facts.how_to_get_annotations}; images: {facts.images}"
        )


def official_gallery(bench: Benchmark, facts: OfficialRelease) -> int | None:
    """How many images the official gallery of this split and protocol has; None where that is not known."""
    expected = _expected(bench, facts.counts)
    return None if expected is None else expected[1]


def _expected(bench: Benchmark, counts: Mapping[str, Any]) -> tuple[int, int] | None:
    """(queries, gallery) of the protocol as it is when no image is missing."""
    return bench.info.expected_counts(counts, bench.split, bench.part, bench.protocol.split(WITHOUT)[0])


def _folders_with(root: Path, checksums: Mapping[str, str]) -> list[Path]:
    # A clone, or a folder that holds clones; not deeper, since image folders are large.
    folders = [root, *sorted(path for path in root.iterdir() if path.is_dir())] if root.is_dir() else []
    return [folder for folder in folders if any((folder / name).is_file() for name in checksums)]


def _refuse(altered: Sequence[str], root: Path, facts: OfficialRelease) -> None:
    if altered:
        listed = "\n  ".join(altered)
        raise RequestError(
            f"{root}: {len(altered)} annotation files were altered:\n  {listed}\n{facts.how_to_get_annotations}"
        )


def _digest(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest()


def _short(path: Path) -> str:
    return "/".join(path.parts[-3:])
