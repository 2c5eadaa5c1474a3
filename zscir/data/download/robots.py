"""Ask a host's robots.txt (RFC 9309) whether one of its URLs may be fetched; the file itself is read by Protego.

A file that does not exist allows everything; one that could not be had (5xx, 429, no connection) allows nothing.
Crawl-delay is no part of the RFC and not read: `max_per_s` is there for that.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from protego import Protego

from zscir.data.download.failures import TRANSIENT_ERRORS, FetchFailure
from zscir.data.download.url_deadline import loop_time

ROBOTS_BYTES = 512 * 1024  # read and parsed; the RFC wants 500 KiB at the least
MAX_INLINE_PARSE_BYTES = 32 * 1024  # what is longer is parsed in a thread: 512 KiB of rules take up to a second
ROBOTS_KEEP_S = 24 * 3600.0  # RFC 9309, section 2.4: not to be used for longer than a day
ROBOTS_CACHE_BYTES = 64 * 1024 * 1024  # of all hosts together; then the file that was read first goes first
ROBOTS_RETRY_S = 60.0  # after a robots.txt that could not be had
FILE_BYTES = 1000  # of memory, for a parsed file without its lines
LINE_BYTES = 1000  # for each line: Protego 0.7 took 300 for a plain path, 500 with a *, 700 with a $, 1,070 with both
USER_AGENT_LINE = re.compile(r"user[- ]?agent(?:\s*:|\s)\s*(.*)", re.IGNORECASE)
PRODUCT_TOKEN = re.compile(r"[a-z_-]+|\*")
OTHER_AGENT = "-"  # stands for every robot but us; as a product token it is nobody's


@dataclass(frozen=True)
class RobotsRules:
    """One robots.txt, parsed for ``agent``. ``size``: bytes of memory that it takes, roughly."""

    parser: Protego = field(default_factory=Protego)
    agent: str = ""
    size: int = FILE_BYTES

    def allow(self, url: str) -> bool:
        """Whether ``url`` may be fetched: the longest pattern that fits decides; where two do, the one that allows."""
        return bool(self.parser.can_fetch(url, self.agent))


def parse_robots(text: str, agent: str) -> RobotsRules:
    """The rules for ``agent`` (a product token): of all groups that name it, or else of those for everybody (`*`)."""
    stripped = (line.partition("#")[0].strip() for line in text.lstrip("\ufeff").splitlines())
    lines = [_with_product_token(line, agent.lower()) for line in stripped if line]
    return RobotsRules(Protego.parse("\n".join(lines)), agent, FILE_BYTES + LINE_BYTES * len(lines))


def _with_product_token(line: str, agent: str) -> str:
    """A User-agent line reduced to ``agent``, `*` or ``OTHER_AGENT``; any other line as it is.

    RFC 9309 (2.2.1) compares product tokens: `ZSCIR/1.0` is zscir, `zs` is not. Protego compares the whole value, by
    prefix. And it keeps each rule once for each agent of a group: 500 kB of made-up agents would fill the memory.
    """
    named = USER_AGENT_LINE.match(line)
    if named is None:
        return line
    token = PRODUCT_TOKEN.match(named[1].lower())
    return f"User-agent: {token[0] if token and token[0] in (agent, '*') else OTHER_AGENT}"


class RobotsCache:
    """The rules of each scheme, host and port, fetched once by ``fetch``: a file's bytes, or FetchFailure."""

    def __init__(self, fetch: Callable[[str], Awaitable[bytes]], agent: str) -> None:
        self._fetch = fetch
        self._agent = agent
        self._cache: dict[tuple[str, str], tuple[asyncio.Task[RobotsRules | FetchFailure], float]] = {}
        self._bytes = 0

    async def check(self, url: str) -> None:
        """Raise FetchFailure `robots_txt` when ``url`` must not be fetched, `robots_unreachable` when that is unknown.

        Where the host cannot be reached at all (dns, tls, ...), raises what a request for the URL would raise.
        """
        parts = urlsplit(url)
        answer = await self._rules_of(parts.scheme, parts.netloc.rpartition("@")[2].lower())
        if isinstance(answer, FetchFailure):
            raise FetchFailure(answer.error_class, answer.error, answer.http_status)
        if not answer.allow(url):
            raise FetchFailure("robots_txt", "robots.txt asks not to fetch it")

    def close(self) -> None:
        """Cancel the fetches under way."""
        for task, _ in self._cache.values():
            task.cancel()

    async def _rules_of(self, scheme: str, netloc: str) -> RobotsRules | FetchFailure:
        now = loop_time()
        cached = self._cache.get((scheme, netloc))
        if cached is None or (cached[0].done() and now - cached[1] > _keep_s(cached[0].result())):
            self._drop((scheme, netloc))
            self._evict()
            cached = (asyncio.create_task(self._load(f"{scheme}://{netloc}/robots.txt")), now)
            self._cache[scheme, netloc] = cached
            cached[0].add_done_callback(self._account)
        return await asyncio.shield(cached[0])  # a waiter that is cancelled leaves the file to the others

    def _account(self, task: "asyncio.Task[RobotsRules | FetchFailure]") -> None:
        if not task.cancelled():
            self._bytes += _size(task.result())

    def _drop(self, site: tuple[str, str]) -> None:
        cached = self._cache.pop(site, None)
        if cached:
            self._bytes -= _size(cached[0].result())

    def _evict(self) -> None:
        for site in list(self._cache) if self._bytes > ROBOTS_CACHE_BYTES else []:
            if self._bytes > ROBOTS_CACHE_BYTES and self._cache[site][0].done():
                self._drop(site)

    async def _load(self, url: str) -> RobotsRules | FetchFailure:
        try:
            data = await self._fetch(url)
            text = data.decode("utf-8", "replace")
            if len(data) <= MAX_INLINE_PARSE_BYTES:
                return parse_robots(text, self._agent)
            return await asyncio.to_thread(parse_robots, text, self._agent)
        except FetchFailure as failure:
            if failure.transient:
                return FetchFailure("robots_unreachable", TRANSIENT_ERRORS["robots_unreachable"], failure.http_status)
            # With a status there was an answer, and it was not this file.
            return failure if failure.http_status is None else RobotsRules()


def _size(answer: RobotsRules | FetchFailure) -> int:
    return answer.size if isinstance(answer, RobotsRules) else FILE_BYTES


def _keep_s(answer: RobotsRules | FetchFailure) -> float:
    return ROBOTS_RETRY_S if isinstance(answer, FetchFailure) else ROBOTS_KEEP_S
