"""Robots: a host's robots.txt becomes whether one of its URLs may be fetched, as RFC 9309 says.

A file that does not exist allows everything; one that could not be had (5xx, 429, no connection) allows nothing.
Crawl-delay is no part of the RFC and not read: `max_per_s` is there for that.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes, urlsplit

from zscir.data.download.failures import TRANSIENT_ERRORS, FetchFailure

ROBOTS_BYTES = 512 * 1024  # read and parsed; the RFC wants 500 KiB at the least
ROBOTS_KEEP_S = 24 * 3600.0
ROBOTS_CACHE_BYTES = 64 * 1024 * 1024  # of all hosts together; then the file that was read first goes first
ROBOTS_RETRY_S = 60.0  # after a robots.txt that could not be had
PRODUCT_TOKEN = re.compile(r"[a-z_-]+|\*")
ROBOTS_LINE = re.compile(r"\s*([a-z_-]+)\s*:\s*([^#]*)", re.IGNORECASE)
UNESCAPED_CHARS = "!$&'()*+,-./:;=?@_~"


@dataclass(frozen=True)
class RobotsRules:
    """The lines of one robots.txt that speak to us: (allow, pattern) each."""

    lines: tuple[tuple[bool, str], ...] = ()

    def size(self) -> int:
        """Bytes that it takes, roughly."""
        return 1000 + sum(200 + len(pattern) for _, pattern in self.lines)

    def allow(self, url: str) -> bool:
        """Whether ``url`` may be fetched: the longest pattern that fits decides; where two do, the one that allows."""
        parts = urlsplit(url)
        target = _normalised_path((parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
        target = target.replace("*", "%2A").replace("$", "%24")  # no wildcards here
        if target == "/robots.txt":
            return True
        found = [(len(pattern), allow) for allow, pattern in self.lines if _pattern_matches(pattern, target)]
        return max(found, default=(0, True))[1]


def parse_robots(text: str, agent: str) -> RobotsRules:
    """The rules for ``agent`` (a product token): of all groups that name it, or else of those for everybody (`*`)."""
    groups: dict[str, list[tuple[bool, str]]] = {}
    agents: list[str] = []
    open_group = False  # between the user-agent lines of a group and its first rule
    for line in text.lstrip("\ufeff").splitlines():
        found = ROBOTS_LINE.match(line)
        if found is None:
            continue
        key, value = found[1].lower(), found[2].strip()
        if key in ("user-agent", "useragent"):
            agents = agents if open_group else []
            open_group = True
            token = PRODUCT_TOKEN.match(value.lower())
            if token:
                agents.append(token[0])
                groups.setdefault(token[0], [])
        elif key in ("allow", "disallow"):
            open_group = False
            if value:
                pattern = _normalised_path(value)
                pattern = pattern[:-1].replace("$", "%24") + pattern[-1]  # a wildcard at the end only
                for name in agents:
                    groups[name].append((key == "allow", pattern))
    return RobotsRules(tuple(groups.get(agent.lower(), groups.get("*", []))))


def _normalised_path(text: str) -> str:
    """One spelling for one path: what need not be percent-encoded is not, what must be is."""
    # A slash, question mark or wildcard that is encoded is none: it stays as it is.
    pieces = re.split(r"(%2[Ff]|%3[Ff]|%2[Aa]|%24|%23|%25)", text)
    return "".join(
        piece.upper() if number % 2 else quote(unquote_to_bytes(piece), safe=UNESCAPED_CHARS)
        for number, piece in enumerate(pieces)
    )


def _pattern_matches(pattern: str, target: str) -> bool:
    """Whether a pattern with `*` (anything) and a last `$` (the end) fits; in linear time, as strangers write these."""
    ends = pattern.endswith("$")
    first, *rest = pattern.removesuffix("$").split("*")
    if not target.startswith(first):
        return False
    at = len(first)
    if not rest:
        return not ends or at == len(target)
    for piece in rest[:-1]:
        found = target.find(piece, at)
        if found < 0:
            return False
        at = found + len(piece)
    return target.endswith(rest[-1]) and len(target) - len(rest[-1]) >= at if ends else target.find(rest[-1], at) >= 0


class RobotsCache:
    """Each host's rules, fetched once per scheme, host and port. ``fetch`` gives a file's bytes or raises Failure."""

    def __init__(self, fetch: Callable[[str], Awaitable[bytes]], agent: str) -> None:
        self._fetch = fetch
        self._agent = agent
        self._known: dict[tuple[str, str], tuple[asyncio.Task[RobotsRules | FetchFailure], float]] = {}
        self._bytes = 0

    async def check(self, url: str) -> None:
        """Raise Failure `robots_txt` when ``url`` must not be fetched, `robots_unreachable` when nobody can tell.

        Where not even a host is there (dns, tls, ...), raises what asking for the URL would raise.
        """
        parts = urlsplit(url)
        answer = await self._answer(parts.scheme, parts.netloc.rpartition("@")[2].lower())
        if isinstance(answer, FetchFailure):
            raise FetchFailure(answer.error_class, answer.error, answer.http_status)
        if not answer.allow(url):
            raise FetchFailure("robots_txt", "robots.txt asks not to fetch it")

    def close(self) -> None:
        """Ask for nothing any more."""
        for task, _ in self._known.values():
            task.cancel()

    async def _answer(self, scheme: str, netloc: str) -> RobotsRules | FetchFailure:
        now = asyncio.get_running_loop().time()
        known = self._known.get((scheme, netloc))
        if known is None or (known[0].done() and now - known[1] > _keep_s(known[0].result())):
            self._drop((scheme, netloc))
            self._make_room()
            known = (asyncio.create_task(self._load(f"{scheme}://{netloc}/robots.txt")), now)
            self._known[scheme, netloc] = known
            known[0].add_done_callback(self._count)
        return await asyncio.shield(known[0])  # who waits may have no time left; the others still want it

    def _count(self, task: "asyncio.Task[RobotsRules | FetchFailure]") -> None:
        if not task.cancelled():
            self._bytes += _size(task.result())

    def _drop(self, name: tuple[str, str]) -> None:
        known = self._known.pop(name, None)
        if known:
            self._bytes -= _size(known[0].result())

    def _make_room(self) -> None:
        for name in list(self._known) if self._bytes > ROBOTS_CACHE_BYTES else []:
            if self._bytes > ROBOTS_CACHE_BYTES and self._known[name][0].done():
                self._drop(name)

    async def _load(self, url: str) -> RobotsRules | FetchFailure:
        try:
            return parse_robots((await self._fetch(url)).decode("utf-8", "replace"), self._agent)
        except FetchFailure as failure:
            if failure.transient:
                return FetchFailure("robots_unreachable", TRANSIENT_ERRORS["robots_unreachable"], failure.http_status)
            # A status: there was an answer, and it was not this file.
            return failure if failure.http_status is None else RobotsRules()


def _size(answer: RobotsRules | FetchFailure) -> int:
    return answer.size() if isinstance(answer, RobotsRules) else RobotsRules().size()


def _keep_s(answer: RobotsRules | FetchFailure) -> float:
    return ROBOTS_RETRY_S if isinstance(answer, FetchFailure) else ROBOTS_KEEP_S
