"""Client: one URL becomes its bytes or the reason why not, within the limits of a FetchSpec."""

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
from zscir.data.download.host_limits import BUSY_ERROR_CLASSES, HostLimits, WaitBudget
from zscir.data.download.ip_filter import PublicAddressResolver, check_url
from zscir.data.download.memory_budget import MemoryBudget, MemoryLease
from zscir.data.download.robots import ROBOTS_BYTES, RobotsCache
from zscir.data.download.url_deadline import UrlDeadline

REDIRECTS = {301, 302, 303, 307, 308}
BODY_READ_BYTES = 64 * 1024
BODY_GROWTH_BYTES = 1024 * 1024  # by which a body grows whose length nobody announced
KEEP_ALIVE_S = 4.0  # a connection that nobody uses is an open file; a list may have a new host with every URL
HEADERS = {"Accept": "image/*,*/*;q=0.8", "Accept-Encoding": "identity"}
UNSENT_ERROR_CLASSES = {"host_busy", "host_down", "robots_txt", "robots_unreachable"}
HostPort = tuple[str, int]


@dataclass(frozen=True)
class FetchResult:
    """What came of one URL: ``body`` or ``failure``, the last HTTP status, and how often it was asked for."""

    body: bytes | None
    failure: FetchFailure | None
    http_status: int | None
    attempts: int


@dataclass
class _FetchState:
    """What one URL (and all that it redirects to) has used up."""

    clock: UrlDeadline
    patience: WaitBudget
    lease: MemoryLease
    attempts: int = 0
    robots_file: bool = False  # a robots.txt: asked for without asking, and cut off where it is too long


