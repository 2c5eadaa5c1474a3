"""Outside: a folder that a step read with ``file:`` becomes an artifact to look into, listed but not hashed again."""

from pathlib import Path

from zscir.pipeline.input_references import FILE_PREFIX
from zscir.report.run_data import RunRecord, pipeline_of
from zscir.store.artifacts import Artifact, FileEntry, FolderSource


def external_artifact(record: RunRecord, step: str, role: str, seen: dict[str, Artifact]) -> Artifact | None:
    """What lies now in the folder that ``step`` read as ``role``; None when that cannot be told any more.

    ``seen`` keeps what was listed, by reference.
    """
    pipeline = pipeline_of(record.row)
    found = [one.inputs.get(role) for one in pipeline.steps if one.name == step] if pipeline is not None else []
    reference = found[0] if found else None
    if not isinstance(reference, str) or not reference.startswith(FILE_PREFIX):
        return None
    root = Path(reference.removeprefix(FILE_PREFIX))
    if reference not in seen and root.is_dir():
        seen[reference] = list_folder(root)
    return seen.get(reference)


def list_folder(root: Path) -> Artifact:
    """The files below ``root`` with their sizes; links are left out."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    entries = [FileEntry(path=one.relative_to(root).as_posix(), size=one.stat().st_size, sha256="") for one in files]
    return Artifact("file", str(root), "", {one.path: one for one in entries}, source=FolderSource(root))
