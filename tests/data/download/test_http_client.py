"""One URL of a hostile server at a time: what the client gives, and what the server saw."""

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.faults.hostile_server import SLOW_TLS, HostileServer, slow_tls
from zscir.data.download.fetch_spec import FetchSpec
from zscir.data.download.http_client import FetchResult, HttpClient

QUICK = {"deadline_s": 2.0, "retries": 1, "backoff_s": 0.02, "max_bytes": 1_000_000}


@pytest.fixture(scope="module")
def server() -> Iterator[HostileServer]:
    with HostileServer() as server:
        yield server


def fetch(server: HostileServer, *paths: str, **limits: object) -> list[FetchResult]:
    spec = FetchSpec.model_validate({**QUICK, "allow_hosts": server.hosts, **limits}, strict=False)

    async def all_of_them() -> list[FetchResult]:
        async with HttpClient(spec) as client:
            return await asyncio.gather(*(client.fetch(server.url(path)) for path in paths))

    return asyncio.run(all_of_them())


def seen(server: HostileServer, path: str) -> int:
    return [unquote(requested) for requested in server.paths()].count(unquote(path))


@pytest.mark.parametrize(
    ("path", "error_class", "http_status", "attempts"),
    [
        ("/status/404", "http_404", 404, 1),
        ("/status/410", "http_410", 410, 1),
        ("/status/403", "http_403", 403, 1),
        ("/status/451", "http_451", 451, 1),
        ("/status/500", "http_500", 500, 2),
        ("/flaky/9", "http_503", 503, 2),
        ("/busy/always?after=0", "http_429", 429, 2),
        ("/busy/always?after=3600", "http_429", 429, 1),
        ("/truncated/1.jpg", "incomplete", None, 2),
        ("/reset/1.jpg", "incomplete", None, 2),
        ("/garbage", "bad_answer", None, 2),
        ("/hang/1.jpg", "timeout", None, 1),
        ("/drip/1.jpg", "timeout", None, 1),
        ("/endless/1.jpg", "too_large", 200, 1),
        ("/announced/1.jpg", "too_large", 200, 1),
        ("/down/1.jpg", "incomplete", None, 2),
        ("/bomb", "too_large", 200, 1),
        ("/brotli", "bad_encoding", 200, 1),
        ("/robots/a?tag=noai", "robots_tag", 200, 1),
        ("/robots/b?tag=noindex,%20nofollow", "robots_tag", 200, 1),
        ("/loop", "too_many_redirects", 302, 1),
        ("/chain/6", "too_many_redirects", 301, 1),
        ("/redirect/302?to=http://127.0.0.1:9/private", "forbidden_address", 302, 1),
        ("/redirect/301?to=http://169.254.169.254/latest/meta-data/", "forbidden_address", 301, 1),
        ("/redirect/307?to=http://[::1]/", "forbidden_address", 307, 1),
        ("/redirect/308?to=http://2130706433/", "forbidden_address", 308, 1),
        ("/redirect/303?to=http://localhost/", "forbidden_address", 303, 1),
        ("/redirect/302?to=file:///etc/passwd", "bad_url", 302, 1),
        ("/redirect/302?to=http://[broken", "bad_url", 302, 1),
    ],
)
def test_what_fails_says_why(
    server: HostileServer, path: str, error_class: str, http_status: int | None, attempts: int
) -> None:
    [got] = fetch(server, path)
    assert got.body is None
    assert got.failure is not None
    assert (got.failure.error_class, got.http_status, got.attempts) == (error_class, http_status, attempts)
    assert str(server.port) not in got.failure.error
    assert seen(server, path) == (6 if path == "/loop" else attempts)


@pytest.mark.parametrize(
    ("path", "attempts"),
    [
        ("/ok/1.jpg", 1), ("/no-length/1.jpg", 1), ("/long/1.jpg", 1), ("/gzip", 1), ("/chain/5", 1),
        ("/flaky/1", 2), ("/busy/once?after=0", 2), ("/image/grey.jpg?type=text/html", 1),
        ("/robots/c?tag=googlebot:%20noindex", 1), ("/redirect/302?to=/ok/3.jpg", 1),
    ],
)  # fmt: skip
def test_what_works_in_the_end_gives_the_bytes(server: HostileServer, path: str, attempts: int) -> None:
    [got] = fetch(server, path)
    assert got.failure is None
    assert got.body is not None
    assert got.body.startswith(b"\xff\xd8")
    assert (got.http_status, got.attempts) == (200, attempts)


