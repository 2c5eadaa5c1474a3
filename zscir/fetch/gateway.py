"""Gateway: a loopback HTTP server behind which each `/<image_key>` is fetched from its URL, vetted and accounted for.

It answers only for keys that it was told to expect, so it is no proxy for anybody else.
"""

import asyncio
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from aiohttp import web

from zscir.errors import StageError
from zscir.fetch.client import Address, Client, Fetched
from zscir.fetch.failures import Failure
from zscir.fetch.limits import FetchSpec
from zscir.fetch.vetting import Vetted, inspect, is_plain, vet

START_S = 30.0
BACKLOG = 2048


@dataclass(frozen=True)
class Outcome:
    """What the outside gave for one URL: an image of this size and SHA-256, or a failure."""

    error_class: str | None
    error: str | None
    http_status: int | None
    attempts: int
    width: int | None = None
    height: int | None = None
    sha256: str | None = None


class Gateway:
    """A context manager: the server runs in a thread of its own while it is entered."""

    def __init__(self, spec: FetchSpec, pinned: dict[Address, Address] | None = None) -> None:
        self._spec = spec
        self._pinned = pinned
        self._urls: dict[str, str] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="zscir-gateway", daemon=True)
        self.port = 0
        self.last_news = time.monotonic()  # when a request last came in or was answered

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(START_S) or not self.port:
            raise StageError("the loopback gateway did not start; is there a free port on 127.0.0.1?")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def expect(self, urls: dict[str, str]) -> None:
        """Answer for these image keys from now on, by fetching the URL of each."""
        self._urls.update(urls)

    def outcome(self, image_key: str) -> Outcome | None:
        """What became of a key; None if nobody asked for it."""
        return self._outcomes.get(image_key)

    def forget(self, image_keys: list[str]) -> None:
        """Drop keys that are dealt with."""
        for key in image_keys:
            self._urls.pop(key, None)
            self._outcomes.pop(key, None)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._serve())
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        async with Client(self._spec, self._pinned) as client:
            self._client = client
            app = web.Application()
            app.router.add_get("/{key}", self._answer)
            # Nobody waits for answers any more when this ends; aiohttp reads 0 as "for ever".
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0, backlog=BACKLOG)
            await site.start()
            self.port = runner.addresses[0][1]
            self._ready.set()
            await self._stop.wait()
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        key = request.match_info["key"]
        url = self._urls.get(key)
        if url is None:
            return web.Response(status=404)
        self.last_news = time.monotonic()
        fetched = await self._client.fetch(url)
        try:
            vetted = await self._vetted(fetched)
        except Failure as failure:
            status = failure.http_status or fetched.http_status
            self._outcomes[key] = Outcome(failure.error_class, failure.error, status, fetched.attempts)
            return web.Response(status=424, reason=failure.error_class)
        finally:
            self.last_news = time.monotonic()
        self._outcomes[key] = Outcome(
            None, None, fetched.http_status, fetched.attempts, vetted.width, vetted.height, vetted.sha256
        )
        return web.Response(body=vetted.body, content_type="application/octet-stream")

    async def _vetted(self, fetched: Fetched) -> Vetted:
        if fetched.failure is not None or fetched.body is None:
            raise fetched.failure or Failure("empty", "the body is empty")
        header = inspect(fetched.body, self._spec.max_pixels)
        if is_plain(fetched.body, header):
            return vet(fetched.body, header, self._spec.max_pixels)
        return await asyncio.to_thread(vet, fetched.body, header, self._spec.max_pixels)
