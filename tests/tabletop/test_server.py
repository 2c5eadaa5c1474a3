import http.client
import socket
import threading
import time
from io import BytesIO

import pytest
from PIL import Image

from zscir.tabletop.server import serve_tabletop
from zscir.tabletop.spec import TabletopSpec
from zscir.tabletop.web import url_fault, web_jpeg

SPEC = TabletopSpec(
    seed=3, scenes=500, missing_share=0.1, server_error_share=0.1, html_share=0.1, truncated_share=0.1,
    reset_share=0.1, hang_share=0.1, hang_s=0.3,
)  # fmt: skip


@pytest.fixture(scope="module")
def port():
    with serve_tabletop(SPEC) as port:
        yield port


def index_of(fate: str, spec: TabletopSpec = SPEC) -> int:
    return next(index for index in range(spec.scenes) if url_fault(spec, index) == fate)


def get(port: int, target: str, timeout_s: float = 10.0) -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("GET", target)
        answer = connection.getresponse()
        return answer.status, answer.headers["Content-Type"], answer.read()
    finally:
        connection.close()


def test_a_whole_picture_is_served_as_it_is_drawn(port):
    index = index_of("ok")
    assert get(port, f"/3/{index}.jpg") == (200, "image/jpeg", web_jpeg(SPEC, index))


def test_the_same_address_gives_the_same_bytes_each_time(port):
    index = index_of("ok")
    assert len({get(port, f"/3/{index}.jpg") for _ in range(3)}) == 1


def test_a_proxy_style_target_is_understood(port):
    index = index_of("ok")
    assert get(port, f"http://tabletop.test/3/{index}.jpg")[2] == web_jpeg(SPEC, index)


def test_a_missing_picture_is_a_404(port):
    assert get(port, f"/3/{index_of('missing')}.jpg")[0] == 404


def test_a_server_error_is_a_500(port):
    assert get(port, f"/3/{index_of('server_error')}.jpg")[0] == 500


def test_a_page_comes_instead_of_a_picture(port):
    status, kind, body = get(port, f"/3/{index_of('html')}.jpg")
    assert (status, kind) == (200, "text/html")
    assert body.startswith(b"<!doctype html>")


def test_a_truncated_picture_claims_to_be_whole_and_cannot_be_decoded(port):
    index = index_of("truncated")
    status, kind, body = get(port, f"/3/{index}.jpg")
    assert (status, kind) == (200, "image/jpeg")
    assert body == web_jpeg(SPEC, index)[: len(body)]
    with pytest.raises(OSError, match="truncated"):
        Image.open(BytesIO(body)).load()


def test_a_reset_breaks_the_body_in_the_middle(port):
    with pytest.raises((ConnectionResetError, http.client.IncompleteRead)):
        get(port, f"/3/{index_of('reset')}.jpg")


def test_a_hanging_address_says_nothing_and_then_hangs_up(port):
    started = time.monotonic()
    with pytest.raises(http.client.RemoteDisconnected):
        get(port, f"/3/{index_of('hang')}.jpg")
    assert time.monotonic() - started >= 0.3


def test_an_impatient_client_times_out(port):
    with pytest.raises(TimeoutError):
        get(port, f"/3/{index_of('hang')}.jpg", timeout_s=0.05)


@pytest.mark.parametrize(
    "target", ["/3/500.jpg", "/4/0.jpg", "/", "/3/0.png", "/3/../3/0.jpg", "/3/-1.jpg", "/3/" + "9" * 30 + ".jpg"]
)
def test_an_address_outside_the_world_is_a_404(port, target):
    assert get(port, target)[0] == 404


def test_one_connection_serves_many_requests(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    kept = set()
    for index in [n for n in range(40) if url_fault(SPEC, n) in ("ok", "missing", "html", "server_error")]:
        connection.request("GET", f"/3/{index}.jpg")
        connection.getresponse().read()
        assert connection.sock is not None
        kept.add(connection.sock.getsockname())
    connection.close()
    assert len(kept) == 1


def test_a_head_request_has_no_body(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("HEAD", f"/3/{index_of('ok')}.jpg")
    answer = connection.getresponse()
    assert int(answer.headers["Content-Length"]) > 0
    assert answer.read() == b""
    connection.close()


def test_many_clients_at_once_all_get_their_picture(port):
    indices = [index for index in range(200) if url_fault(SPEC, index) == "ok"][:32]
    got: dict[int, bytes] = {}

    def fetch(index: int) -> None:
        got[index] = get(port, f"/3/{index}.jpg")[2]

    threads = [threading.Thread(target=fetch, args=(index,)) for index in indices]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {index: web_jpeg(SPEC, index) for index in indices}


def test_closing_ends_hanging_and_idle_connections_and_every_thread():
    spec = TabletopSpec(scenes=50, hang_share=1.0, missing_share=0.0, server_error_share=0.0, html_share=0.0,
                        truncated_share=0.0, reset_share=0.0, hang_s=600.0)  # fmt: skip
    before = set(threading.enumerate())
    with serve_tabletop(spec) as port:
        hanging = socket.create_connection(("127.0.0.1", port))
        hanging.sendall(b"GET /0/1.jpg HTTP/1.1\r\nHost: tabletop.test\r\n\r\n")
        idle = socket.create_connection(("127.0.0.1", port))
        half = socket.create_connection(("127.0.0.1", port))
        half.sendall(b"GET /0/")
        time.sleep(0.2)
    assert set(threading.enumerate()) <= before
    for client in (hanging, idle, half):
        client.settimeout(5)
        assert client.recv(100) == b""
        client.close()


def test_two_worlds_may_be_served_at_once():
    with serve_tabletop(TabletopSpec(seed=1)) as one, serve_tabletop(TabletopSpec(seed=2)) as two:
        assert one != two
        assert get(one, "/2/0.jpg")[0] == 404
        assert get(two, "/1/0.jpg")[0] == 404
