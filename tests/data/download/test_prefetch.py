import asyncio
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.download.leaping_clock import leap, now
from zscir.data.download.memory_budget import MemoryBudget, MemoryLease
from zscir.data.download.prefetch import MAX_PREFETCHES, Prefetcher


class World:
    """URLs whose host says how long they take (``http://HOST/N``), and a log of what was run."""

    def __init__(self, takes_s: dict[str, float] | None = None, body: int = 10) -> None:
        self.takes_s, self.body = takes_s or {}, body
        self.runs: list[str] = []
        self.ended_at: dict[str, float] = {}
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()

    async def run(self, url: str, lease: MemoryLease, ends_at: float) -> str:
        host = url.split("/")[2]
        self.runs.append(url)
        self.now.update([host, "all"])
        self.most |= self.now
        try:
            async with asyncio.timeout_at(ends_at):
                await lease.resize(self.body)
                await asyncio.sleep(self.takes_s.get(host, 1.0))
            answer = f"got {url}"
        except TimeoutError:
            lease.release()
            answer = f"late {url}"
        finally:
            self.now.subtract([host, "all"])
        self.ended_at[url] = now()
        return answer


def urls(host: str, count: int) -> dict[str, str]:
    return {f"{host}-{number}": f"http://{host}/{number}" for number in range(count)}


async def ask(ahead: Prefetcher[str], key: str) -> str | None:
    async with ahead.result(key) as result:
        return result


def test_each_url_is_run_once_whoever_comes_first() -> None:
    async def once() -> None:
        world = World()
        ahead = Prefetcher(world.run, MemoryBudget(10**6), 2)
        expected = urls("a.test", 20)
        ahead.expect(expected, 1000.0)
        got = await asyncio.gather(*(ask(ahead, key) for key in reversed(expected)))
        assert got == [f"got {url}" for url in reversed(expected.values())]
        await asyncio.sleep(100)
        assert sorted(world.runs) == sorted(expected.values())

    leap(once())


def test_a_slow_host_keeps_no_other_from_its_turn() -> None:
    """Nine in ten URLs are of one slow host, and the first comers ask for nothing else."""

    async def slow_host() -> None:
        world = World({"slow.test": 100.0})
        ahead = Prefetcher(world.run, MemoryBudget(10**6), 8)
        expected = urls("slow.test", 900) | urls("a.test", 50) | urls("b.test", 50)
        ahead.expect(expected, 10**6)
        began = now()
        askers = [asyncio.create_task(ask(ahead, f"slow.test-{number}")) for number in range(64)]
        await asyncio.sleep(10)
        done = {url: at - began for url, at in world.ended_at.items()}
        assert len(done) == 100
        assert max(done.values()) == pytest.approx(7.0)  # 50 URLs, 8 at a time, a second each
        assert (await ask(ahead, "b.test-49"), now() - began) == ("got http://b.test/49", 10.0)
        for asker in askers:
            asker.cancel()
        ahead.close()

    leap(slow_host())


def test_nobody_runs_ahead_of_more_than_the_limits() -> None:
    async def limits() -> None:
        world = World()
        ahead = Prefetcher(world.run, MemoryBudget(10**6), 3)
        for number in range(200):
            ahead.expect(urls(f"h{number}.test", 5), 1000.0)
        await asyncio.sleep(100)
        assert len(world.runs) == 1000
        assert world.most.pop("all") == MAX_PREFETCHES
        assert set(world.most.values()) == {2, 3} or set(world.most.values()) == {3}

    leap(limits())


def test_results_that_nobody_requests_fill_half_of_the_memory_at_most() -> None:
    async def unrequested() -> None:
        world, memory = World(body=100), MemoryBudget(1000)
        ahead = Prefetcher(world.run, memory, 1)
        expected = urls("a.test", 50)
        ahead.expect(expected, 10**6)
        await asyncio.sleep(100)
        assert len(world.runs) == 5
        assert memory.used == 500
        for key in expected:
            assert await ask(ahead, key) == f"got {expected[key]}"
        assert memory.used == 0
        assert len(world.runs) == 50

    leap(unrequested())


