"""Ahead: URLs that will be asked for become results before anybody asks, in an order that is fair to all hosts.

Who asks has a fixed number of threads, and asks in the order of a list. If a URL were fetched only then, a slow host
would in time hold every thread, and all other hosts would wait for it.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar
from urllib.parse import urlsplit

from zscir.data.download.memory_budget import MemoryBudget, MemoryLease

T = TypeVar("T")
MAX_PREFETCHES = 256  # at the same time, in all, without having been asked for
PREFETCH_MEMORY_SHARE = 0.5  # of the memory: what results may fill that nobody has asked for yet
RunFetch = Callable[
    [str, MemoryLease, float], Awaitable[T]
]  # URL, its memory, the event loop's time at which its chunk ends


@dataclass
class _DeadlineGroup:
    """URLs with one deadline, which runs from when the first of them is begun."""

    deadline_s: float
    ends_at: float | None = None


@dataclass(eq=False)
class _Prefetch(Generic[T]):
    url: str
    host: str
    group: _DeadlineGroup
    lease: MemoryLease
    task: "asyncio.Future[T] | None" = None
    done_with: bool = False  # begun, handed over or forgotten: not to be begun ahead of being asked for
    kept: int = 0  # bytes of a result that nobody has asked for


@dataclass
class _HostQueue(Generic[T]):
    """The URLs of one host that wait to be begun, and how many of it are under way."""

    jobs: deque[_Prefetch[T]] = field(default_factory=deque)
    running: int = 0
    listed: bool = False


class Prefetcher(Generic[T]):
    """Runs each expected URL once, before or when it is asked for. To be used inside one event loop."""

    def __init__(self, run: RunFetch[T], memory: MemoryBudget, per_host: int) -> None:
        self._run = run
        self._memory = memory
        self._per_host = per_host
        self._jobs: dict[str, _Prefetch[T]] = {}
        self._lines: dict[str, _HostQueue[T]] = {}
        self._turns: deque[str] = deque()  # the hosts whose lines are `listed`: they may begin another one
        self._running = 0
        self._kept = 0

    def expect(self, urls: dict[str, str], deadline_s: float) -> None:
        """Begin (anew) with these URLs, known by their keys; all are over ``deadline_s`` after the first is begun."""
        self.forget(urls)
        group = _DeadlineGroup(deadline_s)
        for key, url in urls.items():
            job = _Prefetch[T](url, _host(url), group, self._memory.lease(wanted=False))
            self._jobs[key] = job
            self._lines.setdefault(job.host, _HostQueue()).jobs.append(job)
            self._list(job.host)
        self._go_on()

    @asynccontextmanager
    async def result(self, key: str) -> AsyncIterator[T | None]:
        """What became of a key, None if it is not expected. Its memory is given back at the end of the block."""
        job = self._jobs.get(key)
        if job is None:
            yield None
            return
        job.lease.want()
        task = job.task or self._begin(job)
        try:
            result = await asyncio.shield(task)
            self._keep(job, 0)
            if job.task is task:
                job.task = None  # who asks again gets it fetched again
            yield result
        finally:
            if task.done():
                job.lease.release()
                self._go_on()

    def forget(self, keys: Iterable[str]) -> None:
        """End what is under way for these keys, and drop what there is."""
        for key in keys:
            job = self._jobs.pop(key, None)
            if job is not None:
                job.done_with = True
                if job.task is not None:
                    job.task.cancel()
                self._keep(job, 0)
                job.lease.release()
        self._go_on()

    def close(self) -> None:
        """End everything."""
        self.forget(list(self._jobs))

    def _begin(self, job: _Prefetch[T]) -> "asyncio.Future[T]":
        if job.group.ends_at is None:
            job.group.ends_at = asyncio.get_running_loop().time() + job.group.deadline_s
        job.done_with = True
        job.task = task = asyncio.ensure_future(self._run(job.url, job.lease, job.group.ends_at))
        self._lines.setdefault(job.host, _HostQueue()).running += 1
        self._running += 1
        task.add_done_callback(lambda _: self._ended(job))
        return task

    def _ended(self, job: _Prefetch[T]) -> None:
        line = self._lines[job.host]
        line.running -= 1
        self._running -= 1
        if not job.lease.wanted:
            self._keep(job, job.lease.size)
        if line.running or line.jobs:
            self._list(job.host)
        else:
            del self._lines[job.host]
        self._go_on()

    def _keep(self, job: _Prefetch[T], size: int) -> None:
        self._kept += size - job.kept
        job.kept = size

    def _list(self, host: str) -> None:
        line = self._lines[host]
        if line.jobs and not line.listed and line.running < self._per_host:
            line.listed = True
            self._turns.append(host)

    def _go_on(self) -> None:
        """Begin what may be begun: the next URL of each host in turn."""
        while (
            self._turns and self._running < MAX_PREFETCHES and self._kept < PREFETCH_MEMORY_SHARE * self._memory.total
        ):
            host = self._turns.popleft()
            line = self._lines[host]
            line.listed = False
            while line.jobs and (job := line.jobs.popleft()).done_with:
                pass
            if not job.done_with:
                self._begin(job)
            if line.running or line.jobs:
                self._list(host)
            else:
                del self._lines[host]


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""  # it will fail, in its turn
