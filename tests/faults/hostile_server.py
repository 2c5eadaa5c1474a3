"""A loopback HTTP server that misbehaves as the web does, one way per path, and remembers every request.

Whoever makes a host seem busy or down has a loopback address of its own: the rest must not suffer for it.
"""

import asyncio
import contextlib
import gzip
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import cache
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

from tests.faults.hostile_images import IMAGES, picture, saved

BOMB = gzip.compress(b"\0" * 50_000_000)
PAGE = b"<!doctype html><title>No</title>"
ADDRESSES = tuple(f"127.0.0.{number}" for number in range(1, 12))
SLOW_TLS = "127.0.0.12"
OWN = {
    way: address
    for address, way in zip(
        ADDRESSES[1:],
        ["busy/always", "busy/once", "flaky", "hang", "drip", "reset", "truncated", "limited", "down", "slow"],
        strict=True,
    )
}


class HostileServer:
    """``with HostileServer() as server``: `server.url("/ok/1.jpg")`, `server.paths()`; what each path does is below."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.robots: bytes | int = 404  # what /robots.txt is answered: a text or a status
        self.robots_at = "/elsewhere"  # where a redirect of it leads
        self.most = 0  # requests under way at the same time, at most
        self.gate = threading.Event()  # /gated/... waits until it is set
        self.port = 0
        self._now = 0
        self._counts: Counter[str] = Counter()
        self._limited_at: list[float] = []
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.cancel)
        self._thread.join()

    @property
    def hosts(self) -> tuple[str, ...]:
        """All addresses at which it listens, with the port: what a spec has to allow."""
        return tuple(f"{address}:{self.port}" for address in ADDRESSES)

    @property
    def host(self) -> str:
        return self.hosts[0]

    def url(self, path: str, address: str | None = None) -> str:
        """``path`` at the address that such paths have, or at any other of ADDRESSES."""
        ways = (way for way in OWN if path.startswith(f"/{way}"))
        return f"http://{address or OWN.get(next(ways, ''), ADDRESSES[0])}:{self.port}{path}"

    def paths(self) -> list[str]:
        return [path for path, _ in self.requests]

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        listeners = listen()
        servers = [await asyncio.start_server(self._connection, sock=listener, backlog=512) for listener in listeners]
        self.port = listeners[0].getsockname()[1]
        self._stop = asyncio.ensure_future(asyncio.Event().wait())
        self._ready.set()
        try:
            await self._stop
        except asyncio.CancelledError:
            for server in servers:
                server.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                first, *lines = head.strip().split("\r\n")
                target = first.split(" ")[1]
                fields = (line.partition(":") for line in lines)
                self.requests.append((target, {name.lower(): value.strip() for name, _, value in fields}))
                self._now += 1
                self.most = max(self.most, self._now)
                try:
                    async for block in self._answer(target, writer):
                        writer.write(block)
                        await writer.drain()
                finally:
                    self._now -= 1
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass  # the client is gone, the server ends, or the path asks for an end
        finally:
            writer.close()

    async def _answer(self, target: str, writer: asyncio.StreamWriter) -> AsyncIterator[bytes]:
        parts = urlsplit(target)
        first, *rest = unquote(parts.path).strip("/").split("/")
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self._counts[target] += 1
        match first:
            case "ok":
                yield whole(saved(picture(int(rest[0].partition(".")[0])), "JPEG"))
            case "photo":
                width, height, number = (int(part.partition(".")[0]) for part in rest)
                yield whole(saved(picture(number, width, height), "JPEG", quality=90))
            case "gated":
                while not self.gate.is_set():
                    await asyncio.sleep(0.02)
                yield whole(saved(picture(int(rest[0].partition(".")[0])), "JPEG"))
            case "image":
                yield whole(made(rest[0]), query.get("type", "image/jpeg"))
            case "status":
                yield whole(PAGE, "text/html", int(rest[0]))
            case "busy":  # 429 with Retry-After, for ever or only the first time
                if rest[0] == "once" and self._counts[target] > 1:
                    yield whole(saved(picture(), "JPEG"))
                else:
                    yield whole(PAGE, "text/html", 429, f"Retry-After: {query['after']}\r\n")
            case "flaky":  # 503 for the first so many requests
                fails = self._counts[target] <= int(rest[0])
                yield whole(PAGE, "text/html", 503) if fails else whole(saved(picture(), "JPEG"))
            case "redirect":
                yield whole(b"", "text/html", int(rest[0]), f"Location: {query['to']}\r\n")
            case "loop":
                yield whole(b"", "text/html", 302, "Location: /loop\r\n")
            case "chain":
                left = int(rest[0])
                to = f"/chain/{left - 1}" if left > 1 else "/ok/7.jpg"
                yield whole(b"", "text/html", 301, f"Location: {to}\r\n")
            case "robots.txt":
                if isinstance(self.robots, int):
                    yield whole(PAGE, "text/html", self.robots, f"Location: {self.robots_at}\r\n")
                else:
                    yield whole(self.robots, "text/plain")
            case "slow":  # seconds until the picture comes
                await asyncio.sleep(float(rest[0]))
                yield whole(saved(picture(), "JPEG"))
            case "limited":  # so many in any second; more get a 429 that does not say for how long
                now = time.monotonic()
                self._limited_at = [at for at in self._limited_at if now - at < 1.0]
                if len(self._limited_at) >= int(rest[0]):
                    yield whole(PAGE, "text/html", 429)
                else:
                    self._limited_at.append(now)
                    yield whole(saved(picture(), "JPEG"))
            case "robots":
                yield whole(saved(picture(), "JPEG"), "image/jpeg", 200, f"X-Robots-Tag: {query['tag']}\r\n")
            case _:
                async for block in self._broken(first, writer):
                    yield block

    async def _broken(self, how: str, writer: asyncio.StreamWriter) -> AsyncIterator[bytes]:
        body = saved(picture(3, 400, 300), "JPEG")
        match how:
            case "hang":
                await asyncio.sleep(60)
            case "drip":
                yield head(len(body))
                for byte in body:
                    yield bytes([byte])
                    await asyncio.sleep(0.2)
            case "endless":
                yield head(None)
                while True:
                    yield b"\xff" * 65536
                    await asyncio.sleep(0)
            case "truncated":
                yield head(len(body)) + body[: len(body) // 2]
                raise ConnectionError
            case "no-length":
                yield head(None) + body
                raise ConnectionError
            case "long":  # more than was announced: what follows is no part of the image
                yield head(len(body), extra="Connection: close\r\n") + body
                await asyncio.sleep(0.1)
                yield b"x" * 1000
                raise ConnectionError
            case "leftover":  # the same, on a connection that is kept for the next request
                yield head(len(body)) + body
                await asyncio.sleep(0.1)
                yield b"x" * 1000
            case "short":  # less than there is was announced: the image is cut off
                yield head(len(body) // 2, extra="Connection: close\r\n") + body[: len(body) // 2]
                await asyncio.sleep(0.1)
                yield body[len(body) // 2 :]
                raise ConnectionError
            case "reset":
                yield head(len(body)) + body[:100]
                connection = writer.get_extra_info("socket")  # no lingering: close with RST
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                raise ConnectionError
            case "announced":
                yield head(10_000_000_000)
                await asyncio.sleep(60)
            case "bomb":
                yield whole(BOMB, "image/jpeg", 200, "Content-Encoding: gzip\r\n")
            case "gzip":
                yield whole(gzip.compress(body), "image/jpeg", 200, "Content-Encoding: gzip\r\n")
            case "brotli":
                yield whole(body, "image/jpeg", 200, "Content-Encoding: br\r\n")
            case "down":  # not a word
                raise ConnectionError
            case "garbage":
                yield b"\x00\x01\x02 this is not HTTP\r\n\r\n"
                raise ConnectionError
            case _:
                yield whole(PAGE, "text/html", 404)


@cache
def made(name: str) -> bytes:
    return IMAGES[name]()


def listen() -> list[socket.socket]:
    """A socket at each address, all with the same port."""
    while True:
        first = socket.create_server((ADDRESSES[0], 0), backlog=512)
        try:
            port = first.getsockname()[1]
            return [first, *(socket.create_server((address, port), backlog=512) for address in ADDRESSES[1:])]
        except OSError:
            first.close()  # somebody has this port at another address


@contextmanager
def slow_tls() -> Iterator[int]:
    """The port at SLOW_TLS of a TLS server that drips its side of the handshake, a byte every 0.1 s."""
    ending = threading.Event()

    def drip(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            for byte in b"\x16\x03\x03\x40\x00\x02" + b"\0" * 10_000:
                connection.sendall(bytes([byte]))
                if ending.wait(0.1):
                    return

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threads.append(threading.Thread(target=drip, args=listener.accept()[:1]))
                threads[-1].start()

    with socket.create_server((SLOW_TLS, 0), backlog=64) as listener:
        threads = [threading.Thread(target=accept)]
        threads[0].start()
        try:
            yield listener.getsockname()[1]
        finally:
            ending.set()
            listener.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()


def head(length: int | None, kind: str = "image/jpeg", status: int = 200, extra: str = "") -> bytes:
    size = f"Content-Length: {length}\r\n" if length is not None else "Connection: close\r\n"
    return f"HTTP/1.1 {status} Whatever\r\nContent-Type: {kind}\r\n{size}{extra}\r\n".encode()


def whole(body: bytes, kind: str = "image/jpeg", status: int = 200, extra: str = "") -> bytes:
    return head(len(body), kind, status, extra) + body
