"""A loopback HTTP server that answers `/<image_key>` with the validated image behind that key's URL.

It answers only for keys that it expects, so it is no proxy for other users of the machine.
"""

import asyncio
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
from zscir.runtime.settings import count_from_env

START_S = 30.0
BACKLOG = 2048
PROGRESS_INTERVAL_S = 1.0
DEFAULT_MEMORY_MB = 512
MAX_OPEN_FILES = 8192
PREFETCHES_PER_HOST_SLOT = 2  # URLs begun for each slot of a host: one of them may wait for its next attempt
BYTES_PER_PIXEL = 12  # at the peak of decoding: the pixels, a copy with transparency, a copy without
MAX_INLINE_HASH_BYTES = 1 * MIB  # what takes longer to hash does so in a thread


@dataclass(frozen=True)
class FetchOutcome:
    """The outcome of one URL: an image of this size and SHA-256 as its server sent it, or a failure."""

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
    return count_from_env("ZSCIR_DOWNLOAD_MEMORY_MB", DEFAULT_MEMORY_MB) * MIB


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
        self._sandbox = DecodeSandbox()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="zscir-gateway", daemon=True)
        self._waiting = 0
        self.port = 0
        # Monotonic time at which a request last came, was answered, or was waiting for its answer.
        self.last_progress_at = time.monotonic()

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
        """Answer for these image keys (key -> URL) from now on: one chunk, with one deadline."""
        self._loop.call_soon_threadsafe(self._prefetcher.expect, urls, self._spec.chunk_s(len(urls)))

    def distrust(self, urls: Iterable[str]) -> None:
        """From now on, decode the images of these URLs in a sandbox before they are handed on.

        For a chunk over which img2dataset died or stalled: the image to blame then fails as `bad_image`, alone.
        """
        self._distrusted.update(urls)

    def outcome(self, image_key: str) -> FetchOutcome | None:
        """The outcome of a key; None if it was not requested."""
        return self._outcomes.get(image_key)

    def forget(self, image_keys: list[str]) -> None:
        """Drop the outcomes of these keys and stop answering for them."""
        for key in image_keys:
            self._outcomes.pop(key, None)
        self._loop.call_soon_threadsafe(self._prefetcher.forget, image_keys)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._serve())
        finally:
            # Again: a thread that was about to start the sandbox's process has ended only now, with the runner.
            self._sandbox.close()
            self._ready.set()

    async def _serve(self) -> None:
        async with HttpClient(self._spec, self._pinned) as client:
            self._client = client
            self._prefetcher = Prefetcher(
                self._fetch_image, MemoryBudget(download_memory_bytes()), PREFETCHES_PER_HOST_SLOT * self._spec.per_host
            )
            app = web.Application()
            app.router.add_get("/{key}", self._answer)
            # When this ends nobody waits for answers any more; aiohttp reads a timeout of 0 as "for ever".
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05, handler_cancellation=True)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0, backlog=BACKLOG)
            await site.start()
            self.port = runner.addresses[0][1]
            self._ready.set()
            reporter = asyncio.create_task(self._report_progress())
            await self._stop.wait()
            reporter.cancel()
            await runner.cleanup()
            self._prefetcher.close()
            self._sandbox.close()

    async def _report_progress(self) -> None:
        """While a request waits, it is the gateway that is at work, within the deadlines of its URLs: no stall."""
        while True:
            await asyncio.sleep(PROGRESS_INTERVAL_S)
            if self._waiting:
                self.last_progress_at = time.monotonic()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        key = request.match_info["key"]
        self._waiting += 1
        try:
            async with self._prefetcher.result(key) as fetched:
                if fetched is None:
                    return web.Response(status=404)
                self._outcomes[key] = fetched.outcome
                if fetched.outcome.error_class is not None:
                    return web.Response(status=424, reason=fetched.outcome.error_class)
                response = web.Response(body=fetched.body, content_type="application/octet-stream")
                await response.prepare(request)
                await response.write_eof()
                return response
        finally:
            self._waiting -= 1
            self.last_progress_at = time.monotonic()

    async def _fetch_image(self, url: str, lease: MemoryLease, ends_at: float) -> _FetchedImage:
        """The outcome and body of one URL. At the end ``lease`` holds what the body takes."""
        fetched = await self._client.fetch(url, lease, ends_at)
        try:
            image = await self._validated(url, fetched, lease, ends_at)
        except FetchFailure as failure:
            lease.release()
            status = failure.http_status or fetched.http_status
            return _FetchedImage(FetchOutcome(failure.error_class, failure.error, status, fetched.attempts))
        lease.shrink(len(image.body))
        size = (image.width, image.height)
        return _FetchedImage(
            FetchOutcome(None, None, fetched.http_status, fetched.attempts, *size, image.sha256), image.body
        )

    async def _validated(self, url: str, fetched: FetchResult, lease: MemoryLease, ends_at: float) -> ValidImage:
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
                    await lease.resize(len(body) + BYTES_PER_PIXEL * header.width * header.height)
                image = await asyncio.to_thread(validated_image, body, header, limit)
                if url in self._distrusted and not await asyncio.to_thread(self._sandbox.can_decode, image.body):
                    raise FetchFailure("bad_image", "its decoding crashes or does not end", http_status=200)
                return image
        except TimeoutError:
            raise FetchFailure("chunk_deadline", TRANSIENT_ERRORS["chunk_deadline"]) from None
        except (FetchFailure, StageError):
            raise
        except Exception as error:  # noqa: BLE001 - what a decoder raises over strangers' bytes costs their URL only
            raise FetchFailure("bad_image", f"cannot be decoded ({type(error).__name__})", http_status=200) from None
