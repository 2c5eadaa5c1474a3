"""robots.txt by RFC 9309: what a file allows, and what it means that there is none."""

import asyncio
import re
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.download.leaping_clock import leap
from zscir.data.download.failures import FetchFailure
from zscir.data.download.robots import (
    ROBOTS_BYTES,
    ROBOTS_KEEP_S,
    ROBOTS_RETRY_S,
    RobotsCache,
    RobotsRules,
    parse_robots,
)

SITE = "http://site.test"


def allows(text: str, path: str, agent: str = "zscir") -> bool:
    return parse_robots(text, agent).allow(SITE + path)


def lines(*of: str) -> str:
    return "\n".join(["User-agent: *", *of])


@pytest.mark.parametrize(
    ("rules", "path", "allowed"),
    [
        ([], "/a.jpg", True),
        (["Disallow: /"], "/a.jpg", False),
        (["Disallow: /"], "", False),
        (["Disallow:"], "/a.jpg", True),
        (["Disallow: /private"], "/private/a.jpg", False),
        (["Disallow: /private"], "/private.jpg", False),
        (["Disallow: /private/"], "/private", True),
        (["Disallow: /private"], "/Private/a.jpg", True),
        # the longest pattern decides, in whatever order; of two that are equally long the one that allows
        (["Disallow: /", "Allow: /images/"], "/images/a.jpg", True),
        (["Allow: /images/", "Disallow: /images/big/"], "/images/big/a.jpg", False),
        (["Disallow: /page", "Allow: /page"], "/page", True),
        (["Allow: /", "Disallow: /a"], "/b", True),
        # * is anything, $ is the end
        (["Disallow: *.gif$"], "/x/a.gif", False),
        (["Disallow: *.gif$"], "/x/a.gif?big", True),
        (["Disallow: /*.jpg"], "/x/a.jpg?big", False),
        (["Disallow: /a*b*c$"], "/a-b-b-c", False),
        (["Disallow: /a*b*c$"], "/a-c-b", True),
        (["Disallow: /fish$"], "/fish", False),
        (["Disallow: /fish$"], "/fishes", True),
        (["Disallow: /*"], "/", False),
        (["Disallow: /a*$"], "/abc", False),
        (["Disallow: /p$q"], "/p$q/a.jpg", False),
        # the query belongs to the path; the fragment does not
        (["Disallow: /*?size="], "/a.jpg?size=9", False),
        (["Disallow: /a.jpg$"], "/a.jpg#top", False),
        # one spelling for each character
        (["Disallow: /%7Ejoe/"], "/~joe/a.jpg", False),
        (["Disallow: /~joe/"], "/%7ejoe/a.jpg", False),
        (["Disallow: /b\u00fccher"], "/b%c3%bccher", False),
        (["Disallow: /a%2Fb"], "/a/b", True),
        (["Disallow: /a%2fb"], "/a%2Fb", False),
        (["Disallow: /x%2A"], "/x*", False),
        (["Disallow: /x%2A"], "/xyz", True),
        # who could ever forbid this one
        (["Disallow: /"], "/robots.txt", True),
        # comments, spaces, other lines, other spellings
        (["  disallow :  /a  # not this one"], "/a", False),
        (["DISALLOW: /a", "Sitemap: http://x/", "Crawl-delay: 10", "nonsense", "Disallow: /b"], "/b", False),
    ],
)
def test_what_a_rule_means(rules: list[str], path: str, allowed: bool) -> None:
    assert allows(lines(*rules), path) is allowed


GROUPS = """
User-agent: somebot
User-agent: ZSCIR/1.0
Disallow: /ours

User-agent: *
Disallow: /all

User-agent: zscir
Allow: /ours/open
"""


def test_the_groups_that_name_us_are_read_together_and_then_nobody_elses() -> None:
    assert not allows(GROUPS, "/ours/a")
    assert allows(GROUPS, "/ours/open")
    assert allows(GROUPS, "/all")
    assert not allows(GROUPS, "/all", "otherbot")
    assert not allows(GROUPS, "/ours/open", "somebot")


def test_rules_before_any_agent_and_files_that_are_no_rules_say_nothing() -> None:
    assert allows("Disallow: /\nUser-agent: zscir\nDisallow: /b", "/a")
    assert allows("<!doctype html><title>Not here</title>", "/a")
    assert allows("\x00\xff" * 1000, "/a")
    assert not allows("\ufeffUser-agent: *\r\nDisallow: /a\r\n", "/a")
    assert not allows("User-agent: *\rDisallow: /a", "/a")


@given(
    st.lists(st.tuples(st.booleans(), st.text("ab*$", min_size=1, max_size=5)), max_size=4), st.text("ab", max_size=6)
)
def test_rules_decide_as_regular_expressions_would(rules: list[tuple[bool, str]], path: str) -> None:
    text = lines(*(f"{'Allow' if allow else 'Disallow'}: /{pattern}" for allow, pattern in rules))
    best = (0, True)
    for allow, pattern in rules:
        expression = re.escape("/" + pattern.rstrip("$") if pattern.endswith("$") else "/" + pattern)
        dollars = len(pattern) - len(pattern.rstrip("$"))
        expression += re.escape("$" * (dollars - 1)) if dollars else ""
        expression = expression.replace(r"\*", ".*") + ("$" if dollars else "")
        if re.match(expression, "/" + path):
            length = len("/" + pattern) + 2 * pattern[:-1].count("$")  # a dollar before the end counts as %24
            best = max(best, (length, allow))
    assert allows(text, "/" + path) is best[1]


@pytest.mark.timeout(30)  # with backtracking it would not end
def test_a_pattern_made_to_take_for_ever_takes_no_time() -> None:
    assert allows(lines("Disallow: /" + "*a" * 2000 + "*b$"), "/" + "a" * 8000)


