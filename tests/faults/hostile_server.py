"""A loopback HTTP server that misbehaves as the web does, one way per path, and remembers every request."""

import asyncio
import gzip
import socket
import struct
import threading
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from io import BytesIO
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from PIL import Image

LEFT, RIGHT = (200, 30, 30), (30, 30, 200)


def picture(seed: int = 0, width: int = 64, height: int = 48) -> Image.Image:
    """A smooth random photograph-like image."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def two_halves(width: int = 64, height: int = 32) -> Image.Image:
    """Left half red, right half blue: turns and colour mistakes show."""
    image = Image.new("RGB", (width, height), LEFT)
    image.paste(RIGHT, (width // 2, 0, width, height))
    return image


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def rotated_jpeg() -> bytes:
    """Stored upright as 64 x 32, to be shown turned by 90 degrees (EXIF orientation 6): 32 x 64, red above blue."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(two_halves(), "JPEG", quality=95, exif=exif)


def deep_png() -> bytes:
    """16 bits of grey: left half 25 %, right half 75 %."""
    grey = np.full((32, 64), 0x4000, dtype=np.uint16)
    grey[:, 32:] = 0xC000
    return saved(Image.fromarray(grey), "PNG")


def palette_png() -> bytes:
    """A palette with a transparent colour: left half red, right half see-through."""
    image = Image.new("P", (64, 32), 0)
    image.putpalette([*LEFT, *RIGHT])
    image.paste(1, (32, 0, 64, 32))
    return saved(image, "PNG", transparency=1)


def huge_png(side: int = 10_000) -> bytes:
    """A valid one-bit PNG of 100 megapixels in a few kilobytes."""
    rows = zlib.compress(b"\0" * (side * (side // 8 + 1)), 9)
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    )


def animation(kind: str) -> bytes:
    """Two frames; the first is red and blue, the second white."""
    return saved(two_halves(), kind, save_all=True, append_images=[Image.new("RGB", (64, 32), "white")])


IMAGES: dict[str, Callable[[], bytes]] = {
    "cmyk.jpg": lambda: saved(two_halves().convert("CMYK"), "JPEG", quality=95),
    "grey.jpg": lambda: saved(picture().convert("L"), "JPEG"),
    "16bit.png": deep_png,
    "palette.png": palette_png,
    "alpha.png": lambda: saved(Image.merge("RGBA", (*two_halves().split(), Image.new("L", (64, 32), 255))), "PNG"),
    "rotated.jpg": rotated_jpeg,
    "webp.webp": lambda: saved(two_halves(), "WEBP", quality=95),
    "avif.avif": lambda: saved(two_halves(), "AVIF", quality=95),
    "animated.gif": lambda: animation("GIF"),
    "animated.webp": lambda: animation("WEBP"),
    "huge.png": huge_png,
    "html.jpg": lambda: b"<!doctype html><title>Gone</title><p>This picture has moved.</p>",
    "svg.svg": lambda: b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "empty.jpg": lambda: b"",
    "cut.jpg": lambda: saved(picture(1), "JPEG")[:-400],
}
BOMB = gzip.compress(b"\0" * 50_000_000)
PAGE = b"<!doctype html><title>No</title>"


class HostileServer:
    """``with HostileServer() as server``: `server.url("/ok/1.jpg")`, `server.paths()`; what each path does is below."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.gate = threading.Event()  # /gated/... waits until it is set
        self.port = 0
        self._counts: Counter[str] = Counter()
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
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self, path: str) -> str:
        return f"http://{self.host}{path}"

    def paths(self) -> list[str]:
        return [path for path, _ in self.requests]

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=512)
        self.port = server.sockets[0].getsockname()[1]
        self._stop = asyncio.ensure_future(asyncio.Event().wait())
        self._ready.set()
        try:
            await self._stop
        except asyncio.CancelledError:
            server.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                first, *lines = head.strip().split("\r\n")
                target = first.split(" ")[1]
                fields = (line.partition(":") for line in lines)
                self.requests.append((target, {name.lower(): value.strip() for name, _, value in fields}))
                async for block in self._answer(target, writer):
                    writer.write(block)
                    await writer.drain()
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
                yield whole(IMAGES[rest[0]](), query.get("type", "image/jpeg"))
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
                yield head(len(body)) + body
                await asyncio.sleep(0.1)
                yield b"x" * 1000
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
            case "garbage":
                yield b"\x00\x01\x02 this is not HTTP\r\n\r\n"
                raise ConnectionError
            case _:
                yield whole(PAGE, "text/html", 404)


def head(length: int | None, kind: str = "image/jpeg", status: int = 200, extra: str = "") -> bytes:
    size = f"Content-Length: {length}\r\n" if length is not None else "Connection: close\r\n"
    return f"HTTP/1.1 {status} Whatever\r\nContent-Type: {kind}\r\n{size}{extra}\r\n".encode()


def whole(body: bytes, kind: str = "image/jpeg", status: int = 200, extra: str = "") -> bytes:
    return head(len(body), kind, status, extra) + body
