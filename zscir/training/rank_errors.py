"""Ends: what each rank said of its error, and how its process ended, become the one error that stopped them all."""

import json
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zscir.runtime.errors import RequestError, StageError, TransientError, ZscirError
from zscir.runtime.retries import is_out_of_memory
from zscir.store.artifacts import atomic_path
from zscir.training.collectives import PeerLostError

# Of these the message is for a person; of all others the name of the class is told too.
ERROR_TYPES: dict[str, type[ZscirError]] = {
    kind.__name__: kind for kind in (PeerLostError, TransientError, StageError, RequestError)
}
LOG_TAIL_LINES = 6
RankErrorReport = dict[str, Any]


def run_and_report(work: Callable[[], None], folder: Path, rank: int) -> int:
    """Do the work of a rank and return the exit code that it earned; an error becomes ``rankN.json`` in ``folder``."""
    try:
        work()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told, and the process that asked raises it anew
        with atomic_path(folder / f"rank{rank}.json") as part:
            part.write_text(json.dumps(_report(error)), encoding="utf-8")
        return 1
    return 0


def _report(error: Exception) -> RankErrorReport:
    kind = next((name for name, one in ERROR_TYPES.items() if isinstance(error, one)), None)
    return {
        "kind": kind,
        "words": str(error) if kind else f"{type(error).__name__}: {error}",
        "out_of_memory": is_out_of_memory(error),
        "at_s": time.time(),
        "trace": "".join(traceback.format_exception(error)),
    }


def error_of_ranks(folder: Path, count: int, exits: Mapping[int, int] | None, launcher: int, log: Path) -> ZscirError:
    """The error that stopped ``count`` ranks.

    ``exits`` are the exit codes (minus the signal) of those that did not end well, None when the launcher could not
    tell; ``launcher`` is its own. What a rank says of itself comes first, then who was ended by a signal: the launcher
    ends all others by SIGTERM when one is gone, and who waits for one that is gone says no more than that.
    """
    reports = {rank: report for rank in range(count) if (report := _read(folder / f"rank{rank}.json"))}
    causes = {rank: report for rank, report in reports.items() if report["kind"] != PeerLostError.__name__}
    if causes:
        first = min(causes, key=lambda rank: float(causes[rank]["at_s"]))
        return _rebuild_error(causes[first], f"rank {first} of {count}")
    if exits is None:
        if launcher < 0:
            return TransientError(f"training on {count} ranks: their launcher was ended by {_signal(launcher)}")
        return StageError(f"training on {count} ranks: the launcher ended ({launcher}); it said: {_log_tail(log)}")
    silent = {rank: code for rank, code in exits.items() if rank not in reports}
    rank, code = min(silent.items(), key=_how_likely, default=(min(exits), 1))
    who = f"rank {rank} of {count}"
    if rank in reports:
        return _rebuild_error(reports[rank], who)
    if code < 0:
        return TransientError(f"{who} was ended by {_signal(code)}: from outside, or because memory ran out")
    return StageError(f"{who} ended with exit code {code}; the last lines of {log}: {_log_tail(log)}")


def _how_likely(silent: tuple[int, int]) -> int:
    """The order in which a rank that said nothing is taken for the first that ended."""
    _, code = silent
    return 2 if code == -signal.SIGTERM else 1 if code > 0 else 0


def _rebuild_error(report: RankErrorReport, who: str) -> ZscirError:
    """The reported error, as one of this process; ``--debug`` shows where it was raised."""
    kind = ERROR_TYPES.get(str(report["kind"]))
    error = StageError(f"{who}: {report['words']}") if kind is None else kind(f"{report['words']} ({who})")
    error.__cause__ = MemoryError(who) if report["out_of_memory"] else None
    error.add_note(f"in {who}:\n{report['trace']}")
    return error


def _read(path: Path) -> RankErrorReport | None:
    if not path.exists():
        return None
    report: RankErrorReport = json.loads(path.read_text(encoding="utf-8"))
    return report


def _signal(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _log_tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return " | ".join(lines[-LOG_TAIL_LINES:]) or "nothing"
