"""A list of 1,000 URLs over everything that the web may do, through the whole download: exact counts, exact requests.

One request at a time to each host makes even politeness exact: who says to wait, and who gets no request for that.
"""

import os
import socket
import time
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from tests.faults.downloads import Download, download, pairs_in, spec_for
from tests.faults.hostile_server import SLOW_TLS, HostileServer, slow_tls
from zscir.data.images.shards import ShardReader

ROWS = 1000
DEADLINE_S = 100.0
BREAKER = 8  # failures in a row after which a host counts as down
METADATA = "http://169.254.169.254/latest/meta-data/?"

# what the server does -> (URLs, error class or None, HTTP status, attempts)
Expected = dict[str, tuple[int, str | None, int | None, int]]
PATHS: Expected = {
    "/photo/300/200/{n}.jpg": (60, None, 200, 1),
    "/image/cmyk.jpg?{n}": (10, None, 200, 1),
    "/image/16bit.png?{n}": (10, None, 200, 1),
    "/image/rgb16.png?{n}": (10, None, 200, 1),
    "/image/palette.png?{n}": (10, None, 200, 1),
    "/image/faint.png?{n}": (10, None, 200, 1),
    "/image/rotated.jpg?{n}": (10, None, 200, 1),
    "/image/webp.webp?{n}": (10, None, 200, 1),
    "/image/avif.avif?{n}": (10, None, 200, 1),
    "/image/animated.gif?{n}": (10, None, 200, 1),
    "/image/animated.webp?{n}": (10, None, 200, 1),
    "/image/grey.jpg?type=text/html&{n}": (10, None, 200, 1),
    "/chain/5?{n}": (10, None, 200, 1),
    "/redirect/308?to=/ok/3.jpg&{n}": (10, None, 200, 1),
    "/robots/1?tag=googlebot:%20noindex&{n}": (10, None, 200, 1),
    "/gzip?{n}": (10, None, 200, 1),
    "/no-length/{n}.jpg": (10, None, 200, 1),
    "/long/{n}.jpg": (10, None, 200, 1),
    "/flaky/1?{n}": (1, None, 200, 2),
    "/busy/once?after=1&{n}": (1, None, 200, 2),
    "/busy/always?after=3600&first": (1, "http_429", 429, 1),
    "/status/403?{n}": (10, "http_403", 403, 1),
    "/status/404?{n}": (20, "http_404", 404, 1),
    "/status/410?{n}": (10, "http_410", 410, 1),
    "/status/451?{n}": (5, "http_451", 451, 1),
    "/status/500?{n}": (10, "http_500", 500, 2),
    "/status/502?{n}": (5, "http_502", 502, 2),
    "/loop?{n}": (10, "too_many_redirects", 302, 1),
    "/chain/6?{n}": (10, "too_many_redirects", 301, 1),
    "/redirect/301?to=http://127.0.0.1:9/secret&{n}": (5, "forbidden_address", 301, 1),
    f"/redirect/302?to={METADATA}{{n}}": (5, "forbidden_address", 302, 1),
    "/redirect/303?to=http://[::1]/&{n}": (5, "forbidden_address", 303, 1),
    "/redirect/307?to=http://localhost/&{n}": (5, "forbidden_address", 307, 1),
    "/redirect/308?to=http://0x7f.1/&{n}": (5, "forbidden_address", 308, 1),
    "/redirect/302?to=file:///etc/passwd&{n}": (5, "bad_url", 302, 1),
    "/truncated/{n}.jpg": (3, "incomplete", None, 2),
    "/reset/{n}.jpg": (3, "incomplete", None, 2),
    "/garbage?{n}": (10, "bad_answer", None, 2),
    "/down/{n}.jpg": (3, "incomplete", None, 2),
    "/drip/{n}.jpg": (7, "timeout", None, 1),
    "/endless/{n}.jpg": (10, "too_large", 200, 1),
    "/announced/{n}.jpg": (10, "too_large", 200, 1),
    "/bomb?{n}": (10, "too_large", 200, 1),
    "/brotli?{n}": (10, "bad_encoding", 200, 1),
    "/robots/1?tag=noai&{n}": (10, "robots_tag", 200, 1),
    "/robots/1?tag=noimageai&{n}": (10, "robots_tag", 200, 1),
    "/robots/1?tag=noindex&{n}": (10, "robots_tag", 200, 1),
    "/no-robots/{n}.jpg": (10, "robots_txt", None, 0),
    "/image/huge.png?{n}": (10, "too_many_pixels", 200, 1),
    "/image/scans.jpg?{n}": (10, "bad_image", 200, 1),
    "/image/claims.png?{n}": (10, "bad_image", 200, 1),
    "/image/broken.avif?{n}": (10, "bad_image", 200, 1),
    "/image/cut.jpg?{n}": (10, "bad_image", 200, 1),
    "/short/{n}.jpg": (10, "bad_image", 200, 1),
    "/image/svg.svg?{n}": (10, "not_image", 200, 1),
    "/image/html.jpg?{n}": (10, "not_image", 200, 1),
    "/image/empty.jpg?{n}": (10, "empty", 200, 1),
}
BUSY, HANG = 10, 40  # URLs of a host that is busy, and of one that hangs
TWICE = 20  # rows whose URL is there already


