import asyncio
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.download.leaping_clock import leap, now
from zscir.data.download.failures import FetchFailure
from zscir.data.download.fetch_spec import FetchSpec
from zscir.data.download.host_limits import HostLimits
from zscir.data.download.url_deadline import WaitBudget

Answer = Callable[[int], FetchFailure | None]  # to the n-th request, from 0


class Host:
    """A made-up host that takes its time for each request, and keeps a log of when requests came."""

    def __init__(self, spec: FetchSpec, answer: Answer, takes_s: float = 0.1) -> None:
        self.hosts, self.spec = HostLimits(spec), spec
        self.answer, self.takes_s = answer, takes_s
        self.requested_at: list[float] = []
        self.now = self.most = 0

    async def request(self, name: str = "a.test", wait_s: float | None = None) -> str:
        """The error class of one request, "" when it is answered."""
        try:
            async with self.hosts.slot(name, WaitBudget(self.spec.wait_s() if wait_s is None else wait_s)):
                number = len(self.requested_at)
                self.requested_at.append(now())
                self.now += 1
                self.most = max(self.most, self.now)
                await asyncio.sleep(self.takes_s)
                self.now -= 1
                failure = self.answer(number)
                if failure:
                    raise failure
        except FetchFailure as failure:
            return failure.error_class
        return ""

    async def request_often(self, count: int) -> list[str]:
        return await asyncio.gather(*(self.request() for _ in range(count)))


def busy(retry_after_s: float | None = None) -> FetchFailure:
    return FetchFailure("http_429", "HTTP status 429", 429, retry_after_s)


def silent() -> FetchFailure:
    return FetchFailure("timeout", "not done within 30 s")


def test_a_host_gets_at_most_so_many_requests_at_once_and_is_then_forgotten() -> None:
    async def everybody() -> None:
        host = Host(FetchSpec(per_host=3), lambda _: None)
        assert await host.request_often(40) == [""] * 40
        assert host.most == 3
        assert not host.hosts._hosts

    leap(everybody())


def test_who_waits_longest_is_let_in_first_and_who_gives_up_takes_no_slot() -> None:
    async def line() -> None:
        hosts, order = HostLimits(FetchSpec(per_host=1)), []

        async def request(number: int) -> None:
            async with hosts.slot("a.test", WaitBudget(9)):
                order.append(number)
                await asyncio.sleep(1)

        tasks = [asyncio.create_task(request(number)) for number in range(5)]
        await asyncio.sleep(0.5)
        tasks[2].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert order == [0, 1, 3, 4]
        assert not hosts._hosts

    leap(line())


def test_a_host_that_is_busy_is_left_alone_by_all_until_it_said() -> None:
    async def cooling() -> None:
        host = Host(FetchSpec(per_host=1), lambda number: busy(7.0) if number == 0 else None)
        began = now()
        assert await host.request_often(20) == ["http_429"] + [""] * 19
        assert host.requested_at[1] - began == pytest.approx(7.1)

    leap(cooling())


def test_other_hosts_do_not_wait_for_one_that_is_busy() -> None:
    async def two_hosts() -> None:
        host = Host(FetchSpec(), lambda number: busy(20.0) if number == 0 else None)
        await host.request("a.test")
        began = now()
        await host.request("b.test")
        assert now() - began < 1
        await host.request("a.test")
        assert now() - began > 19

    leap(two_hosts())


def test_the_pauses_of_a_busy_host_double_and_each_ends_with_a_single_request() -> None:
    async def for_ever_busy() -> None:
        spec = FetchSpec(backoff_s=1.0, max_wait_s=1000.0, per_host=8)
        host = Host(spec, lambda _: busy())
        assert await host.request_often(14) == ["http_429"] * 14
        first, later = host.requested_at[:8], host.requested_at[8:]
        assert len(set(first)) == 1  # eight at once found out together: one pause, not eight
        gaps = [b - a - host.takes_s for a, b in zip([first[0], *later], later, strict=False)]
        for number, gap in enumerate(gaps):
            assert 0.5 * 2**number <= gap <= 1.0 * 2**number + 1e-6

    leap(for_ever_busy())


def test_no_pause_is_longer_than_ten_minutes() -> None:
    async def for_days() -> None:
        host = Host(FetchSpec(backoff_s=60.0, max_wait_s=86_400.0), lambda _: busy())
        await host.request_often(60)
        assert max(b - a for a, b in zip(host.requested_at, host.requested_at[1:], strict=False)) <= 600.2

    leap(for_days())


def test_a_host_that_stays_busy_is_given_up_for_all_without_a_request() -> None:
    async def given_up() -> None:
        host = Host(FetchSpec(backoff_s=0.5, max_wait_s=60.0, per_host=8), lambda _: busy())
        began = now()
        got = await host.request_often(9000)
        assert set(got) == {"http_429", "host_busy"}
        assert len(host.requested_at) < 30
        assert now() - began < 200

    leap(given_up())


def test_a_url_waits_only_as_long_as_its_patience_lasts() -> None:
    async def impatient() -> None:
        host = Host(FetchSpec(per_host=1), lambda number: busy(10.0) if number == 0 else None)
        await host.request()
        assert await host.request(wait_s=9.0) == "host_busy"
        assert len(host.requested_at) == 1
        assert await host.request(wait_s=11.0) == ""

    leap(impatient())


