"""HTTP client for images: fetch a URL with redirects, retries and bounds, or say why it gave nothing."""

import asyncio
import contextlib
import zlib
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urljoin

import aiohttp
from yarl import URL

from zscir.data.download.failures import TRANSIENT_ERRORS, FetchFailure, failure_from_client_error, failure_from_status
from zscir.data.download.fetch_spec import MAX_URL_CHARS, FetchSpec
from zscir.data.download.headers import ROBOTS_AGENT, back_off_s, refusing_directive, retry_after_s, user_agent
from zscir.data.download.host_limits import BUSY_ERROR_CLASSES, HostLimits
from zscir.data.download.ip_filter import PublicAddressResolver, check_url
from zscir.data.download.memory_budget import MemoryBudget, MemoryLease
from zscir.data.download.robots import ROBOTS_BYTES, RobotsCache
from zscir.data.download.url_deadline import UrlDeadline, WaitBudget, loop_time

REDIRECTS = {301, 302, 303, 307, 308}
BODY_READ_BYTES = 64 * 1024
BODY_GROWTH_BYTES = 1024 * 1024  # by which a body grows whose length nobody announced
KEEP_ALIVE_S = 4.0  # a connection that nobody uses is an open file; a list may have a new host with every URL
HEADERS = {"Accept": "image/*,*/*;q=0.8", "Accept-Encoding": "identity"}
UNSENT_ERROR_CLASSES = {"host_busy", "host_down", "robots_txt", "robots_unreachable"}
HostPort = tuple[str, int]


@dataclass(frozen=True)
class FetchResult:
    """The result of one URL: ``body`` or ``failure``, the last HTTP status, and the number of attempts."""

    body: bytes | None
    failure: FetchFailure | None
    http_status: int | None
    attempts: int


@dataclass
class _FetchState:
    """What one URL (and all that it redirects to) has used up."""

    deadline: UrlDeadline
    wait_budget: WaitBudget
    lease: MemoryLease
    attempts: int = 0
    robots_file: bool = False  # a robots.txt itself: needs no permission, and is cut off where it is too long