def test_retry_after_is_waited_for(server: HostileServer) -> None:
    began = time.monotonic()
    [got] = fetch(server, "/busy/once?after=1&it", deadline_s=30.0)
    assert got.failure is None
    assert time.monotonic() - began >= 1.0


def test_waiting_for_a_busy_host_is_not_counted_as_the_urls_time(server: HostileServer) -> None:
    [got] = fetch(server, "/busy/once?after=1&uncounted", deadline_s=0.5)
    assert (got.failure, got.attempts) == (None, 2)


@pytest.mark.parametrize("limit", [{"max_retry_after_s": 10.0}, {"max_wait_s": 10.0}])
@pytest.mark.timeout(14)  # a wait would take 15 s
def test_a_retry_after_beyond_the_limits_is_not_waited_for(server: HostileServer, limit: dict[str, float]) -> None:
    [got] = fetch(server, "/busy/always?after=15", **limit)
    assert got.failure is not None
    assert (got.failure.error_class, got.attempts) == ("http_429", 1)


def test_a_retry_after_holds_for_the_whole_host(server: HostileServer) -> None:
    """The first answer says to come again in an hour: no other URL is requested at all."""
    paths = [f"/busy/always?after=3600&whole-host={number}" for number in range(20)]
    got = fetch(server, *paths, per_host=1)
    assert [result.failure.error_class for result in got if result.failure] == ["http_429"] + ["host_busy"] * 19
    assert [result.attempts for result in got] == [1] + [0] * 19
    assert sum("whole-host" in path for path in server.paths()) == 1


def test_a_host_that_gives_no_answer_soon_gets_no_more_requests(server: HostileServer) -> None:
    paths = [f"/down/breaker-{number}" for number in range(60)] + ["/ok/1.jpg"]
    got = fetch(server, *paths, per_host=2, breaker_failures=4, max_wait_s=0.0, retries=0)
    classes = Counter(result.failure.error_class for result in got if result.failure)
    requested = sum(path.startswith("/down/breaker") for path in server.paths())
    assert classes == {"incomplete": requested, "host_down": 60 - requested}
    assert 4 <= requested <= 6
    assert got[-1].body


def test_a_url_keeps_what_it_was_answered_itself(server: HostileServer) -> None:
    """It fails, and while it waits for its second attempt its host goes down."""
    got = fetch(server, "/down/a", "/down/b", per_host=2, breaker_failures=2, max_wait_s=0.0, backoff_s=0.2)
    assert [(result.failure.error_class, result.attempts) for result in got if result.failure] == [
        ("incomplete", 1)
    ] * 2


def test_a_url_that_cannot_be_requested_counts_no_attempt(server: HostileServer) -> None:
    async def private() -> list[FetchResult]:
        async with HttpClient(FetchSpec()) as client:
            return [await client.fetch(url) for url in ("http://10.0.0.1/", "file:///etc/passwd", server.url("/ok/1"))]

    assert [result.attempts for result in asyncio.run(private())] == [0, 0, 0]


def test_no_host_gets_requests_faster_than_the_spec_allows(server: HostileServer) -> None:
    began = time.monotonic()
    got = fetch(server, *(f"/ok/{number}.jpg?rate" for number in range(6)), max_per_s=10.0, deadline_s=0.4)
    assert all(result.body for result in got)
    assert time.monotonic() - began >= 0.5


@pytest.mark.timeout(9)  # the wait that the host asks of one of the URLs
def test_when_the_chunk_is_over_a_url_is_too_whatever_it_waits_for(server: HostileServer) -> None:
    async def late() -> list[FetchResult]:
        spec = FetchSpec(allow_hosts=server.hosts, per_host=1)
        async with HttpClient(spec) as client:
            ends_at = asyncio.get_running_loop().time() + 0.5
            paths = ["/hang/late", "/hang/queued", "/busy/always?after=9", "/ok/1.jpg"]
            return await asyncio.gather(*(client.fetch(server.url(path), ends_at=ends_at) for path in paths))

    got = asyncio.run(late())
    assert [result.failure and result.failure.error_class for result in got] == ["chunk_deadline"] * 3 + [None]
    assert [result.attempts for result in got] == [1, 0, 1, 1]