class HttpClient:
    """Fetches URLs; one per event loop. ``pinned`` maps a (host, port) to the loopback address that stands for it."""

    def __init__(self, spec: FetchSpec, pinned: dict[HostPort, HostPort] | None = None) -> None:
        self._spec = spec
        self._allowed = frozenset(
            (host.strip("[]").lower(), int(port)) for host, _, port in (one.rpartition(":") for one in spec.allow_hosts)
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
        # aiohttp would ask again, at once and untold, when a server hangs up without an answer: retries are ours.
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
        """Ask until there is an answer that stands: at most ``retries`` more times, only after transient failures.

        ``lease`` is what the body takes of the memory, the caller's to release; ``ends_at`` (time of the event loop)
        is when all is over, whatever the URL waits for.
        """
        errand = self._errand(lease)
        with contextlib.suppress(TimeoutError):
            # A time-out that is over ends only what has to wait: look first.
            if ends_at is None or ends_at > asyncio.get_running_loop().time():
                async with asyncio.timeout_at(ends_at):
                    return await self._persist(url, errand)
        return FetchResult(
            None, FetchFailure("chunk_deadline", TRANSIENT_ERRORS["chunk_deadline"]), None, errand.attempts
        )

    def _errand(self, lease: MemoryLease | None, robots_file: bool = False) -> _FetchState:
        spec = self._spec
        lease = lease or MemoryBudget(spec.max_bytes).lease()
        return _FetchState(UrlDeadline(spec.deadline_s), WaitBudget(spec.wait_s()), lease, 0, robots_file)

    async def _persist(self, url: str, errand: _FetchState) -> FetchResult:
        own: FetchFailure | None = None  # what the URL itself was answered last
        while True:
            try:
                body, status = await self._follow(url, errand)
                return FetchResult(body, None, status, errand.attempts)
            except FetchFailure as failure:
                if failure.error_class not in UNSENT_ERROR_CLASSES or own is None:
                    own = failure
                wait_s = self._wait_s(failure, errand)
                if wait_s is None:
                    return FetchResult(None, own, own.http_status, errand.attempts)
            await asyncio.sleep(wait_s)
            errand.clock.left_s -= wait_s

    def _wait_s(self, failure: FetchFailure, errand: _FetchState) -> float | None:
        """Seconds until the next attempt, or None when there shall be none."""
        if not failure.transient or failure.error_class in UNSENT_ERROR_CLASSES or errand.attempts > self._spec.retries:
            return None
        if (failure.retry_after_s or 0.0) > self._spec.max_retry_after_s:
            return None
        if failure.error_class in BUSY_ERROR_CLASSES:
            return 0.0  # the URL waits with all others of its host
        wait_s = max(back_off_s(errand.attempts, self._spec.backoff_s), failure.retry_after_s or 0.0)
        return wait_s if wait_s < errand.clock.left_s else None

    async def _follow(self, url: str, errand: _FetchState) -> tuple[bytes, int]:
        status: int | None = None
        for hop in range(self._spec.max_redirects + 1):
            try:
                answer = await self._hop(url, errand, first=hop == 0)
            except FetchFailure as failure:
                if failure.http_status is None:
                    failure.http_status = status  # of the redirect that led here
                raise
            if isinstance(answer, bytes):
                return answer, 200
            url, status = answer
        raise FetchFailure("too_many_redirects", f"more than {self._spec.max_redirects} redirects", http_status=status)

    async def _hop(self, url: str, errand: _FetchState, first: bool) -> bytes | tuple[str, int]:
        """The body behind one URL, or the next URL and the status that redirected to it. Raises Failure."""
        if len(url) > MAX_URL_CHARS:
            raise FetchFailure("bad_url", f"longer than {MAX_URL_CHARS} characters")
        host = check_url(url, self._allowed)
        if self._spec.robots_txt and not errand.robots_file:
            await self._robots.check(url)
        async with self._hosts.turn(host.rstrip("."), errand.patience):
            errand.attempts += first
            try:
                async with errand.clock:
                    return await self._ask(url, errand)
            except TimeoutError:
                raise FetchFailure("timeout", f"not done within {self._spec.deadline_s:g} s") from None
            except (aiohttp.ClientError, OSError) as error:
                raise failure_from_client_error(error) from None
            except ValueError as error:
                raise FetchFailure("bad_url", f"the client cannot ask this URL ({type(error).__name__})") from None

    async def _ask(self, url: str, errand: _FetchState) -> bytes | tuple[str, int]:
        if self._session is None:
            raise RuntimeError("enter the Client first")
        async with self._session.get(URL(url), allow_redirects=False) as response:
            if response.status in REDIRECTS and "Location" in response.headers:
                return _next_url(url, response.headers["Location"], response.status), response.status
            if response.status != 200:
                raise failure_from_status(response.status, retry_after_s(response.headers.get("Retry-After")))
            if errand.robots_file:
                return await _first_bytes(response, ROBOTS_BYTES)
            return await self._body(response, errand)

    async def _robots_file(self, url: str) -> bytes:
        """A robots.txt, fetched as carefully as anything else. Raises Failure."""
        fetched = await self._persist(url, self._errand(None, robots_file=True))
        if fetched.failure is not None:
            raise fetched.failure
        return fetched.body or b""

    async def _body(self, response: aiohttp.ClientResponse, errand: _FetchState) -> bytes:
        directive = refusing_directive(response.headers.getall("X-Robots-Tag", []))
        if directive:
            raise FetchFailure("robots_tag", f"X-Robots-Tag says {directive}", http_status=response.status)
        limit, length = self._spec.max_bytes, response.content_length
        if (length or 0) > limit:
            raise _too_large(limit, response.status)
        await _lease_body(errand, min(limit, BODY_GROWTH_BYTES if length is None else length))
        data = bytearray()
        async for block in response.content.iter_chunked(BODY_READ_BYTES):
            data += block
            if len(data) > limit:
                raise _too_large(limit, response.status)
            if len(data) > errand.lease.size:
                await _lease_body(errand, min(limit, len(data) + BODY_GROWTH_BYTES))
        encoding = response.headers.get("Content-Encoding", "").strip().lower()
        if encoding in ("", "identity"):
            return bytes(data)
        await _lease_body(errand, len(data) + limit)
        return _unpacked(bytes(data), encoding, limit, response.status)


async def _lease_body(errand: _FetchState, size: int) -> None:
    """Lease memory for a body; waiting for it is not the URL's fault."""
    if not errand.lease.fits(size):
        async with errand.clock.stopped():
            await errand.lease.need(size)


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
    """The body without its content encoding, which we did not ask for; never more than ``limit`` bytes."""
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
