"""Heartbeats: a run writes ``heartbeat.json`` to the store every half minute; a run whose heartbeat stops has died.

On the machine where a run was started its process is checked instead. From any other machine only the age of the file
counts, by the store's own clock (the ``Date`` of S3's answer; on a shared disk the time that the disk gives a file
written now). No two machines' clocks are compared.
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

from zscir.lineage.environment import is_worker_alive, status_by_process, worker_name
from zscir.runtime.errors import StageError
from zscir.runtime.progress import log_info
from zscir.runtime.specs import canonical_json
from zscir.store.file_locks import BOOT_ID_FILE
from zscir.store.store import LINEAGE_FOLDER, Store
from zscir.store.store_clock import file_time_and_now

HEARTBEAT_FILE = "heartbeat.json"
HEARTBEAT_EVERY_S = 30.0  # 120 small writes an hour
MAX_MISSED_BEATS = 10  # beats in a row, five minutes: longer than calls to an unreachable store are retried
HEARTBEAT_STOP_S = 5.0  # a run that is over does not wait for retries against a store that is away


class Heartbeat:
    """The heartbeat of a run of this process: the first beat at once, so that no run is without one; after ``start``
    one every ``every_s`` in a thread. StageError when not even the first one can be written.
    """

    def __init__(self, store: Store, run_id: str, every_s: float = HEARTBEAT_EVERY_S) -> None:
        self._store = store
        self._run_id = run_id
        self._every_s = every_s
        self._number = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, daemon=True, name="zscir-heartbeat")
        self._beat()

    def start(self) -> None:
        """Start the thread of the later beats."""
        self._thread.start()

    def stop(self) -> None:
        """No beat after this one; a beat that the store holds up is not waited for."""
        self._over.set()
        self._thread.join(HEARTBEAT_STOP_S)

    def _beat_on(self) -> None:
        while not self._over.wait(self._every_s):
            try:
                self._beat()
            except StageError as error:
                log_info(f"run {self._run_id}: no heartbeat could be written ({error}); the run continues")

    def _beat(self) -> None:
        self._number += 1
        values = {
            "host": platform.node(),
            "pid": os.getpid(),
            "process": worker_name(),
            # A host name is not enough: containers may share it and have process numbers of their own.
            "place": process_namespace(),
            "beat": self._number,
            "every_s": self._every_s,
        }
        with tempfile.TemporaryDirectory(prefix="zscir-heartbeat-") as folder:
            local = Path(folder) / HEARTBEAT_FILE
            local.write_text(canonical_json(values), encoding="utf-8")
            self._store.write_file(local, LINEAGE_FOLDER, self._run_id, HEARTBEAT_FILE)


@dataclass(frozen=True)
class HeartbeatRecord:
    """What the last heartbeat of a run says: whose it is, and how often they come."""

    process: str
    place: str
    every_s: float


def process_namespace() -> str:
    """The boot of this machine and its space of process numbers, which each container has its own of; may be empty."""
    try:
        return f"{BOOT_ID_FILE.read_text().strip()}:{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def read_heartbeat(store: Store, run_id: str) -> HeartbeatRecord | None:
    """The last heartbeat of a run, if it left one that can be read."""
    text = store.read_text(LINEAGE_FOLDER, run_id, HEARTBEAT_FILE)
    with suppress(ValueError, KeyError, TypeError):
        values = json.loads(text or "")
        return HeartbeatRecord(values["process"], values["place"], float(values["every_s"]))
    return None


def heartbeat_times(store: Store, run_id: str) -> tuple[datetime, datetime] | None:
    """When the last heartbeat of a run was written and what time it is now, both by the store's clock.

    None when there is none, or when the store's clock cannot be read: on a shared disk that takes the right to write.
    """
    return file_time_and_now(store, LINEAGE_FOLDER, run_id, HEARTBEAT_FILE)


def run_status(store: Store, run: dict[str, Any]) -> str:
    """The status of a row of the ``run`` table; ``died`` when it says running and its process is gone or silent."""
    if run["status"] != "running":
        return str(run["status"])
    sign = read_heartbeat(store, run["run_id"])
    if sign is None:
        return status_by_process(run)
    # Here the process table says it for certain and at once; the age of a file does neither.
    if sign.place == process_namespace() != "":
        return "running" if is_worker_alive(sign.process) else "died"
    times = heartbeat_times(store, run["run_id"])
    silent = times is not None and (times[1] - times[0]).total_seconds() > MAX_MISSED_BEATS * sign.every_s
    return "died" if silent else "running"
