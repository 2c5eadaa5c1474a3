"""The time budgets of one URL: seconds for its requests, and seconds for waiting until its host may get one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType


class UrlDeadline:
    """Seconds for requests: they run inside ``async with deadline:``, which raises TimeoutError when none are left."""

    def __init__(self, left_s: float) -> None:
        self.left_s = left_s

    async def __aenter__(self) -> None:
        self._began = loop_time()
        self._timeout = asyncio.timeout(max(0.0, self.left_s))
        await self._timeout.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.left_s -= loop_time() - self._began
        await self._timeout.__aexit__(kind, error, trace)

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """A block inside the block above that does not count, such as waiting for memory."""
        self.left_s -= loop_time() - self._began
        self._timeout.reschedule(None)  # asyncio.timeout knows no pause: it is moved away and back
        try:
            yield
        finally:
            self._began = loop_time()
            self._timeout.reschedule(self._began + max(0.0, self.left_s))


class WaitBudget:
    """Seconds that a URL may still wait for hosts that are busy or down; they do not count for its deadline."""

    def __init__(self, left_s: float) -> None:
        self.left_s = left_s


def loop_time() -> float:
    """Seconds of the running event loop's clock."""
    return asyncio.get_running_loop().time()
