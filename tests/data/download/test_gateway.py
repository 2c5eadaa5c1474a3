import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from hashlib import sha256

import pytest

from tests.faults.hostile_images import picture, saved
from tests.faults.hostile_server import HostileServer
from zscir.data.download.decode_sandbox import DecodeSandbox
from zscir.data.download.fetch_spec import FetchSpec
from zscir.data.download.gateway import FetchOutcome, Gateway, download_memory_bytes


@pytest.fixture(scope="module")
def server() -> Iterator[HostileServer]:
    with HostileServer() as server:
        yield server


@pytest.fixture
def gateway(server: HostileServer) -> Iterator[Gateway]:
    with Gateway(FetchSpec(allow_hosts=server.hosts, retries=0, deadline_s=5.0, per_host=64)) as gateway:
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
    assert gateway.outcome("k1") == FetchOutcome(None, None, 200, 1, 64, 48, sha256(image).hexdigest())


def test_a_failure_is_answered_with_its_class_and_kept(server: HostileServer, gateway: Gateway) -> None:
    gateway.expect({"k1": server.url("/status/404"), "k2": server.url("/image/html.jpg")})
    assert ask(gateway, "k1")[0] == ask(gateway, "k2")[0] == 424
    assert gateway.outcome("k1") == FetchOutcome("http_404", "HTTP status 404", 404, 1)
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


def test_a_slow_host_holds_no_other_back_though_all_threads_wait_for_it(server: HostileServer) -> None:
    """Nine in ten URLs are of one host that hangs; img2dataset's threads ask for nothing else."""
    slow = {f"slow{number}": server.url(f"/hang/{number}?fair") for number in range(90)}
    quick = {f"quick{number}": server.url(f"/ok/{number}.jpg?fair") for number in range(10)}
    spec = FetchSpec(allow_hosts=server.hosts, deadline_s=60.0)
    with ThreadPoolExecutor(8) as pool, Gateway(spec) as gateway:
        gateway.expect(slow | quick)
        asking = [pool.submit(ask, gateway, key) for key in list(slow)[:8]]
        began = time.monotonic()
        while sum(path.startswith("/ok/") and path.endswith("?fair") for path in server.paths()) < 10:
            assert time.monotonic() - began < 10.0
            time.sleep(0.01)
        assert ask(gateway, "quick9") == (200, saved(picture(9), "JPEG"))
        assert not any(task.done() for task in asking)
        for key in slow:
            assert gateway.outcome(key) is None
        gateway.forget(list(slow))
        wait(asking, 20)


@pytest.mark.timeout(60)  # one after the other, 500 URLs would take longer than this
def test_when_the_time_of_a_chunk_is_over_every_url_has_an_answer_at_once(server: HostileServer) -> None:
    spec = FetchSpec(allow_hosts=server.hosts, per_host=4, chunk_deadline_s=1.0)
    urls = {f"k{number}": server.url(f"/hang/{number}?chunk") for number in range(500)}
    with Gateway(spec) as gateway, ThreadPoolExecutor(16) as pool:
        gateway.expect(urls | {"good": server.url("/ok/1.jpg?chunk")})
        began = time.monotonic()
        assert list(pool.map(lambda key: ask(gateway, key)[0], ["good", *urls])) == [200] + [424] * 500
        assert time.monotonic() - began > 0.9
        outcomes = [gateway.outcome(key) for key in urls]
    assert {outcome.error_class for outcome in outcomes if outcome} == {"chunk_deadline"}
    assert (
        sum(outcome.attempts for outcome in outcomes if outcome)
        == sum("?chunk" in path for path in server.paths()) - 1
        == 4
    )


def test_many_large_bodies_come_through_a_small_memory(server: HostileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """One megabyte for twenty bodies of which each takes more: one at a time is let through."""
    monkeypatch.setenv("ZSCIR_DOWNLOAD_MEMORY_MB", "1")
    urls = {f"k{number}": server.url(f"/photo/1500/1500/{number}.jpg") for number in range(20)}
    with Gateway(FetchSpec(allow_hosts=server.hosts, per_host=64)) as gateway, ThreadPoolExecutor(5) as pool:
        gateway.expect(urls)
        assert [status for status, _ in pool.map(lambda key: ask(gateway, key), urls)] == [200] * 20


@pytest.mark.parametrize(("setting", "bytes_"), [("", 512 << 20), ("7", 7 << 20), ("0", 512 << 20), ("x", 512 << 20)])
def test_the_memory_is_a_setting(monkeypatch: pytest.MonkeyPatch, setting: str, bytes_: int) -> None:
    monkeypatch.setenv("ZSCIR_DOWNLOAD_MEMORY_MB", setting)
    assert download_memory_bytes() == bytes_


def test_as_long_as_a_request_waits_for_its_answer_there_is_progress(
    server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zscir.data.download.gateway.PROGRESS_INTERVAL_S", 0.05)
    with ThreadPoolExecutor(1) as pool, Gateway(FetchSpec(allow_hosts=server.hosts)) as gateway:
        gateway.expect({"k1": server.url("/hang/progress")})
        waiting = pool.submit(ask, gateway, "k1")
        time.sleep(1.0)
        assert time.monotonic() - gateway.last_progress_at < 0.9
        gateway.forget(["k1"])
        wait([waiting], 20)
        time.sleep(1.0)
        assert time.monotonic() - gateway.last_progress_at > 0.9


def test_an_image_that_takes_the_decoder_down_fails_alone_once_its_chunk_is_distrusted(server: HostileServer) -> None:
    """Such an image is not known; here, the time for one decoding is too short for a large one."""
    urls = {"bad": server.url("/photo/3000/3000/1.jpg"), "good": server.url("/ok/1.jpg")}
    other = {"other": server.url("/photo/3000/3000/2.jpg")}
    with Gateway(FetchSpec(allow_hosts=server.hosts)) as gateway:
        gateway._sandbox = DecodeSandbox(limit_s=0.01)
        gateway.distrust(urls.values())
        gateway.expect(urls | other)
        assert [ask(gateway, key)[0] for key in ("bad", "good", "other")] == [424, 200, 200]
        bad = gateway.outcome("bad")
    assert bad is not None
    assert (bad.error_class, bad.error) == ("bad_image", "its decoding crashes or does not end")


@pytest.mark.timeout(60)  # the URL hangs for 600 s
def test_leaving_does_not_wait_for_hanging_urls(server: HostileServer) -> None:
    with ThreadPoolExecutor(1) as pool:
        with Gateway(FetchSpec(allow_hosts=server.hosts, deadline_s=600.0)) as gateway:
            gateway.expect({"k1": server.url("/hang/gateway")})
            waiting = pool.submit(ask, gateway, "k1")
            while "/hang/gateway" not in server.paths():
                time.sleep(0.01)
        with pytest.raises((ConnectionError, TimeoutError)):
            waiting.result(30)
