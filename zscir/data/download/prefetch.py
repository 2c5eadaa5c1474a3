"""Fetch the URLs of a chunk before img2dataset requests them, in an order that is fair to all hosts.

img2dataset has a fixed number of threads and requests URLs in the order of its list. If a URL were fetched only then, a
slow host would in time hold every thread, and all other hosts would wait for it.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar
from urllib.parse import urlsplit

from zscir.data.download.memory_budget import MemoryBudget, MemoryLease
from zscir.data.download.url_deadline import loop_time

T = TypeVar("T")
MAX_PREFETCHES = 256  # at the same time, in all, of URLs that nobody has requested yet
PREFETCH_MEMORY_SHARE = 0.5  # of the memory: what results may fill that nobody has requested yet
# From a URL, its memory, and the event loop's time at which its chunk ends.
RunFetch = Callable[[str, MemoryLease, float], Awaitable[T]]


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
    settled: bool = False  # begun, handed over or forgotten: not to be prefetched
    kept_bytes: int = 0  # of a result that nobody has requested


@dataclass
class _HostQueue(Generic[T]):
    """The URLs of one host that are not begun, and how many are under way."""

    jobs: deque[_Prefetch[T]] = field(default_factory=deque)
    running: int = 0
    queued: bool = False


class Prefetcher(Generic[T]):
    """Runs each expected URL once, before or when it is requested. To be used inside one event loop."""

    def __init__(self, run: RunFetch[T], memory: MemoryBudget, per_host: int) -> None:
        self._run = run
        self._memory = memory
        self._per_host = per_host
        self._jobs: dict[str, _Prefetch[T]] = {}
        self._queues: dict[str, _HostQueue[T]] = {}
        self._ready_hosts: deque[str] = deque()  # hosts whose queue is `queued`: they may begin another URL
        self._running = 0
        self._kept_bytes = 0

    def expect(self, urls: dict[str, str], deadline_s: float) -> None:
        """Begin (anew) with these URLs by key; all must be over ``deadline_s`` after the first is begun."""
        self.forget(urls)
        group = _DeadlineGroup(deadline_s)
        for key, url in urls.items():
            job = _Prefetch[T](url, _host(url), group, self._memory.lease(requested=False))
            self._jobs[key] = job
            self._queues.setdefault(job.host, _HostQueue()).jobs.append(job)
            self._enqueue_host(job.host)
        self._start_next()

    @asynccontextmanager
    async def result(self, key: str) -> AsyncIterator[T | None]:
        """The result of a key, None if it is not expected. Its memory is given back at the end of the block."""
        job = self._jobs.get(key)
        if job is None:
            yield None
            return
        job.lease.mark_requested()
        task = job.task or self._begin(job)
        try:
            result = await asyncio.shield(task)
            self._account_kept(job, 0)
            if job.task is task:
                job.task = None  # a second request fetches it again
            yield result
        finally:
            if task.done():
                job.lease.release()
                self._start_next()

    def forget(self, keys: Iterable[str]) -> None:
        """Cancel what is under way for these keys, and drop their results."""
        for key in keys:
            job = self._jobs.pop(key, None)
            if job is not None:
                job.settled = True
                if job.task is not None:
                    job.task.cancel()
                self._account_kept(job, 0)
                job.lease.release()
        self._start_next()

    def close(self) -> None:
        """Cancel everything."""
        self.forget(list(self._jobs))

    def _begin(self, job: _Prefetch[T]) -> "asyncio.Future[T]":
        if job.group.ends_at is None:
            job.group.ends_at = loop_time() + job.group.deadline_s
        job.settled = True
        job.task = task = asyncio.ensure_future(self._run(job.url, job.lease, job.group.ends_at))
        self._queues.setdefault(job.host, _HostQueue()).running += 1
        self._running += 1
        task.add_done_callback(lambda _: self._on_done(job))
        return task

    def _on_done(self, job: _Prefetch[T]) -> None:
        queue = self._queues[job.host]
        queue.running -= 1
        self._running -= 1
        if not job.lease.requested:
            self._account_kept(job, job.lease.size)
        if queue.running or queue.jobs:
            self._enqueue_host(job.host)
        else:
            del self._queues[job.host]
        self._start_next()

    def _account_kept(self, job: _Prefetch[T], size: int) -> None:
        self._kept_bytes += size - job.kept_bytes
        job.kept_bytes = size

    def _enqueue_host(self, host: str) -> None:
        queue = self._queues[host]
        if queue.jobs and not queue.queued and queue.running < self._per_host:
            queue.queued = True
            self._ready_hosts.append(host)

    def _start_next(self) -> None:
        """Begin as many as are allowed: the next URL of each host in turn."""
        while (
            self._ready_hosts
            and self._running < MAX_PREFETCHES
            and self._kept_bytes < PREFETCH_MEMORY_SHARE * self._memory.total
        ):
            host = self._ready_hosts.popleft()
            queue = self._queues[host]
            queue.queued = False
            while queue.jobs and (job := queue.jobs.popleft()).settled:
                pass
            if not job.settled:
                self._begin(job)
            if queue.running or queue.jobs:
                self._enqueue_host(host)
            else:
                del self._queues[host]


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""  # the client will refuse it