def elsewhere(private: HostileServer, tls_port: int) -> dict[str, str | None]:
    """URL -> error class, of all that never reaches the server."""
    nowhere = "http://no-such-host.invalid/{n}.jpg"
    urls = {
        private.url("/secret/{n}.jpg"): "forbidden_address",
        f"http://localhost:{private.port}/{{n}}.jpg": "forbidden_address",
        f"http://2130706433:{private.port}/{{n}}.jpg": "forbidden_address",
        f"http://[::ffff:127.0.0.1]:{private.port}/{{n}}.jpg": "forbidden_address",
        "http://10.0.0.{n}/a.jpg": "forbidden_address",
        f"{METADATA}{{n}}": "forbidden_address",
        "file:///etc/passwd?{n}": "bad_url",
        "http:///{n}.jpg": "bad_url",
        f"https://{SLOW_TLS}:{tls_port}/{{n}}.jpg": "robots_unreachable",  # not even its robots.txt comes in time
        nowhere: "dns" if has_no_address(nowhere) else "robots_unreachable",
    }
    return {url.replace("{n}", str(number)): kind for url, kind in urls.items() for number in range(1, 6)}


def has_no_address(url: str) -> bool:
    """Whether the name server says so; where there is none, nobody knows."""
    try:
        socket.getaddrinfo(url.split("/")[2], 80)
    except socket.gaierror as error:
        return error.errno != socket.EAI_AGAIN
    raise AssertionError(f"{url} has an address")


