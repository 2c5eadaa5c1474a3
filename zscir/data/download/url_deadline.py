"""Clock: the seconds that a URL has become a time-out that counts only while something is done for it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType


class UrlDeadline:
    """``async with clock:`` runs it, and raises TimeoutError when no time is left."""

    def __init__(self, left_s: float) -> None:
        self.left_s = left_s

    async def __aenter__(self) -> None:
        self._began = _now()
        self._timeout = asyncio.timeout(max(0.0, self.left_s))
        await self._timeout.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.left_s -= _now() - self._began
        await self._timeout.__aexit__(kind, error, trace)

    @asynccontextmanager
    async def stopped(self) -> AsyncIterator[None]:
        """Inside the block above, a block that takes no time."""
        self.left_s -= _now() - self._began
        self._timeout.reschedule(None)
        try:
            yield
        finally:
            self._began = _now()
            self._timeout.reschedule(self._began + max(0.0, self.left_s))


def _now() -> float:
    return asyncio.get_running_loop().time()
