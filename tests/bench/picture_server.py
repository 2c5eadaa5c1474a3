"""A quick loopback server of JPEGs in a process of its own: `/<n>.jpg` over http, and https if given a certificate.

python -m tests.bench.picture_server COUNT [CERTIFICATE KEY]  # prints its ports; ends when its stdin closes
"""

import asyncio
import ssl
import sys
from io import BytesIO

import numpy as np
from PIL import Image

SHORT_PX, LONG_PX, QUALITY = 512, 640, 85
GRAIN = 2.0  # makes a file of about 55 kB, as web images of this size have


def picture(seed: int) -> bytes:
    """A JPEG with soft shapes and some grain."""
    rng = np.random.default_rng(seed)
    soft = Image.fromarray(rng.integers(0, 256, (24, 30, 3), dtype=np.uint8))
    pixels = np.asarray(soft.resize((LONG_PX, SHORT_PX), Image.Resampling.BICUBIC), dtype=np.float32)
    grain = rng.normal(0.0, GRAIN, (SHORT_PX, LONG_PX, 1)).astype(np.float32)
    stream = BytesIO()
    Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()


class Answer(asyncio.Protocol):
    """Answers each request with a picture that lies ready; keeps the connection unless asked to close it."""

    def __init__(self, pictures: list[bytes]) -> None:
        self._pictures = pictures
        self._got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._got += data
        while b"\r\n\r\n" in self._got:
            head, _, self._got = self._got.partition(b"\r\n\r\n")
            number = int(head[5 : head.index(b".jpg")])
            body = self._pictures[number % len(self._pictures)]
            last = b"connection: close" in head.lower()
            extra = b"Connection: close\r\n" if last else b""
            self._transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n%bContent-Length: %d\r\n\r\n" % (extra, len(body))
                + body
            )
            if last:
                self._transport.close()


async def serve(count: int, certificate: list[str]) -> None:
    loop = asyncio.get_running_loop()
    pictures = [picture(seed) for seed in range(count)]
    servers = [await loop.create_server(lambda: Answer(pictures), "127.0.0.1", 0, backlog=1024)]
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        servers.append(await loop.create_server(lambda: Answer(pictures), "127.0.0.1", 0, ssl=context, backlog=1024))
    ports = " ".join(str(server.sockets[0].getsockname()[1]) for server in servers)
    mean = sum(map(len, pictures)) / len(pictures) / 1000
    sys.stdout.write(f"{ports} {mean:.1f}\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), sys.argv[2:]))
