"""Errors that a person reads: each carries one message (what, where, what to do) and an exit code."""

import difflib
from collections.abc import Iterable


class ZscirError(Exception):
    """Base of every error that zscir raises on purpose; the command line prints it without a traceback."""

    exit_code = 3


class RequestError(ZscirError):
    """The request is wrong: a spec, an argument, a file or the store. Nothing was written."""

    exit_code = 2


class StageError(ZscirError):
    """A stage could not do its work; what it finished is kept and the next attempt goes on from there."""

    exit_code = 3


class TransientError(StageError):
    """A stage failed for a reason that passes: the network of the store or of a service, or one that is too busy.

    It is tried again (zscir/runtime/retries.py); every other error is permanent, or says that memory ran out.
    """


class OverBudget(StageError):
    """The run stopped because its limits do not let it go on; ``again`` holds the options that would."""

    def __init__(self, message: str, again: str) -> None:
        super().__init__(message)
        self.again = again


class GateError(ZscirError):
    """A data gate refused what a stage made; the data are kept for a look."""

    exit_code = 4


class DamageError(ZscirError):
    """Artifacts are not what their manifests say; which, and what makes them again, stands in the message."""

    exit_code = 4


class Interrupted(ZscirError):
    """A person or the system told the run to stop; what it finished is kept."""

    exit_code = 130


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'X'?`` with the known name that is spelled most like ``name``, or nothing when none is."""
    closest = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean '{closest[0]}'?" if closest else ""
