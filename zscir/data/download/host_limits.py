"""Limits per host: requests at a time, requests per second, and a circuit breaker while it is busy or down.

A host that answers 429 or 503 is busy: it gets no request until a back-off, which doubles, or its Retry-After is over.
One with connection failures in a row is down, for a time that doubles too. Then a single request probes it; if that is
answered the host is healthy, and the number of requests at a time grows back step by step.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from zscir.data.download.failures import TRANSIENT_ERRORS, FetchFailure
from zscir.data.download.fetch_spec import BREAKER_FAILURES, BREAKER_S, FetchSpec
from zscir.data.download.headers import back_off_s
from zscir.data.download.url_deadline import WaitBudget, loop_time

BUSY_ERROR_CLASSES = {"http_429", "http_503"}
DOWN_ERROR_CLASSES = {"timeout", "connect", "incomplete", "dns_unanswered"}
MAX_IDLE_HOSTS = 10_000
MAX_BACK_OFF_S = 600.0  # no back-off of our own is longer
CONCURRENCY_GAIN = 0.2  # of a slot, per slot in use, for each answer: 120 answers from 4 slots to 8


class HostLimits:
    """All hosts of one event loop. A healthy, idle one is forgotten at once, any other when there are very many."""

    def __init__(self, spec: FetchSpec) -> None:
        self._spec = spec
        self._hosts: dict[str, _Host] = {}
        self._forget_at = MAX_IDLE_HOSTS

    @asynccontextmanager
    async def slot(self, name: str, wait_budget: WaitBudget) -> AsyncIterator[None]:
        """Wait until ``name`` may get a request, then hold one of its slots; how the block ends is its health.

        Raises FetchFailure `host_busy` or `host_down` when that would take longer than ``wait_budget``.
        """
        if len(self._hosts) >= self._forget_at:
            self._forget_idle()
        host = self._hosts.setdefault(name, _Host(self._spec))
        await host.acquire()
        try:
            await host.wait_until_allowed(wait_budget)
            began = loop_time()
            try:
                yield
            except FetchFailure as failure:
                host.record_result(began, failure)
                raise
            host.record_result(began, None)
        finally:
            host.release()
            if host.is_healthy_and_idle():
                self._hosts.pop(name, None)

    def _forget_idle(self) -> None:
        """Forget unhealthy hosts too, if idle: a list of 10^9 URLs has millions that failed once."""
        self._hosts = {name: host for name, host in self._hosts.items() if host.in_use() or host.is_blocked()}
        self._forget_at = max(MAX_IDLE_HOSTS, 2 * len(self._hosts))


class _Host:
    def __init__(self, spec: FetchSpec) -> None:
        self._spec = spec
        self._in_flight = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._concurrency = float(spec.per_host)  # halved by each trip, grows back with CONCURRENCY_GAIN
        self._next_at = 0.0  # when the rate allows the next request
        self._failures = 0  # in a row
        self._trips = 0  # of the breaker, in a row; 0: the host is healthy
        self._blocked_as = "host_busy"
        self._blocked_at = 0.0  # requests begun before this say nothing new
        self._blocked_until = 0.0

    async def acquire(self) -> None:
        """Get one of the slots, first come first served."""
        if not self._queue and self._in_flight < self._capacity():
            self._in_flight += 1
            return
        waiter = asyncio.get_running_loop().create_future()
        self._queue.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled():  # woken and cancelled at the same moment
                self.release()
            raise

    def release(self) -> None:
        """Give the slot to the next."""
        self._in_flight -= 1
        self._wake_waiters()

    async def wait_until_allowed(self, wait_budget: WaitBudget) -> None:
        """Sleep until the host may get a request. Raises FetchFailure when that is too long for ``wait_budget``."""
        while True:
            while (blocked_s := self._blocked_until - loop_time()) > 0:
                if blocked_s > wait_budget.left_s:
                    raise FetchFailure(self._blocked_as, TRANSIENT_ERRORS[self._blocked_as])
                wait_budget.left_s -= blocked_s
                await asyncio.sleep(blocked_s)
            if self._spec.max_per_s is None:
                return
            at = max(loop_time(), self._next_at)
            self._next_at = at + 1 / self._spec.max_per_s
            await asyncio.sleep(at - loop_time())
            if self._blocked_until <= loop_time():
                return

    def record_result(self, began: float, failure: FetchFailure | None) -> None:
        """Open or close the breaker after a request that began at ``began``."""
        kind = failure.error_class if failure else ""
        fresh = began >= self._blocked_at
        if failure and kind in BUSY_ERROR_CLASSES:
            if fresh:
                self._open_breaker("host_busy", self._spec.backoff_s)
            self._blocked_until = max(self._blocked_until, loop_time() + (failure.retry_after_s or 0.0))
        elif kind in DOWN_ERROR_CLASSES:
            if kind == "timeout" and loop_time() - began < self._spec.deadline_s / 2:
                return  # earlier hops had used up most of the URL's time: it says little about this host
            self._failures += 1
            if fresh and (self._trips or self._failures >= (self._spec.breaker_failures or BREAKER_FAILURES)):
                self._open_breaker("host_down", self._spec.breaker_s or BREAKER_S)
        else:
            self._failures = 0
            if fresh:
                self._trips = 0
                self._concurrency = min(
                    float(self._spec.per_host), self._concurrency + CONCURRENCY_GAIN / self._concurrency
                )

    def in_use(self) -> bool:
        """Whether a request is under way or waits."""
        return bool(self._in_flight or self._queue)

    def is_blocked(self) -> bool:
        """Whether it may get no request now."""
        return max(self._blocked_until, self._next_at) > loop_time()

    def is_healthy_and_idle(self) -> bool:
        """Whether a new object for this host would behave the same."""
        sick = self._trips or self._failures or self._concurrency < self._spec.per_host
        return not (self.in_use() or sick or self.is_blocked())

    def _open_breaker(self, why: str, first_s: float) -> None:
        self._trips += 1
        self._concurrency = max(1.0, self._concurrency / 2)
        self._blocked_as, self._blocked_at = why, loop_time()
        # min: 2.0 ** 1024 is an error
        self._blocked_until = self._blocked_at + min(MAX_BACK_OFF_S, back_off_s(min(self._trips, 30), first_s))

    def _capacity(self) -> int:
        return 1 if self._trips else int(self._concurrency)

    def _wake_waiters(self) -> None:
        while self._queue and self._in_flight < self._capacity():
            waiter = self._queue.popleft()
            if not waiter.done():
                self._in_flight += 1
                waiter.set_result(None)
