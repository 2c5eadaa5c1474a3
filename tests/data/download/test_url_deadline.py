import asyncio

import pytest

from tests.data.download.leaping_clock import leap, now
from zscir.data.download.url_deadline import UrlDeadline


def test_a_clock_runs_only_inside_its_blocks() -> None:
    async def blocks() -> None:
        deadline, began = UrlDeadline(10.0), now()
        async with deadline:
            await asyncio.sleep(6)
        await asyncio.sleep(100)
        with pytest.raises(TimeoutError):
            async with deadline:
                await asyncio.sleep(6)
        assert now() - began == pytest.approx(110)
        with pytest.raises(TimeoutError):
            async with deadline:
                await asyncio.sleep(0.001)

    leap(blocks())


def test_a_stopped_clock_takes_no_time_and_then_goes_on() -> None:
    async def stopped() -> None:
        deadline, began = UrlDeadline(10.0), now()

        async def stops() -> None:
            async with deadline:
                await asyncio.sleep(4)
                async with deadline.paused():
                    await asyncio.sleep(1000)
                await asyncio.sleep(7)

        with pytest.raises(TimeoutError):
            await stops()
        assert now() - began == pytest.approx(1010)

    leap(stopped())


def test_somebody_elses_time_out_is_not_mistaken_for_its_own() -> None:
    async def nested() -> None:
        deadline = UrlDeadline(10.0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3), deadline, deadline.paused():
                await asyncio.sleep(5)
        assert deadline.left_s == pytest.approx(10.0)

    leap(nested())
