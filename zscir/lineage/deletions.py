"""Record what gc and verify remove from a store, and why, before they remove it."""

import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from zscir.lineage.sql_views import query_store_rows
from zscir.lineage.tables import REMOVED_SCHEMA
from zscir.runtime.errors import RequestError
from zscir.runtime.schemas import write_table
from zscir.store.artifacts import Manifest, parse_manifest
from zscir.store.store import LINEAGE_FOLDER, Store

DELETIONS_EVERY_S = 5.0  # each write is the whole table, and a gc may remove thousands
DELETIONS_FILE = "removed.parquet"
REMOVING, DONE, SPARED = "removing", "removed", "spared"


class DeletionLog:
    """The removals of one command, under an id of its own beside those of the runs (``gc-...``, ``verify-...``)."""

    def __init__(self, store: Store, command: str) -> None:
        self._store = store
        self.id = f"{command}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        self._rows: dict[tuple[str, str], dict[str, Any]] = {}
        self._due = 0.0

    def record_planned(self, stage: str, key: str, size: int, files: int, why: str, manifest: str | None) -> None:
        """Add an artifact that is about to be removed; ``written`` writes these rows before anything is."""
        self._rows[stage, key] = {
            "key": key,
            "stage": stage,
            "bytes": size,
            "files": files,
            "why": why,
            "outcome": REMOVING,
            "removed_at": datetime.now(UTC),
            "removed_by": self.id,
            "manifest": manifest,  # so that `zscir show` can say what it was when its files are gone
        }

    def record_outcome(self, stage: str, key: str, outcome: str) -> None:
        """Set the outcome of one removal."""
        self._rows[stage, key].update(outcome=outcome, removed_at=datetime.now(UTC))
        if time.monotonic() >= self._due:
            self._write()

    def outcomes(self) -> list[str]:
        """The outcome of each removal."""
        return [row["outcome"] for row in self._rows.values()]

    @contextmanager
    def written(self) -> Iterator[None]:
        """Write the rows before the block, and their outcomes after it, however it ends."""
        if not self._rows:
            yield
            return
        self._write()
        try:
            yield
        finally:
            self._write()

    def _write(self) -> None:
        with tempfile.TemporaryDirectory(prefix="zscir-removed-") as folder:
            local = Path(folder) / DELETIONS_FILE
            write_table(local, REMOVED_SCHEMA, self._rows.values())
            self._store.write_file(local, LINEAGE_FOLDER, self.id, DELETIONS_FILE)
        self._due = time.monotonic() + DELETIONS_EVERY_S


def last_deletion(store: Store, key: str) -> dict[str, Any] | None:
    """The newest row about a key that was removed, or was about to be; None where there is none."""
    query = "SELECT * FROM removed WHERE key = $1 AND outcome != 'spared' ORDER BY removed_at DESC LIMIT 1"
    found = query_store_rows(store, query, [key])
    return found[0] if found else None


def deleted_manifest(removal: dict[str, Any]) -> Manifest | None:
    """The manifest that a removed artifact had; None where it could not be read any more."""
    try:
        return parse_manifest(removal["manifest"] or "", f"{removal['stage']}/{removal['key']}")
    except RequestError:
        return None