@pytest.mark.timeout(18)  # one after the other they would take 20 s
def test_hanging_urls_cost_their_deadline_side_by_side(server: HostileServer) -> None:
    got = fetch(server, *(f"/hang/{number}" for number in range(40)), deadline_s=0.5, per_host=40)
    assert {result.failure.error_class for result in got if result.failure} == {"timeout"}


def test_waiting_for_a_slot_of_the_host_is_not_counted(server: HostileServer) -> None:
    got = fetch(server, *(f"/hang/{number}" for number in range(3)), "/ok/1.jpg", deadline_s=0.3, per_host=1)
    assert [result.failure is None for result in got] == [False, False, False, True]


def test_nothing_private_is_requested_unless_the_spec_allows_it(server: HostileServer) -> None:
    before = len(server.requests)
    [got] = fetch(server, "/ok/1.jpg", allow_hosts=())
    assert got.failure is not None
    assert got.failure.error_class == "forbidden_address"
    with HostileServer() as private:
        [got] = fetch(server, f"/redirect/302?to={private.url('/secret')}")
        assert got.failure is not None
        assert private.requests == []
    assert len(server.requests) == before + 1


def test_a_host_that_refuses_the_connection_is_tried_again() -> None:
    with HostileServer() as gone:
        pass
    [got] = fetch(gone, "/ok/1.jpg")
    assert got.failure is not None
    assert (got.failure.error_class, got.failure.error, got.attempts) == ("connect", "Connection refused", 2)


@contextmanager
def self_signed(folder: Path) -> Iterator[int]:
    """A TLS server on loopback whose certificate nobody signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    start = datetime(2020, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, start, start + timedelta(days=40_000))
    (folder / "cert.pem").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=shake_hands, args=(listener, context))
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def shake_hands(listener: socket.socket, context: ssl.SSLContext) -> None:
    connection, _ = listener.accept()
    with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as secure:
        secure.recv(1)


def test_what_one_answer_leaves_on_a_connection_is_not_the_end_of_the_next_url(server: HostileServer) -> None:
    async def one_after_the_other() -> list[FetchResult]:
        async with HttpClient(FetchSpec(allow_hosts=server.hosts, per_host=1)) as client:
            got = [await client.fetch(server.url("/leftover"))]
            return got + [await client.fetch(server.url(f"/slow/0.2?{n}", "127.0.0.1")) for n in range(3)]

    assert [result.failure for result in asyncio.run(one_after_the_other())] == [None] * 4


def test_a_certificate_that_nobody_signed_is_not_accepted(tmp_path: Path) -> None:
    with self_signed(tmp_path) as port:
        spec = FetchSpec(allow_hosts=(f"localhost:{port}",), retries=3)

        async def one() -> FetchResult:
            async with HttpClient(spec) as client:
                return await client.fetch(f"https://localhost:{port}/1.jpg")

        got = asyncio.run(one())
    assert got.failure is not None
    assert (got.failure.error_class, got.failure.error, got.attempts) == ("tls", "TLS: self-signed certificate", 1)


@pytest.mark.timeout(30)
def test_a_handshake_that_drips_costs_the_urls_deadline() -> None:
    with slow_tls() as port:
        spec = FetchSpec(allow_hosts=(f"{SLOW_TLS}:{port}",), deadline_s=1.0)

        async def one() -> FetchResult:
            async with HttpClient(spec) as client:
                return await client.fetch(f"https://{SLOW_TLS}:{port}/1.jpg")

        got = asyncio.run(one())
    assert got.failure is not None
    assert (got.failure.error_class, got.attempts) == ("timeout", 1)


def test_a_request_names_its_sender_and_accepts_no_encoding(server: HostileServer) -> None:
    fetch(server, "/ok/77.jpg")
    headers = dict(server.requests)["/ok/77.jpg"]
    assert headers["user-agent"].startswith("zscir/")
    assert "contact" in headers["user-agent"]
    assert headers["accept-encoding"] == "identity"
    assert "cookie" not in headers
