"""A loopback HTTP server that renders the pictures of the tabletop world on demand and breaks some on purpose.

``GET /<seed>/<index>.jpg`` is answered from the path alone, so the server may stand behind any host name; it also
takes absolute request targets (``GET http://tabletop.test/0/7.jpg``), as a client that uses a proxy sends.
"""

import re
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from urllib.parse import urlsplit

from zscir.tabletop.spec import TabletopSpec
from zscir.tabletop.web import url_fault, web_jpeg

_PATH = re.compile(r"/(\d{1,18})/(\d{1,18})\.jpg")
_PAGE = b"<!doctype html><title>Moved</title><p>This picture has moved. Please accept our cookies.</p>\n"


@contextmanager
def serve_tabletop(spec: TabletopSpec, port: int = 0) -> Iterator[int]:
    """Serve the pictures of ``spec`` on 127.0.0.1 while the block runs; gives the port (0 asks for a free one).

    On leaving, stalled and idle connections are closed and every thread has ended.
    """
    with _Server(spec, port) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="tabletop server")
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            server.close_connections()
            thread.join()


class _Server(ThreadingHTTPServer):
    """Knows its live connections, so that it can end them; ``server_close`` then joins their threads."""

    daemon_threads = False
    request_queue_size = 256  # the default of 5 is too short for a downloader

    def __init__(self, spec: TabletopSpec, port: int) -> None:
        self.spec = spec
        self.closing = Event()
        self._lock = Lock()
        self._live: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Handler)

    def opened(self, connection: socket.socket) -> None:
        with self._lock:
            self._live.add(connection)
        if self.closing.is_set():
            _shut_down_socket(connection)

    def closed(self, connection: socket.socket) -> None:
        with self._lock:
            self._live.discard(connection)

    def close_connections(self) -> None:
        """End all waits and all connections."""
        self.closing.set()
        with self._lock:
            for connection in self._live:
                _shut_down_socket(connection)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no event; anything else is a fault of the server and is shown."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # the base class wants a socket, and only prints it


def _shut_down_socket(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # the other side was faster


class _Handler(BaseHTTPRequestHandler):
    """Answers one connection; HTTP/1.1 keeps it open between requests."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # a small answer would wait for the client's delayed ACK
    wbufsize = -1  # headers and body leave in one segment
    timeout = 120.0
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.opened(self.connection)

    def finish(self) -> None:
        try:
            super().finish()
        finally:
            self.server.closed(self.connection)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Nothing: the client's own record of the download is the log."""

    def do_GET(self) -> None:
        """The picture, or the way in which it is broken."""
        self._answer()

    def do_HEAD(self) -> None:
        """As GET, without a body."""
        self._answer()

    def _answer(self) -> None:
        spec = self.server.spec
        found = _PATH.fullmatch(urlsplit(self.path).path)
        if found is None or int(found[1]) != spec.seed or int(found[2]) >= spec.scenes:
            self._send(404, "text/html", _PAGE)
            return
        index = int(found[2])
        match url_fault(spec, index):
            case "ok":
                self._send(200, "image/jpeg", web_jpeg(spec, index))
            case "missing":
                self._send(404, "text/html", _PAGE)
            case "server_error":
                self._send(500, "text/html", _PAGE)
            case "html":
                self._send(200, "text/html", _PAGE)
            case "truncated":
                self._send(200, "image/jpeg", _first_half(web_jpeg(spec, index)))
            case "reset":
                self._reset(web_jpeg(spec, index))
            case "hang":
                self._stall(spec.hang_s)

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self._head(status, kind, len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: int, kind: str, length: int) -> None:
        self.send_response_only(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def _reset(self, body: bytes) -> None:
        """Promise the whole body, send half of it, then let the kernel send RST instead of FIN."""
        self._head(200, "image/jpeg", len(body))
        self.wfile.write(_first_half(body))
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def _stall(self, hang_s: float) -> None:
        """Say nothing until the time is over or the server closes, then close the connection."""
        self.server.closing.wait(hang_s)
        self.close_connection = True


def _first_half(body: bytes) -> bytes:
    return body[: len(body) // 2]
