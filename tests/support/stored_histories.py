"""Stores of old things: artifacts, shared files and runs of any age, without the work that makes real ones."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from types import MappingProxyType

from zscir.lineage.environment import run_environment, worker_name
from zscir.lineage.tables import LINEAGE_SCHEMAS
from zscir.runtime.schemas import write_table
from zscir.runtime.specs import Spec
from zscir.store.artifacts import (
    MANIFEST,
    Artifact,
    FileEntry,
    InputEntry,
    Manifest,
    digest_of_files,
    make_key,
    manifest_text,
)
from zscir.store.list_files import sha256_of
from zscir.store.store import Store

STAGE = "shards"


here = cache(run_environment)


class NumberSpec(Spec):
    """A number, by which artifacts of one store differ."""

    number: int


@dataclass
class Attic:
    """A local store that a test fills with artifacts and runs of given ages, in days."""

    store: Store
    keys: list[str] = field(default_factory=list)
    runs: int = 0

    def put(self, age: float = 0, inputs: Sequence[int] = (), shared: Sequence[int] = ()) -> str:
        """The key of a new artifact with one file of its own, made from others and sharing the files of others."""
        made = [self.artifact(number) for number in inputs]
        spec = NumberSpec(number=len(self.keys))
        key = make_key(STAGE, 1, spec, {f"in{n}": parent.digest for n, parent in enumerate(made)})
        folder = Path(self.store.address(STAGE, key))
        folder.mkdir(parents=True)
        (folder / "own.bin").write_bytes(f"own {len(self.keys)} ".encode() * 100)
        entries = [
            FileEntry(
                path="own.bin", size=(folder / "own.bin").stat().st_size, sha256=sha256_of(str(folder / "own.bin"))
            )
        ]
        entries += [self.artifact(n).entries["own.bin"].shared_from(self.artifact(n), f"lent{n}.bin") for n in shared]
        named = {
            f"in{n}": InputEntry(stage=STAGE, key=parent.key, digest=parent.digest) for n, parent in enumerate(made)
        }
        manifest = Manifest(
            stage=STAGE, stage_version=1, key=key, digest=digest_of_files(entries), spec=spec.literals(), inputs=named,
            files=tuple(entries), facts={},
        )  # fmt: skip
        (folder / MANIFEST).write_text(manifest_text(manifest))
        self.keys.append(key)
        age_of(folder, age)
        return key

    def artifact(self, number: int) -> Artifact:
        """One of those that were put, by its number."""
        return self.store.get(STAGE, self.keys[number])

    def run(self, used: list[int], age: float = 0, status: str = "succeeded", pipeline: str = "toy",
            set: Sequence[str] = (), only: str | None = None, parent: str | None = None,  # noqa: A002
            chunks: Mapping[int, list[int]] = MappingProxyType({})) -> str:  # fmt: skip
        """A run that used artifacts, by their numbers; ``died`` is one whose process is gone. Its id."""
        run_id, at = f"run-{self.runs:03d}", datetime.now(UTC) - timedelta(days=age)
        self.runs += 1
        host, pid, began = worker_name().rsplit(":", 2)
        process = f"{host}:{pid}:{int(began) - 1000}" if status == "died" else worker_name()
        row = here() | {
            "run_id": run_id, "pipeline": pipeline, "spec_digest": "d", "started_at": at, "trigger": "cli",
            "status": "running" if status == "died" else status, "parent_run_id": parent,
            "finished_at": None if status in ("running", "died") else at,
            "user_config": json.dumps({"process": process, "set": list(set), "only": only, "from": None}),
        }  # fmt: skip
        steps = [{"run_id": run_id, "step": str(n), "stage": STAGE, "key": self.keys[n], "outcome": "made",
                  "started_at": at, "attempts": 1, "worker": "w"} for n in used]  # fmt: skip
        chunk_rows = [{"run_id": run_id, "step": str(whole), "piece": str(n), "stage": STAGE, "key": self.keys[n],
                "outcome": "made", "started_at": at, "wall_s": 0.0, "attempts": 1, "worker": "w"}
               for whole, parts in chunks.items() for n in parts]  # fmt: skip
        folder = Path(self.store.address("lineage", run_id))
        folder.mkdir(parents=True)
        for name, rows in (("run", [row]), ("stages", steps), ("pieces", chunk_rows)):
            write_table(folder / f"{name}.parquet", LINEAGE_SCHEMAS[name], rows)
        age_of(folder, age)
        return run_id

    def left(self) -> set[int]:
        """The numbers of the artifacts that are in the store."""
        there = {key for _, key in self.store.list_keys()}
        return {number for number, key in enumerate(self.keys) if key in there}


def age_of(folder: Path, days: float) -> None:
    """Give everything in a folder this age."""
    at = datetime.now(UTC).timestamp() - days * 86400
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (at, at))