class HostileList:
    """The list, what is expected of it, and what came of it."""

    def __init__(self, folder: Path, server: HostileServer, private: HostileServer, tls_port: int) -> None:
        self.server, self.private = server, private
        server.robots = b"User-agent: *\nDisallow: /no-robots/\n"
        secret = "/redirect/302?to=" + private.url("/secret") + "&{n}"
        self.expected: dict[str, tuple[str | None, int | None, int]] = {
            server.url(path.replace("{n}", str(number))): rest
            for path, (count, *rest) in {**PATHS, secret: (5, "forbidden_address", 302, 1)}.items()
            for number in range(count)
        }  # type: ignore[assignment]
        self.outside = elsewhere(private, tls_port)
        # Of these, which one is requested is a matter of who comes first; how many are is not.
        self.busy = [server.url(f"/busy/always?after=3600&{number}") for number in range(BUSY)]
        self.hang = [server.url(f"/hang/{number}.jpg") for number in range(HANG)]
        del self.expected[server.url("/busy/always?after=3600&first")]
        urls = [*self.expected, *self.outside, *self.busy, *self.hang]
        good = [server.url(f"/ok/{100 + number}.jpg") for number in range(ROWS - TWICE - len(urls))]
        self.expected |= dict.fromkeys(good, (None, 200, 1))
        rows = [(url, "a picture") for url in [*urls, *good]] + [(url, "the same again") for url in good[:TWICE]]
        assert len(rows) == ROWS
        spec = spec_for(
            server, chunk_rows=ROWS, allow_hosts=[*server.hosts, f"{SLOW_TLS}:{tls_port}"], robots_txt=True,
            per_host=1, deadline_s=2.0, backoff_s=0.2, max_wait_s=5.0, breaker_failures=BREAKER, breaker_s=600.0,
            chunk_deadline_s=DEADLINE_S,
        )  # fmt: skip
        began = time.monotonic()
        self.made: Download = download(folder, spec, pairs_in(folder / "pairs", rows))
        self.wall_s = time.monotonic() - began
        self.rows = self.made.rows()
        self.by_url: dict[str, dict[str, Any]] = {row["url"]: row for row in self.rows}
        self.requests = Counter(unquote(path) for path in server.paths())

    def requests_for(self, url: str) -> int:
        """How often the server got a request for a URL, by its own log."""
        return self.requests[unquote(url.partition(str(self.server.port))[2])]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostileList]:
    os.environ["ZSCIR_DOWNLOAD_PROCESSES"] = "1"
    with HostileServer() as server, HostileServer() as private, slow_tls() as tls_port:
        yield HostileList(tmp_path_factory.mktemp("list"), server, private, tls_port)
    del os.environ["ZSCIR_DOWNLOAD_PROCESSES"]


def test_a_hostile_list_ends_within_its_deadline(result: HostileList) -> None:
    assert result.wall_s < DEADLINE_S
    assert "chunk_deadline" not in result.made.facts["failed_by_class"]


def test_every_class_has_exactly_the_count_that_was_expected(result: HostileList) -> None:
    expected = Counter(error_class for error_class, _, _ in result.expected.values())
    expected.update(result.outside.values())
    expected.update({"http_429": 1, "host_busy": BUSY - 1, "timeout": BREAKER, "host_down": HANG - BREAKER})
    expected[None] += TWICE
    facts = result.made.facts
    assert (facts["rows"], facts["ok"]) == (ROWS, expected.pop(None))
    assert facts["failed_by_class"] == dict(expected)


def test_every_url_ends_as_it_should_after_as_many_attempts_as_it_should(result: HostileList) -> None:
    for url, expected in result.expected.items():
        row = result.by_url[url]
        assert (row["error_class"], row["http_status"], row["attempts"]) == tuple(expected), url
    for url, error_class in result.outside.items():
        assert result.by_url[url]["error_class"] == error_class, url


def test_the_servers_log_says_the_same_as_the_attempts(result: HostileList) -> None:
    for url in [*result.expected, *result.busy, *result.hang]:
        assert result.requests_for(url) == result.by_url[url]["attempts"], url
    assert result.requests["/robots.txt"] == len({url.split("/")[2] for url in result.expected}) + 2  # busy, hang


def test_nothing_private_was_requested(result: HostileList) -> None:
    assert result.private.requests == []


def test_a_busy_host_gets_no_more_requests_and_one_that_hangs_not_for_ever(result: HostileList) -> None:
    assert Counter(result.by_url[url]["error_class"] for url in result.busy) == {"http_429": 1, "host_busy": BUSY - 1}
    assert sum(result.requests_for(url) for url in result.busy) == 1
    assert sum(result.requests_for(url) for url in result.hang) == BREAKER


def test_every_image_that_came_is_where_its_row_says(result: HostileList) -> None:
    with ShardReader(result.made.artifact.path) as reader:
        for row in result.rows:
            if row["status"] == "ok":
                data = reader.read(row["shard"], row["offset"], row["size"])
                assert sha256(data).hexdigest() == row["sha256"]


def test_what_is_there_twice_is_fetched_once_and_has_two_rows(result: HostileList) -> None:
    counts = Counter(row["url"] for row in result.rows)
    twice = [url for url, count in counts.items() if count == 2]
    assert len(twice) == TWICE
    assert {result.requests_for(url) for url in twice} == {1}