def test_a_host_that_is_well_again_gets_all_its_places_back() -> None:
    async def recovery() -> None:
        host = Host(FetchSpec(per_host=8), lambda number: busy() if number == 0 else None)
        await host.request_often(200)
        host.now = host.most = 0
        await host.request_often(20)
        assert host.most == 8
        assert not host.hosts._hosts

    leap(recovery())


def test_a_limit_that_a_host_does_not_announce_is_found_out_without_much_loss() -> None:
    """Ten in any second; more are answered with 429. Nearly all get their picture, in twice the shortest time."""
    random.seed(1)

    async def limited() -> None:
        log: list[float] = []

        def answer(_: int) -> FetchFailure | None:
            if sum(now() - at < 1 for at in log[-10:]) >= 10:
                return busy()
            log.append(now())
            return None

        host = Host(FetchSpec(), answer, takes_s=0.05)

        async def persist() -> str:
            for _ in range(3):
                if (got := await host.request()) != "http_429":
                    return got
            return got

        began = now()
        got = await asyncio.gather(*(persist() for _ in range(1000)))
        assert got.count("") > 970
        assert now() - began < 200

    leap(limited())


def test_a_host_that_never_answers_is_down_for_all_after_a_few_failures() -> None:
    async def dead() -> None:
        spec = FetchSpec(per_host=8, breaker_failures=10, breaker_s=15.0, max_wait_s=60.0)
        host = Host(spec, lambda _: silent(), takes_s=30.0)
        began = now()
        got = await host.request_often(5000)
        assert got.count("timeout") == len(host.requested_at) <= 24
        assert got.count("host_down") == 5000 - len(host.requested_at)
        assert now() - began < 300

    leap(dead())


def test_one_request_finds_out_that_a_host_is_up_again() -> None:
    async def back() -> None:
        spec = FetchSpec(per_host=2, breaker_failures=4, breaker_s=10.0)
        host = Host(spec, lambda number: silent() if number < 4 else None, takes_s=20.0)
        got = await host.request_often(12)
        assert got == ["timeout"] * 4 + [""] * 8
        pause_s = host.requested_at[4] - host.requested_at[3] - 20.0
        assert 5.0 <= pause_s <= 10.0
        assert host.requested_at[5] == host.requested_at[4] + 20.0

    leap(back())


@pytest.mark.parametrize("kind", ["http_404", "http_500", "not_image", "robots_tag", "too_large"])
def test_a_host_that_answers_at_all_is_neither_busy_nor_down(kind: str) -> None:
    async def alive() -> None:
        host = Host(FetchSpec(per_host=4, breaker_failures=2), lambda _: FetchFailure(kind, "no"))
        began = now()
        assert await host.request_often(40) == [kind] * 40
        assert now() - began == pytest.approx(1.0)

    leap(alive())


def test_failures_count_only_in_a_row() -> None:
    async def every_second() -> None:
        host = Host(FetchSpec(per_host=1, breaker_failures=2), lambda number: silent() if number % 2 else None, 20.0)
        assert await host.request_often(20) == ["", "timeout"] * 10

    leap(every_second())


def test_a_time_out_that_was_not_the_hosts_is_not_counted() -> None:
    async def late() -> None:
        host = Host(FetchSpec(per_host=1, breaker_failures=2), lambda _: silent(), takes_s=1.0)  # of 30 s
        assert await host.request_often(9) == ["timeout"] * 9

    leap(late())


@settings(max_examples=30)
@given(rate=st.floats(0.2, 50), count=st.integers(2, 40), per_host=st.integers(1, 8), takes_s=st.floats(0, 3))
def test_no_host_gets_more_requests_than_its_rate(rate: float, count: int, per_host: int, takes_s: float) -> None:
    async def at_a_rate() -> None:
        host = Host(FetchSpec(max_per_s=rate, per_host=per_host), lambda _: None, takes_s)
        assert await host.request_often(count) == [""] * count
        gaps = [b - a for a, b in zip(host.requested_at, host.requested_at[1:], strict=False)]
        assert min(gaps) >= 1 / rate - 1e-6
        assert host.most <= per_host

    leap(at_a_rate())


def test_a_cancelled_request_says_nothing_about_the_host() -> None:
    async def cancelled() -> None:
        host = Host(FetchSpec(per_host=1, breaker_failures=1), lambda _: None, takes_s=10.0)
        task = asyncio.create_task(host.request())
        await asyncio.sleep(1)
        task.cancel()
        assert await host.request() == ""

    leap(cancelled())


def test_hosts_that_failed_once_are_not_remembered_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zscir.data.download.host_limits.MAX_IDLE_HOSTS", 50)

    async def many() -> None:
        host = Host(FetchSpec(), lambda number: silent() if number else busy(3600.0), takes_s=20.0)
        await host.request("busy.test")
        await asyncio.gather(*(host.request(f"{number}.test") for number in range(40)))
        waiting = asyncio.create_task(host.request("waiting.test"))
        await asyncio.sleep(1)
        await asyncio.gather(*(host.request(f"more-{number}.test") for number in range(20)))
        assert len(host.hosts._hosts) < 50
        assert {"busy.test", "more-19.test"} <= host.hosts._hosts.keys()
        assert await host.request("busy.test") == "host_busy"
        await waiting

    leap(many())
