"""What tests of the download stage share: a table of pairs, a quick spec, and a look at what a commit would keep."""

from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.faults.hostile_server import HostileServer
from zscir.artifacts import Artifact
from zscir.records import PAIRS, write_table
from zscir.stages.download import DownloadSpec

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
    write_table(folder / "pairs.parquet", PAIRS, table)
    return Artifact.of_folder(folder)


def spec_for(server: HostileServer, **fields: Any) -> DownloadSpec:
    return DownloadSpec.parse({**QUICK, "allow_hosts": [server.host], **fields}, "test")


def files_in(out: Path) -> dict[str, str]:
    """Name and digest of what a commit would keep."""
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in sorted(out.iterdir()) if path.name[0] != "."}
