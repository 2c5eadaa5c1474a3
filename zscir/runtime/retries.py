"""Retry a step or a chunk that failed with a TransientError, and recognise that memory ran out.

Errors are of three classes: a TransientError is retried, out of memory is reported with advice because smaller batches
may help, and all others are permanent.
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
# By name, so that torch is not imported to test for one of its errors.
OOM_ERRORS = {"MemoryError", "OutOfMemoryError", "ArrowMemoryError"}
SIZE_FIELDS = ("batch_size",)  # fields of specs that say how much is in memory at once


@dataclass(frozen=True)
class RetryPolicy:
    """How often a step or a chunk is tried again. It enters no key: the result is the same.

    ``retries``: further attempts; ``backoff_s``: seconds before the first of them, doubled for each later one;
    ``until``: the time, in seconds since 1970, after which no attempt starts.
    """

    retries: int = 2
    backoff_s: float = 2.0
    until: float | None = None

    @property
    def is_past_deadline(self) -> bool:
        """Whether ``until`` has passed, so that no attempt may start."""
        return self.until is not None and time.time() >= self.until


def with_retries(call: Callable[[], T], policy: RetryPolicy, on_attempt: Callable[[int], None], what: str) -> T:
    """The result of ``call``, which is called again on a TransientError, as often as ``policy`` says.

    ``on_attempt`` gets the number of each attempt, from 1, before it starts. The last error is raised as it is.
    """
    from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential, wait_random

    def log_retry(state: "RetryCallState") -> None:
        wait_s = state.next_action.sleep if state.next_action is not None else 0.0
        error = state.outcome.exception() if state.outcome is not None else None
        log_info(
            f"{what}: attempt {state.attempt_number} of {policy.retries + 1} failed ({error}); again in {wait_s:.1f} s"
        )

    retrying = Retrying(
        retry=retry_if_exception_type(TransientError),
        stop=stop_after_attempt(policy.retries + 1),
        # Else tenacity raises a RetryError of its own, which no caller knows.
        reraise=True,
        # The random part keeps the chunks of a step, which fail together, from coming back together.
        wait=wait_exponential(policy.backoff_s, max=MAX_RETRY_WAIT_S) + wait_random(0, policy.backoff_s),
        before=lambda state: on_attempt(state.attempt_number),
        before_sleep=log_retry,
    )
    return retrying(call)


def is_out_of_memory(error: object) -> bool:
    """Whether ``error``, or an error it was raised from, means that memory (of the machine or the GPU) ran out."""
    while isinstance(error, BaseException):
        if OOM_ERRORS & {kind.__name__ for kind in type(error).__mro__}:
            return True
        # Stages wrap what a library raises (``raise ... from``): the memory error may lie a few levels down.
        error = error.__cause__
    return False


def oom_advice(step: str, literals: dict[str, Any]) -> str:
    """What a person can do about a step that ran out of memory, as one line.

    Nothing is lowered automatically: a batch size enters the key and may change the last digits of the result.
    """
    sizes = [f"--set {step}.{field}={max(1, size // 2)} (now {size})" for field, size in _size_fields(literals, "")]
    advice = "give it a larger machine or GPU"
    if sizes:
        advice += f", or use smaller batches, which is another experiment with keys of its own: {', '.join(sizes)}"
    return f"out of memory; {advice}"


def _size_fields(values: dict[str, Any], prefix: str) -> Iterator[tuple[str, int]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _size_fields(value, f"{prefix}{name}.")
        elif name in SIZE_FIELDS and isinstance(value, int):
            yield f"{prefix}{name}", value