def test_when_the_time_of_a_chunk_is_over_all_its_urls_are_and_no_others() -> None:
    async def deadline() -> None:
        world = World({"slow.test": 7.0})
        ahead = Prefetcher(world.run, MemoryBudget(10**6), 1)
        await asyncio.sleep(3)
        ahead.expect(urls("slow.test", 100), 10.0)
        ahead.expect(urls("other.test", 30), 1000.0)
        await asyncio.sleep(10.5)
        began = now()
        got = [await ask(ahead, key) for key in urls("slow.test", 100)]
        assert [str(result).split()[0] for result in got] == ["got"] + ["late"] * 99
        assert now() == began
        assert await ask(ahead, "other.test-29") == "got http://other.test/29"

    leap(deadline())


def test_what_is_forgotten_is_ended_and_known_no_more() -> None:
    async def forgotten() -> None:
        world, memory = World({"a.test": 50.0}), MemoryBudget(1000)
        ahead = Prefetcher(world.run, memory, 2)
        ahead.expect(urls("a.test", 6) | urls("b.test", 1), 1000.0)
        await asyncio.sleep(2)
        ahead.forget([*urls("a.test", 6), "never there"])
        await asyncio.sleep(100)
        assert sorted(world.runs) == ["http://a.test/0", "http://a.test/1", "http://b.test/0"]
        assert (list(world.ended_at), memory.used) == (["http://b.test/0"], 10)
        assert await ask(ahead, "a.test-0") is None
        ahead.expect(urls("a.test", 1), 1000.0)
        assert await ask(ahead, "a.test-0") == "got http://a.test/0"

    leap(forgotten())


def test_who_goes_away_leaves_the_result_for_the_next() -> None:
    async def gone() -> None:
        world, memory = World(), MemoryBudget(1000)
        ahead = Prefetcher(world.run, memory, 2)
        ahead.expect(urls("a.test", 1), 1000.0)
        first = asyncio.create_task(ask(ahead, "a.test-0"))
        await asyncio.sleep(0.5)
        first.cancel()
        await asyncio.sleep(5)
        assert await ask(ahead, "a.test-0") == "got http://a.test/0"
        assert (len(world.runs), memory.used) == (1, 0)

    leap(gone())


def test_requesting_twice_fetches_twice_and_expecting_again_begins_anew() -> None:
    async def twice() -> None:
        world, memory = World(), MemoryBudget(1000)
        ahead = Prefetcher(world.run, memory, 2)
        ahead.expect(urls("a.test", 1), 1000.0)
        await ask(ahead, "a.test-0")
        await ask(ahead, "a.test-0")
        assert len(world.runs) == 2
        ahead.expect(urls("a.test", 1), 1000.0)
        await asyncio.sleep(5)
        ahead.expect(urls("a.test", 1), 1000.0)
        await ask(ahead, "a.test-0")
        assert (len(world.runs), memory.used) == (4, 0)

    leap(twice())


def test_a_url_without_a_host_has_its_turn_too() -> None:
    async def odd() -> None:
        async def run(url: str, lease: MemoryLease, ends_at: float) -> str:
            return url

        ahead = Prefetcher(run, MemoryBudget(1000), 2)
        ahead.expect({"a": "http://[broken", "b": "", "c": "mailto:x"}, 9.0)
        assert [await ask(ahead, key) for key in "abc"] == ["http://[broken", "", "mailto:x"]

    leap(odd())


@settings(max_examples=40)
@given(data=st.data())
def test_every_request_is_answered_whatever_the_order_and_the_memory(data: st.DataObject) -> None:
    hosts = data.draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=30))
    expected = {f"k{number}": f"http://{host}/{number}" for number, host in enumerate(hosts)}
    order = data.draw(st.permutations(list(expected)))
    memory = MemoryBudget(data.draw(st.integers(1, 400)))
    threads = data.draw(st.integers(1, 6))

    async def askers() -> None:
        world = World({"a": 0.5, "b": 10.0}, body=100)
        ahead, left, got = Prefetcher(world.run, memory, 2), list(order), {}

        async def asker() -> None:
            while left:
                key = left.pop()
                got[key] = await ask(ahead, key)

        ahead.expect(expected, 10**6)
        await asyncio.gather(*(asker() for _ in range(threads)))
        assert got == {key: f"got {url}" for key, url in expected.items()}
        assert sorted(world.runs) == sorted(expected.values())

    leap(askers())
    assert memory.used == 0
