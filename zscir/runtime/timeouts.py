"""Limit the wall-clock time of a block, even while it sleeps or waits in a blocking call."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from zscir.runtime.errors import ZscirError
from zscir.runtime.progress import log_warning


class _TimeLimitReached(BaseException):
    """Raised in the middle of other code; not an Exception, so that no ``except Exception`` there catches it."""


@contextmanager
def time_limit(limit_s: float | None, timeout_error: Callable[[], ZscirError]) -> Iterator[None]:
    """Raise ``timeout_error()`` in the block when it takes more than ``limit_s`` seconds of wall clock; None: no limit.

    The system's timer interrupts the main thread, blocking calls included. Another thread cannot be interrupted:
    there a warning says so, and the error is raised when the block has ended.
    """
    if limit_s is None:
        yield
    elif threading.current_thread() is threading.main_thread():
        with _alarm_after(limit_s, timeout_error):
            yield
    else:
        log_warning(
            f"the limit of {limit_s:.0f} s cannot interrupt work outside the main thread; it is checked afterwards"
        )
        began = time.monotonic()
        yield
        if time.monotonic() - began > limit_s:
            raise timeout_error()


@contextmanager
def _alarm_after(limit_s: float, timeout_error: Callable[[], ZscirError]) -> Iterator[None]:
    under_way = True

    def ring(number: int, frame: FrameType | None) -> None:
        # The timer may go off after the block and before it is reset: then nothing is late.
        if under_way:
            raise _TimeLimitReached

    # Sleeps and sockets are interrupted too: a handler that raises ends the system call (PEP 475).
    before = signal.signal(signal.SIGALRM, ring)
    began = time.monotonic()
    left_s, every_s = signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    except _TimeLimitReached as alarm:
        raise timeout_error() from alarm
    finally:
        under_way = False
        # The timer that was set before continues with what is left of it: pytest-timeout uses the same one.
        rest_s = max(0.001, left_s - (time.monotonic() - began)) if left_s else 0.0
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, rest_s, every_s)
