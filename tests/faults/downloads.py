"""What tests of downloads share: a table of pairs, a quick spec, a whole download, and what it holds."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.faults.hostile_server import HostileServer
from tests.support.toys import store_at
from zscir.data.download.specs import DownloadSpec
from zscir.pipeline.stage import ChunkMapper, materialize, stage_named
from zscir.runtime.schemas import IMAGES_SCHEMA, PAIRS_SCHEMA, read_rows, write_table
from zscir.store.artifacts import Artifact

QUICK: dict[str, Any] = {"deadline_s": 4.0, "retries": 1, "backoff_s": 0.05, "max_bytes": 1_000_000, "per_host": 64}


def pairs_in(folder: Path, rows: list[tuple[str, str]]) -> Artifact:
    folder.mkdir(parents=True, exist_ok=True)
    table = [
        {
            "pair_id": sha256(f"{url}\n{text}".encode()).hexdigest()[:32], "url": url, "text": text,
            "source": "test", "licence": None, "source_row": number,
        }
        for number, (url, text) in enumerate(rows)
    ]  # fmt: skip
    write_table(folder / "pairs.parquet", PAIRS_SCHEMA, table)
    return Artifact.of_folder(folder)


def spec_for(server: HostileServer, **fields: Any) -> DownloadSpec:
    return DownloadSpec.parse({**QUICK, "allow_hosts": list(server.hosts), **fields}, "test")


@dataclass(frozen=True)
class Download:
    """A finished download in a store."""

    artifact: Artifact
    outcome: str

    @property
    def facts(self) -> dict[str, Any]:
        return self.artifact.facts

    def rows(self) -> list[dict[str, Any]]:
        return read_rows(self.artifact.path("images.parquet"), IMAGES_SCHEMA)

    def digests(self) -> dict[str, str]:
        """Name and SHA-256 of what it holds, of the bytes themselves."""
        return {name: sha256(self.artifact.path(name).read_bytes()).hexdigest() for name in self.artifact.files()}


def download(folder: Path, spec: DownloadSpec, pairs: Artifact, mapper: ChunkMapper | None = None) -> Download:
    """Download into the store of ``folder``."""
    made = materialize(store_at(folder / "store", folder / "cache"), stage_named("download"), spec, {"pairs": pairs},
                       mapper)  # fmt: skip
    return Download(made.artifact, made.outcome)


def files_in(out: Path) -> dict[str, str]:
    """Name and digest of what a commit would keep."""
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in sorted(out.iterdir()) if path.name[0] != "."}