class HttpClient:
    """Fetches URLs; one per event loop. ``pinned`` maps a (host, port) to the loopback address that stands for it."""

    def __init__(self, spec: FetchSpec, pinned: dict[HostPort, HostPort] | None = None) -> None:
        self._spec = spec
        self._allowed = frozenset(
            (host.strip("[]").lower(), int(port))
            for host, _, port in (allowed.rpartition(":") for allowed in spec.allow_hosts)
        )
        self._resolver = PublicAddressResolver(self._allowed, pinned or {})
        self._hosts = HostLimits(spec)
        self._robots = RobotsCache(self._robots_file, ROBOTS_AGENT)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(
            limit=0,
            keepalive_timeout=KEEP_ALIVE_S,
            resolver=self._resolver,
            ttl_dns_cache=60,
            socket_factory=self._resolver.socket_for,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers={**HEADERS, "User-Agent": user_agent()},
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            trust_env=False,
        )
        # aiohttp would repeat the request at once when a server hangs up without an answer: retries are ours to count.
        self._session._retry_connection = False
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._robots.close()
        if self._session is not None:
            await self._session.close()
        await self._resolver.close()

    async def fetch(self, url: str, lease: MemoryLease | None = None, ends_at: float | None = None) -> FetchResult:
        """Fetch ``url``, with at most ``retries`` more attempts after transient failures. Raises no FetchFailure.

        ``lease`` is the memory of the body, the caller's to release; at ``ends_at`` (time of the event loop) the chunk
        is over, whatever the URL waits for.
        """
        state = self._new_state(lease)
        with contextlib.suppress(TimeoutError):
            # asyncio.timeout_at with a time that is past ends only what waits: a request that does not would go on.
            if ends_at is None or ends_at > loop_time():
                async with asyncio.timeout_at(ends_at):
                    return await self._fetch_with_retries(url, state)
        return FetchResult(
            None, FetchFailure("chunk_deadline", TRANSIENT_ERRORS["chunk_deadline"]), None, state.attempts
        )

    def _new_state(self, lease: MemoryLease | None, robots_file: bool = False) -> _FetchState:
        spec = self._spec
        lease = lease or MemoryBudget(spec.max_bytes).lease()
        return _FetchState(UrlDeadline(spec.deadline_s), WaitBudget(spec.wait_s()), lease, 0, robots_file)

    async def _fetch_with_retries(self, url: str, state: _FetchState) -> FetchResult:
        own: FetchFailure | None = None  # the last failure of a request; not of waiting for its host
        while True:
            try:
                body, status = await self._follow_redirects(url, state)
                return FetchResult(body, None, status, state.attempts)
            except FetchFailure as failure:
                if failure.error_class not in UNSENT_ERROR_CLASSES or own is None:
                    own = failure
                wait_s = self._wait_s(failure, state)
                if wait_s is None:
                    return FetchResult(None, own, own.http_status, state.attempts)
            await asyncio.sleep(wait_s)
            state.deadline.left_s -= wait_s

    def _wait_s(self, failure: FetchFailure, state: _FetchState) -> float | None:
        """Seconds until the next attempt, or None when there is to be none."""
        if not failure.transient or failure.error_class in UNSENT_ERROR_CLASSES or state.attempts > self._spec.retries:
            return None
        if (failure.retry_after_s or 0.0) > self._spec.max_retry_after_s:
            return None
        if failure.error_class in BUSY_ERROR_CLASSES:
            return 0.0  # HostLimits makes it wait, with all other URLs of its host
        wait_s = max(back_off_s(state.attempts, self._spec.backoff_s), failure.retry_after_s or 0.0)
        return wait_s if wait_s < state.deadline.left_s else None

    async def _follow_redirects(self, url: str, state: _FetchState) -> tuple[bytes, int]:
        status: int | None = None
        for hop in range(self._spec.max_redirects + 1):
            try:
                answer = await self._request_hop(url, state, first=hop == 0)
            except FetchFailure as failure:
                if failure.http_status is None:
                    failure.http_status = status  # of the redirect that led here
                raise
            if isinstance(answer, bytes):
                return answer, 200
            url, status = answer
        raise FetchFailure("too_many_redirects", f"more than {self._spec.max_redirects} redirects", http_status=status)

    async def _request_hop(self, url: str, state: _FetchState, first: bool) -> bytes | tuple[str, int]:
        """The body behind one URL, or the URL that it redirects to and the status. Raises FetchFailure."""
        if len(url) > MAX_URL_CHARS:
            raise FetchFailure("bad_url", f"longer than {MAX_URL_CHARS} characters")
        host = check_url(url, self._allowed)
        if self._spec.robots_txt and not state.robots_file:
            await self._robots.check(url)
        async with self._hosts.slot(host.rstrip("."), state.wait_budget):
            state.attempts += first
            try:
                async with state.deadline:
                    return await self._request(url, state)
            except TimeoutError:
                raise FetchFailure("timeout", f"not done within {self._spec.deadline_s:g} s") from None
            except (aiohttp.ClientError, OSError) as error:
                raise failure_from_client_error(error) from None
            except ValueError as error:
                raise FetchFailure("bad_url", f"the client cannot ask this URL ({type(error).__name__})") from None

    async def _request(self, url: str, state: _FetchState) -> bytes | tuple[str, int]:
        if self._session is None:
            raise RuntimeError("enter the HttpClient first")
        async with self._session.get(URL(url), allow_redirects=False) as response:
            if response.status in REDIRECTS and "Location" in response.headers:
                return _next_url(url, response.headers["Location"], response.status), response.status
            if response.status != 200:
                raise failure_from_status(response.status, retry_after_s(response.headers.get("Retry-After")))
            if state.robots_file:
                return await _first_bytes(response, ROBOTS_BYTES)
            return await self._body(response, state)

    async def _robots_file(self, url: str) -> bytes:
        """A robots.txt, fetched within the same bounds as an image. Raises FetchFailure."""
        fetched = await self._fetch_with_retries(url, self._new_state(None, robots_file=True))
        if fetched.failure is not None:
            raise fetched.failure
        return fetched.body or b""

    async def _body(self, response: aiohttp.ClientResponse, state: _FetchState) -> bytes:
        directive = refusing_directive(response.headers.getall("X-Robots-Tag", []))
        if directive:
            raise FetchFailure("robots_tag", f"X-Robots-Tag says {directive}", http_status=response.status)
        limit, length = self._spec.max_bytes, response.content_length
        if (length or 0) > limit:
            raise _too_large(limit, response.status)
        await _lease_body(state, min(limit, BODY_GROWTH_BYTES if length is None else length))
        data = bytearray()
        async for block in response.content.iter_chunked(BODY_READ_BYTES):
            data += block
            if len(data) > limit:
                raise _too_large(limit, response.status)
            if len(data) > state.lease.size:
                await _lease_body(state, min(limit, len(data) + BODY_GROWTH_BYTES))
        encoding = response.headers.get("Content-Encoding", "").strip().lower()
        if encoding in ("", "identity"):
            return bytes(data)
        await _lease_body(state, len(data) + limit)
        return _unpacked(bytes(data), encoding, limit, response.status)


async def _lease_body(state: _FetchState, size: int) -> None:
    """Lease memory for a body; waiting for it takes nothing of the URL's deadline."""
    if not state.lease.try_resize(size):
        async with state.deadline.paused():
            await state.lease.resize(size)


async def _first_bytes(response: aiohttp.ClientResponse, limit: int) -> bytes:
    data = bytearray()
    async for block in response.content.iter_chunked(BODY_READ_BYTES):
        data += block
        if len(data) >= limit:
            break
    return bytes(data[:limit])


def _next_url(url: str, location: str, status: int) -> str:
    try:
        return urljoin(url, location)
    except ValueError:
        raise FetchFailure("bad_url", "redirected to what is not a URL", http_status=status) from None


def _unpacked(data: bytes, encoding: str, limit: int, status: int) -> bytes:
    """The body without its content encoding; never more than ``limit`` bytes, whatever the data would unzip to."""
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise FetchFailure("bad_encoding", f"content encoding {encoding[:40]!r} was not asked for", http_status=status)
    unzip = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    try:
        plain = unzip.decompress(data, limit + 1)
    except zlib.error:
        raise FetchFailure("bad_encoding", f"the body is not {encoding}", http_status=status) from None
    if len(plain) > limit:
        raise _too_large(limit, status)
    return plain


def _too_large(limit: int, status: int) -> FetchFailure:
    return FetchFailure("too_large", f"more than {limit} bytes", http_status=status)
