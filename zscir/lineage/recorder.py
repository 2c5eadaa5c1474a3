"""Record the lineage of a run as it goes: each event rewrites the tables that it changes."""

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from zscir.lineage.environment import redact, run_environment, worker_name
from zscir.lineage.resource_usage import ResourceMeter
from zscir.lineage.tables import LINEAGE_SCHEMAS
from zscir.runtime.schemas import write_table
from zscir.runtime.specs import canonical_json
from zscir.store.artifacts import Artifact
from zscir.store.store import LINEAGE_FOLDER, Store

CHUNK_ROWS_EVERY_S = 2.0
# (key, digest) -> what an earlier run wrote about the artifact
PriorArtifactFn = Callable[[str, str], dict[str, Any] | None]


@dataclass(frozen=True)
class RunInfo:
    """What is known of a run before it starts."""

    run_id: str
    pipeline: str
    spec_digest: str
    trigger: str
    user_config: str
    parent_run_id: str | None = None


def no_prior_artifact(key: str, digest: str) -> None:
    """No earlier run wrote about the artifact: for the first run of a store."""


class Recorder:
    """Writes the lineage of one run. Readable at any moment: each table is replaced in one step."""

    def __init__(self, store: Store, info: RunInfo, prior: PriorArtifactFn = no_prior_artifact) -> None:
        self.store = store
        self.run_id = info.run_id
        self._prior = prior
        self._lock = threading.Lock()
        self._run: dict[str, Any] = {
            **vars(info),
            **run_environment(),
            "status": "running",
            "started_at": datetime.now(UTC),
            "finished_at": None,
            "flow_run_id": None,
        }
        self._rows: dict[str, dict[Any, dict[str, Any]]] = {
            "stages": {},
            "artifacts": {},
            "edges": {},
            "pieces": {},
            "gates": {},
        }
        self._chunks_due = 0.0  # on the monotonic clock: when the chunks may be written again
        self._write("run", "stages", "artifacts", "edges")

    def set_flow_run(self, flow_run_id: str) -> None:
        """Note Prefect's id of this run."""
        self._run["flow_run_id"] = flow_run_id
        self._write("run")

    @contextmanager
    def step(self, step: str, stage: str, attempts: int = 1) -> Iterator[dict[str, Any]]:
        """Record one step: ``running`` now, then what the block puts into the yielded row, or its error.

        Times and memory that the block puts there stay, since another process may have done the work.
        """
        row = {
            "run_id": self.run_id,
            "step": step,
            "stage": stage,
            "key": None,
            "outcome": "running",
            "reason": None,
            "started_at": datetime.now(UTC),
            "attempts": attempts,
            "worker": worker_name(),
        }
        self._put("stages", step, row)
        meter = ResourceMeter()
        try:
            yield row
        # Ctrl-C and SIGTERM, too: a step that was interrupted must not stay ``running``.
        except BaseException as error:
            # Redacted before it is cut: half a secret would not be recognised.
            row.update(outcome="failed", error=redact(f"{type(error).__name__}: {error}")[:2000])
            raise
        finally:
            # What the block has measured itself wins over the meter of this process.
            row.update({**meter.stop(), **row, "finished_at": datetime.now(UTC)})
            self._put("stages", step, row)
            if self._rows["pieces"]:
                self._write("pieces")

    def reuse(self, step: str, stage: str, artifact: Artifact, reason: str) -> None:
        """Record a step that needed no work."""
        row = {
            "run_id": self.run_id,
            "step": step,
            "stage": stage,
            "key": artifact.key,
            "outcome": "reused",
            "reason": reason,
            "started_at": datetime.now(UTC),
            "finished_at": datetime.now(UTC),
            "wall_s": 0.0,
            "cpu_s": 0.0,
            "attempts": 0,
            "worker": worker_name(),
        }
        self._rows["stages"][step] = row
        self._note_artifact(artifact)

    def add_artifact(self, artifact: Artifact) -> None:
        """Record an artifact and the edges to its inputs; one made by an earlier run keeps that run as its maker."""
        self._note_artifact(artifact)
        self._write("artifacts", "edges")

    def _note_artifact(self, artifact: Artifact) -> None:
        manifest = artifact.manifest
        if manifest is None:
            return
        before = self._prior(artifact.key, artifact.digest)
        if before is not None:
            self._rows["artifacts"][artifact.key] = before
        else:
            rows = manifest.facts.get("rows")
            self._rows["artifacts"][artifact.key] = {
                "key": artifact.key,
                "stage": artifact.stage,
                "stage_version": manifest.stage_version,
                "digest": artifact.digest,
                "uri": f"{self.store.location}/{artifact.stage}/{artifact.key}",
                "bytes": sum(entry.size for entry in manifest.files),
                "files": len(manifest.files),
                "rows": rows if isinstance(rows, int) else None,
                "facts": canonical_json(manifest.facts),
                "created_at": datetime.now(UTC),
                "created_by_run": self.run_id,
            }
        for role, source in manifest.inputs.items():
            self._note_edge(artifact.key, role, source.key)
        for entry in manifest.files:
            if entry.home:
                self._note_edge(artifact.key, f"pieces.{entry.path}", entry.home.split("/")[1])

    def _note_edge(self, child: str, role: str, parent: str) -> None:
        self._rows["edges"][(child, role)] = {"child_key": child, "role": role, "parent_key": parent}

    def add_chunk(self, step: str, chunk: dict[str, Any]) -> None:
        """Record one chunk of a step. Thousands may end in a minute, so the table is not rewritten for each."""
        self._rows["pieces"][(step, chunk["piece"])] = {"run_id": self.run_id, "step": step, **chunk}
        began = time.monotonic()
        if began >= self._chunks_due:
            self._write("pieces")
            # Twenty times as long as the last write: however large the table, writing takes about 5 % of the time.
            self._chunks_due = time.monotonic() + max(CHUNK_ROWS_EVERY_S, 20 * (time.monotonic() - began))

    def add_check_results(self, step: str, key: str, results: list[dict[str, Any]]) -> None:
        """Record the results of the data-quality checks of one step."""
        for row in results:
            name = (step, row["metric"], row["threshold"])
            self._rows["gates"][name] = {"run_id": self.run_id, "step": step, "key": key, **row}
        if results:
            self._write("gates")

    def record_failure(self, step: str, error: str) -> None:
        """Record that a check failed for a step that was recorded as reused."""
        self._rows["stages"][step].update(outcome="failed", error=redact(error)[:2000])

    def steps(self) -> list[dict[str, Any]]:
        """The rows of the stages table so far, in the order in which the steps began."""
        return list(self._rows["stages"].values())

    def last_step(self) -> str:
        """The step that was under way last; empty when none was."""
        return str(next(reversed(self._rows["stages"]), ""))

    def finish(self, status: str) -> None:
        """Close the run as succeeded, failed or interrupted."""
        self._run.update(status=status, finished_at=datetime.now(UTC))
        # The run's own table last: who reads there that it is over finds the others complete.
        self._write("stages", "artifacts", "edges", "run")

    def _put(self, table: str, key: str, row: dict[str, Any]) -> None:
        # A copy: the caller goes on to change its row, maybe while another thread writes the table.
        self._rows[table][key] = dict(row)
        self._write(table)

    def _write(self, *names: str) -> None:
        # Locked until it is in the store: an older table must not arrive after a newer one.
        with self._lock, tempfile.TemporaryDirectory(prefix="zscir-lineage-") as folder:
            for name in names:
                rows = [self._run] if name == "run" else list(self._rows[name].values())
                local = Path(folder) / f"{name}.parquet"
                write_table(local, LINEAGE_SCHEMAS[name], rows)
                self.store.write_file(local, LINEAGE_FOLDER, self.run_id, local.name)
