import asyncio
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.download.leaping_clock import leap
from zscir.data.download.memory_budget import MemoryBudget, MemoryLease


def test_what_fits_is_granted_at_once_and_what_does_not_waits() -> None:
    async def three() -> None:
        memory = MemoryBudget(100)
        big, small, late = memory.lease(), memory.lease(requested=False), memory.lease(requested=False)
        assert big.try_resize(80)
        assert small.try_resize(20)
        waiting = asyncio.create_task(late.resize(50))
        await asyncio.sleep(1)
        assert not waiting.done()
        small.release()
        await asyncio.sleep(1)
        assert not waiting.done()
        big.shrink(40)
        await waiting
        assert memory.used == 90

    leap(three())


def test_one_that_somebody_waits_for_may_go_beyond_and_no_other() -> None:
    async def beyond() -> None:
        memory = MemoryBudget(100)
        ahead, first, second = memory.lease(requested=False), memory.lease(), memory.lease()
        assert ahead.try_resize(100)
        assert first.try_resize(70)
        assert first.try_resize(300)
        assert not second.try_resize(1)
        waiting = asyncio.create_task(second.resize(10))
        await asyncio.sleep(1)
        assert not waiting.done()
        first.release()
        await waiting
        assert memory.used == 110

    leap(beyond())


def test_what_waits_is_granted_when_somebody_comes_to_want_it() -> None:
    async def requested() -> None:
        memory = MemoryBudget(100)
        full, ahead = memory.lease(), memory.lease(requested=False)
        assert full.try_resize(100)
        waiting = asyncio.create_task(ahead.resize(50))
        await asyncio.sleep(1)
        assert not waiting.done()
        ahead.mark_requested()
        await waiting

    leap(requested())


def test_who_gives_up_waiting_is_granted_nothing() -> None:
    async def gives_up() -> None:
        memory = MemoryBudget(100)
        full, other = memory.lease(), memory.lease(requested=False)
        assert full.try_resize(100)
        waiting = asyncio.create_task(other.resize(50))
        await asyncio.sleep(1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        full.release()
        assert (memory.used, other.size) == (0, 0)

    leap(gives_up())


@settings(max_examples=50)
@given(seed=st.integers(0, 10**6), total=st.integers(1, 200), bodies=st.integers(1, 40))
def test_all_bodies_end_and_at_most_one_goes_beyond_the_total(seed: int, total: int, bodies: int) -> None:
    """Bodies of up to 100 bytes grow step by step, whatever the total; some of them only come to be requested later."""
    rng = random.Random(seed)
    memory, most = MemoryBudget(total), 0

    async def grow(lease: MemoryLease) -> None:
        nonlocal most
        for size in sorted(rng.randrange(1, 100) for _ in range(3)):
            await lease.resize(size)
            most = max(most, memory.used)
            await asyncio.sleep(rng.random())
        lease.shrink(lease.size // 2)
        await asyncio.sleep(rng.random())
        lease.release()

    async def mark_requested(lease: MemoryLease) -> None:
        await asyncio.sleep(5 * rng.random())
        lease.mark_requested()

    async def all_of_them() -> None:
        leases = [memory.lease(requested=rng.random() < 0.5) for _ in range(bodies)]
        async with asyncio.timeout(10_000):
            await asyncio.gather(*map(grow, leases), *map(mark_requested, leases))

    leap(all_of_them())
    assert memory.used == 0
    assert most <= total + 2 * 100  # one beyond, and one that has settled and is being handed over
