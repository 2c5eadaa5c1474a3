"""Client: one URL becomes its bytes or the reason why not, within the limits of a FetchSpec."""

import asyncio
import time
import zlib
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urljoin

import aiohttp
from yarl import URL

from zscir.fetch.addresses import CheckedResolver, check_url
from zscir.fetch.failures import Failure, from_client, from_status
from zscir.fetch.limits import FetchSpec
from zscir.fetch.manners import Hosts, back_off_s, retry_after_s, robots_refuse, user_agent

REDIRECTS = {301, 302, 303, 307, 308}
READ_BYTES = 64 * 1024
MAX_URL_CHARS = 8192
HEADERS = {"Accept": "image/*,*/*;q=0.8", "Accept-Encoding": "identity"}
Address = tuple[str, int]


@dataclass(frozen=True)
class Fetched:
    """What came of one URL: ``body``, or ``failure``; the last HTTP status and the number of attempts either way."""

    body: bytes | None
    failure: Failure | None
    http_status: int | None
    attempts: int


class _Clock:
    """The seconds that a URL has left. It runs during requests and back-off, not while waiting for a host's slot."""

    def __init__(self, deadline_s: float) -> None:
        self.left_s = deadline_s

    async def __aenter__(self) -> None:
        self._timeout = asyncio.timeout(max(0.0, self.left_s))
        self._began = time.monotonic()
        await self._timeout.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.left_s -= time.monotonic() - self._began
        await self._timeout.__aexit__(kind, error, trace)


class Client:
    """Fetches URLs; one per event loop. ``pinned`` maps a (host, port) to the loopback address that stands for it."""

    def __init__(self, spec: FetchSpec, pinned: dict[Address, Address] | None = None) -> None:
        self._spec = spec
        self._allowed = frozenset(
            (host.strip("[]").lower(), int(port)) for host, _, port in (one.rpartition(":") for one in spec.allow_hosts)
        )
        self._resolver = CheckedResolver(self._allowed, pinned or {})
        self._hosts = Hosts(spec.per_host)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(
            limit=0, resolver=self._resolver, ttl_dns_cache=60, socket_factory=self._resolver.socket_for
        )
        self._session = aiohttp.ClientSession(
            connector=connector, headers={**HEADERS, "User-Agent": user_agent()}, auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout(total=None), trust_env=False,
        )  # fmt: skip
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def fetch(self, url: str) -> Fetched:
        """Ask until there is an answer that stands: at most ``retries`` more times, only after transient failures."""
        clock, attempts = _Clock(self._spec.deadline_s), 0
        while True:
            attempts += 1
            try:
                body, status = await self._follow(url, clock)
                return Fetched(body, None, status, attempts)
            except Failure as failure:
                wait_s = self._wait_s(failure, attempts, clock)
                if wait_s is None:
                    return Fetched(None, failure, failure.http_status, attempts)
            await asyncio.sleep(wait_s)
            clock.left_s -= wait_s

    def _wait_s(self, failure: Failure, attempts: int, clock: _Clock) -> float | None:
        """Seconds until the next attempt, or None when there shall be none."""
        if not failure.transient or attempts > self._spec.retries:
            return None
        wait_s = back_off_s(attempts, self._spec.backoff_s)
        if failure.retry_after_s is not None:
            if failure.retry_after_s > self._spec.max_retry_after_s:
                return None
            wait_s = max(wait_s, failure.retry_after_s)
        return wait_s if wait_s < clock.left_s else None

    async def _follow(self, url: str, clock: _Clock) -> tuple[bytes, int]:
        status: int | None = None
        for _ in range(self._spec.max_redirects + 1):
            try:
                answer = await self._hop(url, clock)
            except Failure as failure:
                if failure.http_status is None:
                    failure.http_status = status  # of the redirect that led here
                raise
            if isinstance(answer, bytes):
                return answer, 200
            url, status = answer
        raise Failure("too_many_redirects", f"more than {self._spec.max_redirects} redirects", http_status=status)

    async def _hop(self, url: str, clock: _Clock) -> bytes | tuple[str, int]:
        """The body behind one URL, or the next URL and the status that redirected to it. Raises Failure."""
        if len(url) > MAX_URL_CHARS:
            raise Failure("bad_url", f"longer than {MAX_URL_CHARS} characters")
        host = check_url(url, self._allowed)
        async with self._hosts.slot(host):
            try:
                async with clock:
                    return await self._ask(url)
            except TimeoutError:
                raise Failure("timeout", f"not done within {self._spec.deadline_s:g} s") from None
            except (aiohttp.ClientError, OSError) as error:
                raise from_client(error) from None
            except ValueError as error:
                raise Failure("bad_url", f"the client cannot ask this URL ({type(error).__name__})") from None

    async def _ask(self, url: str) -> bytes | tuple[str, int]:
        if self._session is None:
            raise RuntimeError("enter the Client first")
        async with self._session.get(URL(url), allow_redirects=False) as response:
            if response.status in REDIRECTS and "Location" in response.headers:
                return _next_url(url, response.headers["Location"], response.status), response.status
            if response.status != 200:
                raise from_status(response.status, retry_after_s(response.headers.get("Retry-After")))
            return await self._body(response)

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        directive = robots_refuse(response.headers.getall("X-Robots-Tag", []))
        if directive:
            raise Failure("robots_tag", f"X-Robots-Tag says {directive}", http_status=response.status)
        limit = self._spec.max_bytes
        if (response.content_length or 0) > limit:
            raise _too_large(limit, response.status)
        data = bytearray()
        async for block in response.content.iter_chunked(READ_BYTES):
            data += block
            if len(data) > limit:
                raise _too_large(limit, response.status)
        return _unpacked(bytes(data), response.headers.get("Content-Encoding", ""), limit, response.status)


def _next_url(url: str, location: str, status: int) -> str:
    try:
        return urljoin(url, location)
    except ValueError:
        raise Failure("bad_url", "redirected to what is not a URL", http_status=status) from None


def _unpacked(data: bytes, encoding: str, limit: int, status: int) -> bytes:
    """The body without its content encoding, which we did not ask for; never more than ``limit`` bytes."""
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return data
    if name not in ("gzip", "x-gzip", "deflate"):
        raise Failure("bad_encoding", f"content encoding {name[:40]!r} was not asked for", http_status=status)
    unzip = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    try:
        plain = unzip.decompress(data, limit + 1)
    except zlib.error:
        raise Failure("bad_encoding", f"the body is not {name}", http_status=status) from None
    if len(plain) > limit:
        raise _too_large(limit, status)
    return plain


def _too_large(limit: int, status: int) -> Failure:
    return Failure("too_large", f"more than {limit} bytes", http_status=status)
