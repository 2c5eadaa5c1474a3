"""Gateway: a loopback HTTP server behind which each `/<image_key>` is fetched from its URL, vetted and accounted for.

It answers only for keys that it was told to expect, so it is no proxy for anybody else.
"""

import asyncio
import os
import resource
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from aiohttp import web

from zscir.data.download.decode_sandbox import DecodeSandbox
from zscir.data.download.failures import TRANSIENT_ERRORS, FetchFailure
from zscir.data.download.fetch_spec import MIB, FetchSpec
from zscir.data.download.http_client import FetchResult, HostPort, HttpClient
from zscir.data.download.memory_budget import MemoryBudget, MemoryLease
from zscir.data.download.prefetch import Prefetcher
from zscir.data.download.validate_image import ValidImage, is_plain_image, validate_header, validated_image
from zscir.runtime.errors import StageError

START_S = 30.0
BACKLOG = 2048
PROGRESS_INTERVAL_S = 1.0
DEFAULT_MEMORY_MB = 512
MAX_OPEN_FILES = 8192
PREFETCHES_PER_HOST_SLOT = 2  # URLs begun for each slot of a host: one may be waiting for its next attempt
BYTES_PER_PIXEL = 12  # that decoding takes for a while: the pixels, a copy with transparency, a copy without
MAX_INLINE_HASH_BYTES = 1 * MIB  # what takes longer to hash does so in a thread


@dataclass(frozen=True)
class FetchOutcome:
    """What the outside gave for one URL: an image of this size and SHA-256, or a failure."""

    error_class: str | None
    error: str | None
    http_status: int | None
    attempts: int
    width: int | None = None
    height: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class _FetchedImage:
    outcome: FetchOutcome
    body: bytes = b""


def download_memory_bytes() -> int:
    """Bytes that bodies may take in one gateway: ``ZSCIR_DOWNLOAD_MEMORY_MB``, else 512 MiB."""
    asked = os.environ.get("ZSCIR_DOWNLOAD_MEMORY_MB", "")
    return (int(asked) if asked.isdecimal() and int(asked) else DEFAULT_MEMORY_MB) * MIB


def _raise_open_file_limit() -> None:
    """Let this process have more files open than the usual 1,024: every connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(MAX_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Gateway:
    """A context manager: the server runs in a thread of its own while it is entered."""

    def __init__(self, spec: FetchSpec, pinned: dict[HostPort, HostPort] | None = None) -> None:
        self._spec = spec
        self._pinned = pinned
        self._outcomes: dict[str, FetchOutcome] = {}
        self._distrusted: set[str] = set()  # URLs
        self._trial = DecodeSandbox()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="zscir-gateway", daemon=True)
        self._waiting = 0
        self.port = 0
        self.last_news = time.monotonic()  # when somebody last asked, was answered, or was waiting for an answer

    def __enter__(self) -> Self:
        _raise_open_file_limit()
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
        """Answer for these image keys from now on, with what the URL of each gives: one chunk, with one deadline."""
        self._loop.call_soon_threadsafe(self._ahead.expect, urls, self._spec.chunk_s(len(urls)))

    def distrust(self, urls: Iterable[str]) -> None:
        """From now on, decode what these URLs give in a process of its own before handing it on.

        For a chunk over which img2dataset died or stood still: the image to blame then fails as `bad_image`, alone.
        """
        self._distrusted.update(urls)

    def outcome(self, image_key: str) -> FetchOutcome | None:
        """What became of a key; None if nobody asked for it."""
        return self._outcomes.get(image_key)

    def forget(self, image_keys: list[str]) -> None:
        """Drop keys that are dealt with."""
        for key in image_keys:
            self._outcomes.pop(key, None)
        self._loop.call_soon_threadsafe(self._ahead.forget, image_keys)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._serve())
        finally:
            self._trial.close()  # again: a thread that was about to begin one has ended only now, with the runner
            self._ready.set()

    async def _serve(self) -> None:
        async with HttpClient(self._spec, self._pinned) as client:
            self._client = client
            self._ahead = Prefetcher(
                self._find, MemoryBudget(download_memory_bytes()), PREFETCHES_PER_HOST_SLOT * self._spec.per_host
            )
            app = web.Application()
            app.router.add_get("/{key}", self._answer)
            # Nobody waits for answers any more when this ends; aiohttp reads 0 as "for ever".
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05, handler_cancellation=True)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0, backlog=BACKLOG)
            await site.start()
            self.port = runner.addresses[0][1]
            self._ready.set()
            beat = asyncio.create_task(self._beat())
            await self._stop.wait()
            beat.cancel()
            await runner.cleanup()
            self._ahead.close()
            self._trial.close()

    async def _beat(self) -> None:
        """As long as somebody waits for an answer, it is we who are at work, within our own deadlines."""
        while True:
            await asyncio.sleep(PROGRESS_INTERVAL_S)
            if self._waiting:
                self.last_news = time.monotonic()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        key = request.match_info["key"]
        self._waiting += 1
        try:
            async with self._ahead.result(key) as found:
                if found is None:
                    return web.Response(status=404)
                self._outcomes[key] = found.outcome
                if found.outcome.error_class is not None:
                    return web.Response(status=424, reason=found.outcome.error_class)
                response = web.Response(body=found.body, content_type="application/octet-stream")
                await response.prepare(request)
                await response.write_eof()
                return response
        finally:
            self._waiting -= 1
            self.last_news = time.monotonic()

    async def _find(self, url: str, lease: MemoryLease, ends_at: float) -> _FetchedImage:
        """What becomes of one URL. The lease holds, at the end, what the body takes."""
        fetched = await self._client.fetch(url, lease, ends_at)
        try:
            vetted = await self._vetted(url, fetched, lease, ends_at)
        except FetchFailure as failure:
            lease.release()
            status = failure.http_status or fetched.http_status
            return _FetchedImage(FetchOutcome(failure.error_class, failure.error, status, fetched.attempts))
        lease.shrink(len(vetted.body))
        size = (vetted.width, vetted.height)
        return _FetchedImage(
            FetchOutcome(None, None, fetched.http_status, fetched.attempts, *size, vetted.sha256), vetted.body
        )

    async def _vetted(self, url: str, fetched: FetchResult, lease: MemoryLease, ends_at: float) -> ValidImage:
        body, limit = fetched.body, self._spec.max_pixels
        if fetched.failure is not None or body is None:
            raise fetched.failure or FetchFailure("empty", "the body is empty")
        try:
            header = validate_header(body, limit)
            plain = is_plain_image(body, header)
            if plain and len(body) <= MAX_INLINE_HASH_BYTES and url not in self._distrusted:
                return validated_image(body, header, limit)
            async with asyncio.timeout_at(ends_at):
                if not plain:
                    await lease.need(len(body) + BYTES_PER_PIXEL * header.width * header.height)
                vetted = await asyncio.to_thread(validated_image, body, header, limit)
                if url in self._distrusted and not await asyncio.to_thread(self._trial.survives, vetted.body):
                    raise FetchFailure("bad_image", "its decoding crashes or does not end", http_status=200)
                return vetted
        except TimeoutError:
            raise FetchFailure("chunk_deadline", TRANSIENT_ERRORS["chunk_deadline"]) from None
        except (FetchFailure, StageError):
            raise
        except Exception as error:  # noqa: BLE001 - what a decoder raises over strangers' bytes costs their URL only
            raise FetchFailure("bad_image", f"cannot be decoded ({type(error).__name__})", http_status=200) from None