@pytest.mark.parametrize(
    "text",
    [
        lines(*(f"Disallow: /*{number:x}$" for number in range(30_000))),
        lines("Disallow: /" + "*a" * 250_000),
        "\n".join(f"User-agent: {number}" for number in [*range(10_000), *range(10_000)]) + "\nDisallow: /x" * 10_000,
        lines("Crawl-delay: " + "9" * 500_000, "Request-rate: " + "9" * 500_000, "word " * 100_000),
    ],
    ids=["rules", "stars", "agents", "numbers"],
)
def test_half_a_megabyte_made_to_be_slow_is_read_and_takes_bounded_memory(text: str) -> None:
    tracemalloc.start()
    try:
        rules = parse_robots(text[:ROBOTS_BYTES], "zscir")
        assert rules.allow(SITE + "/" + "z" * 8000)
        assert tracemalloc.get_traced_memory()[0] < 1.2 * max(rules.size, 10 * ROBOTS_BYTES)
    finally:
        tracemalloc.stop()


def test_only_whole_product_tokens_name_us() -> None:
    for agent in ("zs", "zscirbot", "cir", "-"):
        assert allows(f"User-agent: {agent}\nDisallow: /", "/a")
    assert not allows("User-agent: Zscir (images)\nDisallow: /", "/a")


class Site:
    """Hosts whose robots.txt is what a test says, and a log of the URLs that were requested."""

    def __init__(self, answer: str | FetchFailure) -> None:
        self.answer = answer
        self.requested: list[str] = []
        self.robots = RobotsCache(self.fetch, "zscir")

    async def fetch(self, url: str) -> bytes:
        self.requested.append(url)
        await asyncio.sleep(1)
        if isinstance(self.answer, FetchFailure):
            raise self.answer
        return self.answer.encode()

    async def check(self, url: str) -> str:
        try:
            await self.robots.check(url)
        except FetchFailure as failure:
            return failure.error_class
        return ""


def test_a_file_is_fetched_once_for_all_urls_of_its_scheme_host_and_port() -> None:
    async def once() -> None:
        site = Site(lines("Disallow: /no"))
        paths = ["/no/a", "/yes/a"] * 10
        got = await asyncio.gather(*(site.check(SITE + path) for path in paths))
        assert got == ["robots_txt", ""] * 10
        assert site.requested == [f"{SITE}/robots.txt"]
        for url in ("https://site.test/yes", "http://site.test:81/yes", "http://user:pw@SITE.test:81/yes"):
            assert await site.check(url) == ""
        assert site.requested[1:] == ["https://site.test/robots.txt", "http://site.test:81/robots.txt"]

    leap(once())


def test_who_goes_away_does_not_take_the_file_from_the_others() -> None:
    async def gone() -> None:
        site = Site(lines("Disallow: /no"))
        first, second = (asyncio.create_task(site.check(f"{SITE}/no")) for _ in range(2))
        await asyncio.sleep(0.5)
        first.cancel()
        assert await second == "robots_txt"
        assert len(site.requested) == 1

    leap(gone())


@pytest.mark.parametrize(
    ("failure", "error_class"),
    [
        (FetchFailure("http_404", "", 404), ""),
        (FetchFailure("http_403", "", 403), ""),
        (FetchFailure("http_410", "", 410), ""),
        (FetchFailure("too_many_redirects", "", 302), ""),
        (FetchFailure("forbidden_address", "", 302), ""),
        (FetchFailure("http_503", "", 503), "robots_unreachable"),
        (FetchFailure("http_500", "", 500), "robots_unreachable"),
        (FetchFailure("http_429", "", 429), "robots_unreachable"),
        (FetchFailure("timeout", ""), "robots_unreachable"),
        (FetchFailure("connect", ""), "robots_unreachable"),
        (FetchFailure("host_down", ""), "robots_unreachable"),
        (FetchFailure("dns", ""), "dns"),
        (FetchFailure("tls", ""), "tls"),
        (FetchFailure("forbidden_address", ""), "forbidden_address"),
    ],
)
def test_no_file_allows_everything_and_an_unreachable_one_nothing(failure: FetchFailure, error_class: str) -> None:
    assert leap(Site(failure).check(f"{SITE}/a")) == error_class


def test_a_file_is_kept_for_a_day_and_an_unreachable_one_fetched_again_soon() -> None:
    async def ages() -> None:
        site = Site(FetchFailure("http_503", "", 503))
        assert await site.check(f"{SITE}/a") == "robots_unreachable"
        site.answer = lines("Disallow: /no")
        assert await site.check(f"{SITE}/a") == "robots_unreachable"
        await asyncio.sleep(ROBOTS_RETRY_S)
        assert await site.check(f"{SITE}/a") == ""
        site.answer = lines("Disallow: /")
        await asyncio.sleep(ROBOTS_KEEP_S - 10)
        assert await site.check(f"{SITE}/a") == ""
        await asyncio.sleep(20)
        assert await site.check(f"{SITE}/a") == "robots_txt"

    leap(ages())


def test_no_rules_allow_everything() -> None:
    assert RobotsRules().allow("http://site.test")


def test_the_files_of_all_hosts_take_only_so_much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zscir.data.download.robots.ROBOTS_CACHE_BYTES", 50_000)

    async def many() -> None:
        site = Site(lines(*(f"Disallow: /{number}" for number in range(1, 8))))  # about 9 kB
        for number in [*range(30), *range(25, 30), *range(5)]:
            assert await site.check(f"http://h{number}.test/7") == "robots_txt"
            assert site.robots._bytes < 60_000
        assert len(site.requested) == 35  # the last ones were still there, the first ones no more

    leap(many())
