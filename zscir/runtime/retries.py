"""Retries: a call that fails for a passing reason becomes the same call again, after growing, random pauses.

Errors are of three classes: transient ones (TransientError) are tried again, out of memory is told apart because less
at a time may help, and all others are permanent.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from zscir.runtime.errors import TransientError
from zscir.runtime.progress import log_info

if TYPE_CHECKING:
    from tenacity import RetryCallState

T = TypeVar("T")
MAX_RETRY_WAIT_S = 300.0
# By name: torch is not imported to ask whether an error is one of its own.
OOM_ERRORS = {"MemoryError", "OutOfMemoryError", "ArrowMemoryError"}
SIZE_FIELDS = ("batch_size",)  # fields of specs that say how much is in memory at once


@dataclass(frozen=True)
class RetryPolicy:
    """On what terms work is done: further attempts, seconds before the first of them, and when (seconds since 1970)
    none is begun any more. No key knows of them.
    """

    retries: int = 2
    backoff_s: float = 2.0
    until: float | None = None

    @property
    def over(self) -> bool:
        """Whether no work is to be begun any more."""
        return self.until is not None and time.time() >= self.until


def with_retries(call: Callable[[], T], terms: RetryPolicy, count: Callable[[int], None], what: str) -> T:
    """What ``call`` gives; on a TransientError it is called again, as often as ``terms`` say.

    ``count`` is told the number of each attempt before it begins. The last error is raised as it is.
    """
    from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential, wait_random

    def counted() -> T:
        number[0] += 1
        count(number[0])
        return call()

    def tell(state: "RetryCallState") -> None:
        wait_s = state.next_action.sleep if state.next_action is not None else 0.0
        error = state.outcome.exception() if state.outcome is not None else None
        log_info(f"{what}: attempt {number[0]} of {terms.retries + 1} failed ({error}); again in {wait_s:.1f} s")

    number = [0]
    again = Retrying(
        retry=retry_if_exception_type(TransientError),
        stop=stop_after_attempt(terms.retries + 1),
        reraise=True,
        wait=wait_exponential(terms.backoff_s, max=MAX_RETRY_WAIT_S) + wait_random(0, terms.backoff_s),
        before_sleep=tell,
    )
    return again(counted)


def is_out_of_memory(error: object) -> bool:
    """Whether ``error``, or what it was raised from, says that memory (of the machine or the GPU) ran out."""
    while isinstance(error, BaseException):
        if OOM_ERRORS & {kind.__name__ for kind in type(error).__mro__}:
            return True
        error = error.__cause__
    return False


def oom_advice(step: str, literals: dict[str, Any]) -> str:
    """What a person can do about a step that ran out of memory.

    Every size in a spec enters the key and may move the last digits, so none is changed without being asked.
    """
    sizes = [f"--set {step}.{field}={max(1, size // 2)} (now {size})" for field, size in _size_fields(literals, "")]
    advice = "give it a larger machine or GPU"
    if sizes:
        advice += f", or ask for less at a time, which is another experiment with keys of its own: {', '.join(sizes)}"
    return f"out of memory; {advice}"


def _size_fields(values: dict[str, Any], prefix: str) -> Iterator[tuple[str, int]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _size_fields(value, f"{prefix}{name}.")
        elif name in SIZE_FIELDS and isinstance(value, int):
            yield f"{prefix}{name}", value
