"""robots.txt through the client, from a real server: what is requested of whom, and what is not."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults.hostile_server import HostileServer
from zscir.data.download.fetch_spec import FetchSpec
from zscir.data.download.http_client import FetchResult, HttpClient

QUICK: dict[str, Any] = {"deadline_s": 2.0, "retries": 1, "backoff_s": 0.02, "robots_txt": True, "max_wait_s": 0.0}


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with HostileServer() as server:
        yield server


def fetch(server: HostileServer, *urls: str, **limits: Any) -> list[FetchResult]:
    spec = FetchSpec(**{**QUICK, "allow_hosts": server.hosts, **limits})

    async def all_of_them() -> list[FetchResult]:
        async with HttpClient(spec) as client:
            return await asyncio.gather(*(client.fetch(url) for url in urls))

    return asyncio.run(all_of_them())


def classes(got: list[FetchResult]) -> list[str | None]:
    return [result.failure.error_class if result.failure else None for result in got]


def test_robots_txt_is_not_fetched_unless_the_spec_says_so(server: HostileServer) -> None:
    server.robots = b"User-agent: *\nDisallow: /"
    assert classes(fetch(server, server.url("/ok/1.jpg"), robots_txt=None)) == [None]
    assert server.paths() == ["/ok/1.jpg"]


def test_what_robots_txt_disallows_is_not_requested(server: HostileServer) -> None:
    server.robots = b"User-agent: zscir\nDisallow: /ok/1\n"
    got = fetch(server, *(server.url(f"/ok/{number}.jpg") for number in range(4)), per_host=1)
    assert classes(got) == [None, "robots_txt", None, None]
    assert got[1].attempts == 0
    assert sorted(server.paths()) == ["/ok/0.jpg", "/ok/2.jpg", "/ok/3.jpg", "/robots.txt"]


def test_where_a_redirect_leads_has_rules_too(server: HostileServer) -> None:
    server.robots = b"User-agent: *\nDisallow: /ok/\n"
    [got] = fetch(server, server.url(f"/redirect/302?to={server.url('/ok/1.jpg', '127.0.0.9')}"))
    assert (got.failure and got.failure.error_class, got.http_status, got.attempts) == ("robots_txt", 302, 1)
    assert server.paths().count("/robots.txt") == 2
    assert "/ok/1.jpg" not in server.paths()


@pytest.mark.parametrize("status", [404, 403, 410])
def test_no_robots_txt_allows_everything(server: HostileServer, status: int) -> None:
    server.robots = status
    assert classes(fetch(server, server.url("/ok/1.jpg"))) == [None]


@pytest.mark.parametrize(("status", "times"), [(500, 2), (503, 1), (429, 1)])
def test_a_robots_txt_that_cannot_be_had_allows_nothing(server: HostileServer, status: int, times: int) -> None:
    server.robots = status
    assert classes(fetch(server, server.url("/ok/1.jpg"), server.url("/ok/2.jpg"))) == ["robots_unreachable"] * 2
    assert server.paths() == ["/robots.txt"] * times


def test_a_robots_txt_that_leads_to_a_private_address_is_not_followed(server: HostileServer) -> None:
    with HostileServer() as private:
        server.robots, server.robots_at = 302, private.url("/robots.txt")
        assert classes(fetch(server, server.url("/ok/1.jpg"))) == [None]
        assert private.requests == []


def test_a_robots_txt_without_end_is_read_as_far_as_the_rfc_requires(server: HostileServer) -> None:
    server.robots = b"User-agent: *\nDisallow: /ok/1\n" + b"# more\n" * 1_000_000 + b"Disallow: /ok/2\n"
    got = fetch(server, server.url("/ok/1.jpg"), server.url("/ok/2.jpg"), max_bytes=100_000)
    assert classes(got) == ["robots_txt", None]


def test_where_no_host_is_the_url_fails_as_it_would_without(server: HostileServer) -> None:
    assert classes(fetch(server, "http://10.1.2.3/a.jpg", "http://localhost:1/a.jpg")) == ["forbidden_address"] * 2
