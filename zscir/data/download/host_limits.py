"""Hosts: what a host answers becomes when it is asked next: a few at a time, at a rate, not while it is busy or down.

A host that answers 429 or 503 is busy: nobody asks it until a back-off, which doubles, or its Retry-After is over.
One that lets connection after connection fail is down, for a while that doubles too. Then a single request finds out;
if it is answered the host is well again, and as many requests at a time as before come back one by one.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from zscir.data.download.failures import TRANSIENT_ERRORS, FetchFailure
from zscir.data.download.fetch_spec import BREAKER_FAILURES, BREAKER_S, FetchSpec
from zscir.data.download.headers import back_off_s

BUSY_ERROR_CLASSES = {"http_429", "http_503"}
DOWN_ERROR_CLASSES = {"timeout", "connect", "incomplete", "dns_unanswered"}
MAX_IDLE_HOSTS = 10_000  # hosts
MAX_BACK_OFF_S = 600.0  # no back-off of our own is longer
CONCURRENCY_GAIN = 0.2  # of a place, per place in use, for each answer: 120 answers from 4 places to 8


class WaitBudget:
    """The seconds that a URL still has for waiting until hosts are well."""

    def __init__(self, left_s: float) -> None:
        self.left_s = left_s


class HostLimits:
    """All hosts of one event loop; one that is well and in nobody's use is forgotten, any other some day too."""

    def __init__(self, spec: FetchSpec) -> None:
        self._spec = spec
        self._hosts: dict[str, _Host] = {}
        self._tidy_at = MAX_IDLE_HOSTS

    @asynccontextmanager
    async def turn(self, name: str, patience: WaitBudget) -> AsyncIterator[None]:
        """Wait until ``name`` may be asked, then hold one of its slots; a Failure of the block tells how the host is.

        Raises Failure `host_busy` or `host_down` when that would take longer than ``patience``.
        """
        if len(self._hosts) >= self._tidy_at:
            self._tidy()
        host = self._hosts.setdefault(name, _Host(self._spec))
        await host.enter()
        try:
            await host.wait(patience)
            began = _now()
            try:
                yield
            except FetchFailure as failure:
                host.learn(began, failure)
                raise
            host.learn(began, None)
        finally:
            host.leave()
            if host.forgettable():
                self._hosts.pop(name, None)

    def _tidy(self) -> None:
        """Forget hosts that nobody waits for: a list of 10^9 URLs has millions that failed once."""
        self._hosts = {name: host for name, host in self._hosts.items() if host.in_use() or host.shut()}
        self._tidy_at = max(MAX_IDLE_HOSTS, 2 * len(self._hosts))


class _Host:
    def __init__(self, spec: FetchSpec) -> None:
        self._spec = spec
        self._inside = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._width = float(spec.per_host)  # how many may be inside; halved when it proves to be too many
        self._next_at = 0.0  # when the rate allows the next request
        self._failures = 0  # in a row
        self._trips = 0  # in a row; 0: the host is well
        self._shut_as = "host_busy"
        self._shut_at = 0.0  # what was asked before this says nothing new
        self._shut_until = 0.0

    async def enter(self) -> None:
        """Get one of the places, first come first served."""
        if not self._queue and self._inside < self._room():
            self._inside += 1
            return
        place = asyncio.get_running_loop().create_future()
        self._queue.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():  # let in at the same moment
                self.leave()
            raise

    def leave(self) -> None:
        """Give the place to the next."""
        self._inside -= 1
        self._let_in()

    async def wait(self, patience: WaitBudget) -> None:
        """Sleep until the host may be asked. Raises Failure when that is too long for ``patience``."""
        while True:
            while (shut_s := self._shut_until - _now()) > 0:
                if shut_s > patience.left_s:
                    raise FetchFailure(self._shut_as, TRANSIENT_ERRORS[self._shut_as])
                patience.left_s -= shut_s
                await asyncio.sleep(shut_s)
            if self._spec.max_per_s is None:
                return
            at = max(_now(), self._next_at)
            self._next_at = at + 1 / self._spec.max_per_s
            await asyncio.sleep(at - _now())
            if self._shut_until <= _now():
                return

    def learn(self, began: float, failure: FetchFailure | None) -> None:
        """Draw conclusions from a request that began at that time."""
        kind = failure.error_class if failure else ""
        fresh = began >= self._shut_at
        if failure and kind in BUSY_ERROR_CLASSES:
            if fresh:
                self._trip("host_busy", self._spec.backoff_s)
            self._shut_until = max(self._shut_until, _now() + (failure.retry_after_s or 0.0))
        elif kind in DOWN_ERROR_CLASSES:
            if kind == "timeout" and _now() - began < self._spec.deadline_s / 2:
                return  # others had used up most of the URL's time
            self._failures += 1
            if fresh and (self._trips or self._failures >= (self._spec.breaker_failures or BREAKER_FAILURES)):
                self._trip("host_down", self._spec.breaker_s or BREAKER_S)
        else:
            self._failures = 0
            if fresh:
                self._trips = 0
                self._width = min(float(self._spec.per_host), self._width + CONCURRENCY_GAIN / self._width)

    def in_use(self) -> bool:
        """Whether somebody asks it or waits to."""
        return bool(self._inside or self._queue)

    def shut(self) -> bool:
        """Whether nobody may ask it now."""
        return max(self._shut_until, self._next_at) > _now()

    def forgettable(self) -> bool:
        """Whether a new host would behave like this one."""
        sick = self._trips or self._failures or self._width < self._spec.per_host
        return not (self.in_use() or sick or self.shut())

    def _trip(self, why: str, first_s: float) -> None:
        self._trips += 1
        self._width = max(1.0, self._width / 2)
        self._shut_as, self._shut_at = why, _now()
        # min: 2.0 ** 1024 is an error
        self._shut_until = self._shut_at + min(MAX_BACK_OFF_S, back_off_s(min(self._trips, 30), first_s))

    def _room(self) -> int:
        return 1 if self._trips else int(self._width)

    def _let_in(self) -> None:
        while self._queue and self._inside < self._room():
            place = self._queue.popleft()
            if not place.done():
                self._inside += 1
                place.set_result(None)


def _now() -> float:
    return asyncio.get_running_loop().time()
