"""Heartbeats: a run under way leaves a sign of life in the store every half minute; one that leaves none has died.

On the machine where a run was started its process is asked. From anywhere else only the file ``heartbeat.json`` beside
its tables can tell: how long ago the *store* says it was written, by the store's own clock (the ``Date`` of S3's
answer; on a shared disk the time that the disk gives a file written now). No two machines' clocks are compared.
"""

import json
import os
import platform
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from zscir.lineage.environment import is_alive, status_now, worker_name
from zscir.runtime.errors import StageError
from zscir.runtime.progress import note
from zscir.runtime.specs import canonical_json
from zscir.store.file_locks import BOOT
from zscir.store.store import LINEAGE, Store
from zscir.store.store_clock import times_of

FILE = "heartbeat.json"
EVERY_S = 30.0
MISSED = 10  # beats in a row, five minutes: longer than the patience with a store that is away
LET_GO_S = 5.0


class Heart:
    """The heartbeat of a run of this process: the first beat at once, so that no run is without one; after ``start``
    one every ``every_s`` in a thread. StageError when not even the first one can be written.
    """

    def __init__(self, store: Store, run_id: str, every_s: float = EVERY_S) -> None:
        self._store = store
        self._run_id = run_id
        self._every_s = every_s
        self._number = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, daemon=True, name="zscir-heartbeat")
        self._beat()

    def start(self) -> None:
        """Go on beating."""
        self._thread.start()

    def stop(self) -> None:
        """No beat after this one; a beat that the store holds up is not waited for."""
        self._over.set()
        self._thread.join(LET_GO_S)

    def _beat_on(self) -> None:
        while not self._over.wait(self._every_s):
            try:
                self._beat()
            except StageError as error:
                note(f"run {self._run_id}: no heartbeat could be written ({error}); going on")

    def _beat(self) -> None:
        self._number += 1
        values = {
            "host": platform.node(), "pid": os.getpid(), "process": worker_name(), "place": place(),
            "beat": self._number, "every_s": self._every_s,
        }  # fmt: skip
        with tempfile.TemporaryDirectory(prefix="zscir-heartbeat-") as folder:
            local = Path(folder) / FILE
            local.write_text(canonical_json(values), encoding="utf-8")
            self._store.write_file(local, LINEAGE, self._run_id, FILE)


@dataclass(frozen=True)
class Sign:
    """What the last heartbeat of a run says: whose it is, and how often they come."""

    process: str
    place: str
    every_s: float


def place() -> str:
    """The boot of this machine and its space of process numbers, which each container has its own of; may be empty."""
    try:
        return f"{BOOT.read_text().strip()}:{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def last_sign(store: Store, run_id: str) -> Sign | None:
    """The last heartbeat of a run, if it left one that can be read."""
    text = store.read_text(LINEAGE, run_id, FILE)
    with suppress(ValueError, KeyError, TypeError):
        values = json.loads(text or "")
        return Sign(values["process"], values["place"], float(values["every_s"]))
    return None


def last_beat(store: Store, run_id: str) -> tuple[datetime, datetime] | None:
    """When the last heartbeat of a run was written and what time it is now, both by the store's clock.

    None when there is none, or when the store's clock cannot be read: on a shared disk that takes the right to write.
    """
    return times_of(store, LINEAGE, run_id, FILE)


def status_of(store: Store, run: dict[str, Any]) -> str:
    """The status of a row of the ``run`` table; ``died`` when it says running and its process is gone or silent."""
    if run["status"] != "running":
        return str(run["status"])
    sign = last_sign(store, run["run_id"])
    if sign is None:
        return status_now(run)
    if sign.place == place() != "":
        return "running" if is_alive(sign.process) else "died"
    times = last_beat(store, run["run_id"])
    silent = times is not None and (times[1] - times[0]).total_seconds() > MISSED * sign.every_s
    return "died" if silent else "running"
