"""A proxy before an S3 server that loses requests and answers, or is not there at all, when a test says so."""

import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

KINDS = ("busy", "unheard", "unanswered", "broken")  # refused; cut off before, cut off after, 500 after it was done
BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
BROKEN = b"<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"
UNCONDITIONAL = b"<Error><Code>NotImplemented</Code><Message>A header is not implemented.</Message></Error>"


class FaultyProxy:
    """``with FaultyProxy(endpoint, share=0.05) as proxy``: ``proxy.url`` stands for ``endpoint``; ``proxy.faults``
    counts what it did. ``conditions`` may be ``kept``, ``ignored`` or ``refused``, as endpoints differ in that.
    """

    def __init__(self, endpoint: str, share: float = 0.0, seed: int = 0, conditions: str = "kept") -> None:
        self.behind = urlsplit(endpoint).netloc
        self.share = share
        self.conditions = conditions
        self.faults: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self._rng = random.Random(seed)
        self._lock = threading.Lock()
        self._port = 0
        self.open_now = False

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @contextmanager
    def away(self) -> Iterator[None]:
        """Nobody listens on the port."""
        self.close()
        try:
            yield
        finally:
            self.open()

    def fault(self) -> str:
        """What happens to the next request: nothing, or one of the kinds."""
        with self._lock:
            kind = self._rng.choice(KINDS) if self._rng.random() < self.share else ""
            if kind:
                self.faults[kind] += 1
            return kind

    def open(self) -> None:
        self._server = _Server(("127.0.0.1", self._port), _Handler)
        self._server.proxy = self
        self._port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.open_now = True

    def close(self) -> None:
        self.open_now = False  # also for who is connected already
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    proxy: FaultyProxy

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no error."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _pass(self) -> None:
        proxy = self.server.proxy
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        proxy.requests[f"{self.command} {self.path.split('?')[0]}"] += 1
        fault = proxy.fault()
        conditional = self.command in ("PUT", "POST", "DELETE") and {"if-match", "if-none-match"} & {
            name.lower() for name in self.headers
        }
        if fault == "unheard" or not proxy.open_now:
            self.close_connection = True
        elif fault == "busy":
            self._say(503, {}, BUSY)
        elif conditional and proxy.conditions == "refused":
            self._say(501, {}, UNCONDITIONAL)
        else:
            status, headers, data = self._forward(body, bool(conditional) and proxy.conditions == "ignored")
            if fault == "unanswered":
                self.close_connection = True
            elif fault == "broken":
                self._say(500, {}, BROKEN)
            else:
                self._say(status, headers, data)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass

    def _forward(self, body: bytes, plain: bool) -> tuple[int, dict[str, str], bytes]:
        dropped = {"expect", "connection"} | ({"if-match", "if-none-match"} if plain else set())
        headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
        connection = HTTPConnection(self.server.proxy.behind, timeout=60)
        try:
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        except (OSError, HTTPException):
            return 502, {}, b""
        finally:
            connection.close()

    def _say(self, status: int, headers: dict[str, str], data: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        length = headers.get("Content-Length", str(len(data))) if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *words: object) -> None:
        """Quiet."""
