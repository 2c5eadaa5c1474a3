"""The errors that zscir raises on purpose: each has one message (what, where, what to do) and an exit code."""

import difflib
from collections.abc import Iterable


class ZscirError(Exception):
    """Base of every error that zscir raises on purpose; the command line prints it without a traceback."""

    exit_code = 3


class RequestError(ZscirError):
    """The request is wrong: a spec, an argument, a file or the store. Nothing was written."""

    exit_code = 2


class StageError(ZscirError):
    """A stage could not do its work; what it finished is kept, and the next attempt resumes from there."""

    exit_code = 3


class TransientError(StageError):
    """A stage failed for a reason that passes: the network, or a store or service that is too busy.

    It is retried (``runtime/retries.py``); every other error is permanent, or means that memory ran out.
    """


class OverBudget(StageError):
    """The run stopped because of its limits; ``options`` are the command-line options that raise them."""

    def __init__(self, message: str, options: str) -> None:
        super().__init__(message)
        # Kept apart from the message: they are put into the ``zscir rerun`` line that the message ends with.
        self.options = options


class GateError(ZscirError):
    """A data-quality check failed for what a stage made; the data are kept for inspection."""

    exit_code = 4


class DamageError(ZscirError):
    """Artifacts differ from their manifests; the message lists them and the commands that make them again."""

    exit_code = 4


class Interrupted(ZscirError):
    """A person or the system stopped the run; what it finished is kept."""

    exit_code = 130  # 128 + SIGINT, as shells have it


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'X'?`` with the known name that is spelled most like ``name``, or nothing when none is."""
    closest = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean '{closest[0]}'?" if closest else ""
