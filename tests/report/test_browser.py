import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.report.browser import Page, browsing, find_browser
from tests.report.small_run import HOSTILE, hostile_page, shared_page

BROWSER = find_browser()
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome on this machine (make browser)")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    assert BROWSER is not None
    with browsing(BROWSER, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def complaints(page: Page) -> list[str]:
    kinds = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
    return [str(one["params"]) for one in page.events if one["method"] in kinds]


def test_a_browser_shows_every_picture(page: Page) -> None:
    page.open(shared_page())
    # Chromium decodes pictures below the window late; decode() makes it do so now
    decoded = "Promise.all([...document.images].map(one => one.decode()))"
    page.call("Runtime.evaluate", expression=decoded, awaitPromise=True)
    sizes = page.ask("[...document.images].map(one => [one.naturalWidth, one.naturalHeight, one.alt.length])")
    assert len(sizes) > 100
    assert all(width >= 32 and height >= 32 and alt for width, height, alt in sizes)


def test_nothing_is_asked_of_the_network_and_nothing_is_complained_of(page: Page) -> None:
    page.open(shared_page())
    requests = [one["params"]["request"] for one in page.events if one["method"] == "Network.requestWillBeSent"]
    asked = [request["url"] for request in requests if not request["url"].startswith("data:")]
    assert asked == [shared_page().resolve().as_uri()]
    assert complaints(page) == []


def test_a_page_is_drawn_in_light_and_dark(page: Page) -> None:
    page.open(shared_page())
    light = pixels(page.picture())
    page.open(shared_page(), dark=True)
    dark = pixels(page.picture())
    assert light.std() > 10
    assert dark.std() > 10
    assert np.median(light) > 230
    assert np.median(dark) < 60


@pytest.mark.parametrize("width", [1200, 800, 390])
def test_a_page_is_never_wider_than_its_window(page: Page, width: int) -> None:
    page.open(shared_page(), width=width)
    assert page.ask("document.documentElement.scrollWidth") <= width


def test_words_do_not_lie_upon_each_other_in_the_graph(page: Page) -> None:
    page.open(shared_page())
    inside = """
        [...document.querySelectorAll('g.box')].map(box => {
            const frame = box.querySelector('rect').getBoundingClientRect();
            return [...box.querySelectorAll('text')].every(text => text.getBoundingClientRect().right <= frame.right);
        })
    """
    found = page.ask(inside)
    assert len(found) == 12
    assert all(found)


def test_the_links_of_the_bar_lead_to_sections(page: Page) -> None:
    page.open(shared_page())
    links = page.ask("[...document.querySelectorAll('nav a')].map(one => one.getAttribute('href'))")
    assert len(links) == 8
    assert all(page.ask(f"document.querySelector('{link}') !== null") for link in links)


def test_hostile_words_are_words(page: Page) -> None:
    page.open(hostile_page())
    assert page.ask("document.scripts.length") == 0
    assert page.ask("typeof window.pwned") == "undefined"
    names = page.ask("[...document.querySelectorAll('*')].flatMap(one => one.getAttributeNames())")
    assert not [name for name in names if name.startswith("on")]
    shown = page.ask("document.body.innerText")
    assert [words for words in HOSTILE if words not in shown] == []
    assert complaints(page) == []


def test_the_security_policy_stops_a_script_that_got_in(page: Page, tmp_path: Path) -> None:
    spoilt = tmp_path / "spoilt.html"
    attack = "<script>window.pwned = 1</script><img src=x onerror='window.pwned = 1'>"
    spoilt.write_text(shared_page().read_text(encoding="utf-8").replace("<main>", f"<main>{attack}"))
    page.open(spoilt)
    assert page.ask("typeof window.pwned") == "undefined"
    assert len(complaints(page)) >= 2
