"""Memory: so many bytes for all bodies together become leases, so that no number of large images fills the machine."""

import asyncio


class MemoryBudget:
    """At most ``total`` bytes are leased; one body that somebody waits for may go beyond, or nobody might ever end."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0
        self._waiting: list[tuple[MemoryLease, int, asyncio.Future[None]]] = []
        self._beyond: MemoryLease | None = None

    def lease(self, wanted: bool = True) -> "MemoryLease":
        """Nothing yet; it grows as needed. One that is not ``wanted`` never goes beyond the total."""
        return MemoryLease(self, wanted)

    def grant(self, lease: "MemoryLease", size: int) -> bool:
        """Let ``lease`` be of that size, if there is room or it is its turn to go beyond."""
        more = size - lease.size
        if self.used + more > self.total and more > 0 and self._beyond is not lease:
            if not lease.wanted or self._beyond is not None:
                return False
            self._beyond = lease
        self.used += more
        lease.size = size
        return True

    async def wait(self, lease: "MemoryLease", size: int) -> None:
        """Wait until it is granted."""
        granted = asyncio.get_running_loop().create_future()
        entry = (lease, size, granted)
        self._waiting.append(entry)
        try:
            await granted
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)

    def settle(self, lease: "MemoryLease") -> None:
        """Let somebody else go beyond."""
        if self._beyond is lease:
            self._beyond = None

    def look_again(self) -> None:
        """Grant what can be granted now, first come first served."""
        for entry in list(self._waiting):
            lease, size, granted = entry
            if not granted.done() and self.grant(lease, size):
                self._waiting.remove(entry)
                granted.set_result(None)


class MemoryLease:
    """The bytes of one body while it is read, decoded and handed on."""

    def __init__(self, memory: MemoryBudget, wanted: bool) -> None:
        self._memory = memory
        self.wanted = wanted
        self.size = 0

    def fits(self, size: int) -> bool:
        """Be of ``size`` bytes, if that is possible at once."""
        return self._memory.grant(self, size)

    async def need(self, size: int) -> None:
        """Be of ``size`` bytes, as soon as that is possible."""
        if not self.fits(size):
            await self._memory.wait(self, size)

    def shrink(self, size: int) -> None:
        """Be of ``size`` bytes, fewer than now, and in no hurry any more."""
        self._memory.grant(self, min(size, self.size))
        self._memory.settle(self)
        self._memory.look_again()

    def want(self) -> None:
        """Somebody waits for the body now."""
        self.wanted = True
        self._memory.look_again()

    def release(self) -> None:
        """The body is gone."""
        self.shrink(0)
