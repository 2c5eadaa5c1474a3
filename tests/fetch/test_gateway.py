import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import pytest

from tests.faults.hostile_server import HostileServer, picture, saved
from zscir.fetch.gateway import Gateway, Outcome
from zscir.fetch.limits import FetchSpec


@pytest.fixture(scope="module")
def server() -> Iterator[HostileServer]:
    with HostileServer() as server:
        yield server


@pytest.fixture
def gateway(server: HostileServer) -> Iterator[Gateway]:
    with Gateway(FetchSpec(allow_hosts=(server.host,), retries=0, deadline_s=5.0, per_host=64)) as gateway:
        yield gateway


def ask(gateway: Gateway, key: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{gateway.port}/{key}", timeout=60) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_a_key_that_is_expected_gives_the_image_of_its_url(server: HostileServer, gateway: Gateway) -> None:
    gateway.expect({"k1": server.url("/ok/5.jpg")})
    image = saved(picture(5), "JPEG")
    assert gateway.outcome("k1") is None
    assert ask(gateway, "k1") == (200, image)
    assert gateway.outcome("k1") == Outcome(None, None, 200, 1, 64, 48, sha256(image).hexdigest())


def test_a_failure_is_answered_with_its_class_and_kept(server: HostileServer, gateway: Gateway) -> None:
    gateway.expect({"k1": server.url("/status/404"), "k2": server.url("/image/html.jpg")})
    assert ask(gateway, "k1")[0] == ask(gateway, "k2")[0] == 424
    assert gateway.outcome("k1") == Outcome("http_404", "HTTP status 404", 404, 1)
    assert gateway.outcome("k2").error_class == "not_image"  # type: ignore[union-attr]


def test_it_is_no_proxy_for_others(server: HostileServer, gateway: Gateway) -> None:
    before = len(server.requests)
    for path in ("unknown", "", "http://127.0.0.1/", server.url("/ok/1.jpg"), "k1/../k1"):
        assert ask(gateway, path)[0] == 404
    assert len(server.requests) == before


def test_what_is_dealt_with_is_forgotten(server: HostileServer, gateway: Gateway) -> None:
    gateway.expect({"k1": server.url("/ok/1.jpg")})
    ask(gateway, "k1")
    gateway.forget(["k1", "never there"])
    assert gateway.outcome("k1") is None
    assert ask(gateway, "k1")[0] == 404


def test_many_urls_are_fetched_side_by_side_each_once(server: HostileServer, gateway: Gateway) -> None:
    keys = {f"many{number}": server.url(f"/ok/{number}.jpg?many") for number in range(100)}
    gateway.expect(keys)
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda key: ask(gateway, key), keys))
    assert answers == [(200, saved(picture(number), "JPEG")) for number in range(100)]
    assert sorted(path for path in server.paths() if path.endswith("?many")) == sorted(
        f"/ok/{number}.jpg?many" for number in range(100)
    )


def test_leaving_does_not_wait_for_hanging_urls(server: HostileServer) -> None:
    with ThreadPoolExecutor(1) as pool:
        with Gateway(FetchSpec(allow_hosts=(server.host,), deadline_s=600.0)) as gateway:
            gateway.expect({"k1": server.url("/hang/gateway")})
            waiting = pool.submit(ask, gateway, "k1")
            while "/hang/gateway" not in server.paths():
                time.sleep(0.01)
            began = time.monotonic()
        assert time.monotonic() - began < 20.0
        with pytest.raises(OSError, match="closed connection"):
            waiting.result(30)
