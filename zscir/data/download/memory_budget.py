"""Share a fixed number of bytes among all bodies in flight, so that large images cannot fill the memory."""

import asyncio


class MemoryBudget:
    """At most ``total`` bytes are leased; one requested body may exceed them, as none would end if all waited."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0
        self._waiting: list[tuple[MemoryLease, int, asyncio.Future[None]]] = []
        self._overdraft: MemoryLease | None = None

    def lease(self, requested: bool = True) -> "MemoryLease":
        """An empty lease, which grows as needed. One that is not ``requested`` never exceeds the total."""
        return MemoryLease(self, requested)

    def grant(self, lease: "MemoryLease", size: int) -> bool:
        """Resize ``lease`` to ``size`` bytes, if there is room or it may exceed the total."""
        extra = size - lease.size
        if self.used + extra > self.total and extra > 0 and self._overdraft is not lease:
            if not lease.requested or self._overdraft is not None:
                return False
            self._overdraft = lease
        self.used += extra
        lease.size = size
        return True

    async def wait_for(self, lease: "MemoryLease", size: int) -> None:
        """Wait until ``size`` bytes are granted to ``lease``."""
        granted = asyncio.get_running_loop().create_future()
        waiter = (lease, size, granted)
        self._waiting.append(waiter)
        try:
            await granted
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)

    def end_overdraft(self, lease: "MemoryLease") -> None:
        """Let another lease exceed the total."""
        if self._overdraft is lease:
            self._overdraft = None

    def recheck_waiters(self) -> None:
        """Grant what can be granted now, first come first served."""
        for waiter in list(self._waiting):
            lease, size, granted = waiter
            if not granted.done() and self.grant(lease, size):
                self._waiting.remove(waiter)
                granted.set_result(None)


class MemoryLease:
    """The bytes of one body while it is read, decoded and handed on."""

    def __init__(self, budget: MemoryBudget, requested: bool) -> None:
        self._budget = budget
        self.requested = requested
        self.size = 0

    def try_resize(self, size: int) -> bool:
        """Resize to ``size`` bytes, if that is possible at once; whether it was."""
        return self._budget.grant(self, size)

    async def resize(self, size: int) -> None:
        """Resize to ``size`` bytes, as soon as that is possible."""
        if not self.try_resize(size):
            await self._budget.wait_for(self, size)

    def shrink(self, size: int) -> None:
        """Give back all but ``size`` bytes: the body is whole and needs no more."""
        self._budget.grant(self, min(size, self.size))
        self._budget.end_overdraft(self)
        self._budget.recheck_waiters()

    def mark_requested(self) -> None:
        """Note that img2dataset waits for the body now."""
        self.requested = True
        self._budget.recheck_waiters()

    def release(self) -> None:
        """Give everything back."""
        self.shrink(0)
