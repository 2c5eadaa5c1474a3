"""Find the error that stopped a training on several ranks, from their error reports and exit codes."""

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

# The messages of these are written for a person; those of all others are shown with the name of their class.
ERROR_TYPES: dict[str, type[ZscirError]] = {
    kind.__name__: kind for kind in (PeerLostError, TransientError, StageError, RequestError)
}
LOG_TAIL_LINES = 6
RankErrorReport = dict[str, Any]


def run_and_report(train: Callable[[], None], folder: Path, rank: int) -> int:
    """Run ``train`` and return the rank's exit code; an error is written to ``rankN.json`` in ``folder``."""
    try:
        train()
    except Exception as error:  # noqa: BLE001 - any error is reported, and raised again in the launching process
        with atomic_path(folder / f"rank{rank}.json") as part:
            part.write_text(json.dumps(_report(error)), encoding="utf-8")
        return 1
    return 0


def _report(error: Exception) -> RankErrorReport:
    kind = next((name for name, error_type in ERROR_TYPES.items() if isinstance(error, error_type)), None)
    return {
        "kind": kind,
        "words": str(error) if kind else f"{type(error).__name__}: {error}",
        "out_of_memory": is_out_of_memory(error),
        "at_s": time.time(),
        "trace": "".join(traceback.format_exception(error)),
    }


def error_of_ranks(
    folder: Path, count: int, exits: Mapping[int, int] | None, launcher_exit_code: int, log: Path
) -> ZscirError:
    """The error that stopped ``count`` ranks.

    ``exits`` are the exit codes (minus the signal) of the ranks that failed, None when the launcher wrote none. A
    rank's own report counts most, then a death by signal: when one rank is gone the launcher ends all others by
    SIGTERM, and a rank that waits for a lost one reports no more than that.
    """
    reports = {rank: report for rank in range(count) if (report := _read(folder / f"rank{rank}.json"))}
    # A rank that lost its peer only reports that another one failed; the earliest of the others is the cause.
    causes = {rank: report for rank, report in reports.items() if report["kind"] != PeerLostError.__name__}
    if causes:
        first = min(causes, key=lambda rank: float(causes[rank]["at_s"]))
        return _rebuild_error(causes[first], f"rank {first} of {count}")
    if exits is None:
        if launcher_exit_code < 0:
            killer = _signal(launcher_exit_code)
            return TransientError(f"training on {count} ranks: their launcher was ended by {killer}")
        return StageError(
            f"training on {count} ranks: the launcher ended with exit code {launcher_exit_code}; "
            f"the last lines of {log}: {_log_tail(log)}"
        )
    silent = {rank: code for rank, code in exits.items() if rank not in reports}
    rank, code = min(silent.items(), key=_how_likely, default=(min(exits), 1))
    who = f"rank {rank} of {count}"
    if rank in reports:
        return _rebuild_error(reports[rank], who)
    if code < 0:
        return TransientError(f"{who} was ended by {_signal(code)}: from outside, or because memory ran out")
    return StageError(f"{who} ended with exit code {code}; the last lines of {log}: {_log_tail(log)}")


def _how_likely(silent: tuple[int, int]) -> int:
    """How likely a rank without a report was the first to end, best first."""
    _, code = silent
    # SIGTERM comes from the launcher, after another rank had ended; any other signal came from outside.
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
