import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.report.browser import Page, browsing, find_browser
from tests.support.small_run import HOSTILE, hostile_page, shared_page
from zscir.benchmarks.comparability import ComparisonGroup
from zscir.benchmarks.leaderboard import LeaderboardEntry
from zscir.report.leaderboard_page import write_leaderboard_page

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
    return [str(event["params"]) for event in page.events if event["method"] in kinds]


def test_a_browser_shows_every_picture(page: Page) -> None:
    page.open(shared_page())
    # Chromium decodes pictures below the window late; decode() makes it do so now
    decoded = "Promise.all([...document.images].map(one => one.decode()))"
    page.call("Runtime.evaluate", expression=decoded, awaitPromise=True)
    sizes = page.ask("[...document.images].map(one => [one.naturalWidth, one.naturalHeight, one.alt.length])")
    assert len(sizes) > 100
    assert all(width >= 32 and height >= 32 and alt for width, height, alt in sizes)


def test_the_page_makes_no_request_and_logs_no_error(page: Page) -> None:
    page.open(shared_page())
    requests = [event["params"]["request"] for event in page.events if event["method"] == "Network.requestWillBeSent"]
    addresses = [request["url"] for request in requests if not request["url"].startswith("data:")]
    assert addresses == [shared_page().resolve().as_uri()]
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
    assert len(found) == 13
    assert all(found)


def test_the_links_of_the_bar_lead_to_sections(page: Page) -> None:
    page.open(shared_page())
    links = page.ask("[...document.querySelectorAll('nav a')].map(one => one.getAttribute('href'))")
    assert len(links) == 11
    assert all(page.ask(f"document.querySelector('{link}') !== null") for link in links)


def order_of(page: Page, board: str) -> list[str]:
    """The methods of a board from top to bottom, as they are seen."""
    rows = f"[...document.querySelectorAll('{board} .entry')]"
    shown = f"{rows}.map(row => [row.getBoundingClientRect().top, row.querySelector('th').firstChild.textContent])"
    found: list[list[Any]] = page.ask(shown)
    assert len({top for top, _ in found}) == len(found)
    return [name for _, name in sorted(found)]


def click(page: Page, label: str) -> None:
    """Press the heading with that spoken name, with the mouse."""
    page.ask(f"document.querySelector('[aria-label=\"{label}\"]').scrollIntoView({{block: 'center'}})")
    spot = f"document.querySelector('[aria-label=\"{label}\"]').closest('label').getBoundingClientRect()"
    x, y, width, height = page.ask(f"(r => [r.x, r.y, r.width, r.height])({spot})")
    for kind in ("mousePressed", "mouseReleased"):
        at = {"x": x + width - 4, "y": y + height / 2}
        page.call("Input.dispatchMouseEvent", type=kind, **at, button="left", clickCount=1)


def press(page: Page, key: str) -> None:
    codes = {"ArrowRight": 39, "Tab": 9}
    for kind in ("rawKeyDown", "keyUp"):
        page.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key])


ENTRIES = [
    LeaderboardEntry(ComparisonGroup("cirr", "test1", "official"), method, backbone, values, source, ours=ours)
    for method, backbone, values, source, ours in (
        ("delta", "B/32", {"R@1": 10.0, "R@5": 90.0}, "x", False),
        ("alpha", "G/14", {"R@1": 30.0}, "w", False),
        ("Gamma", "A/16", {"R@1": 20.0, "R@5": 50.0, "R@10": 5.0}, "z", True),
        ("beta", "L/14", {"R@1": 9.5, "R@5": 60.0, "R@10": 9.0}, "y", False),
    )
]


def test_a_click_on_a_heading_sorts_the_board_without_any_script(page: Page, tmp_path: Path) -> None:
    page.open(write_leaderboard_page(ENTRIES, tmp_path / "board.html"))
    assert page.ask("document.scripts.length") == 0
    assert order_of(page, ".board") == ["alpha", "Gamma", "delta", "beta"]
    for label, order in {
        "sort by R@5, highest first": ["delta", "beta", "Gamma", "alpha"],
        "sort by method, A to Z": ["alpha", "beta", "delta", "Gamma"],
        "sort by R@10, highest first": ["beta", "Gamma", "alpha", "delta"],
        "sort by backbone, A to Z": ["Gamma", "delta", "alpha", "beta"],
        "sort by source, A to Z": ["alpha", "delta", "beta", "Gamma"],
        "sort by R@1, highest first": ["alpha", "Gamma", "delta", "beta"],
    }.items():
        click(page, label)
        assert order_of(page, ".board") == order, label
    assert complaints(page) == []


def test_the_arrow_keys_sort_the_board_too(page: Page, tmp_path: Path) -> None:
    page.open(write_leaderboard_page(ENTRIES, tmp_path / "board.html"))
    press(page, "Tab")
    assert page.ask("document.activeElement.ariaLabel") == "sort by R@1, highest first"
    press(page, "ArrowRight")
    assert page.ask("document.activeElement.ariaLabel") == "sort by R@5, highest first"
    assert order_of(page, ".board") == ["delta", "beta", "Gamma", "alpha"]
    outline = "getComputedStyle(document.activeElement.closest('label')).outlineStyle"
    assert page.ask(outline) == "solid"


def test_two_boards_of_one_page_are_sorted_apart(page: Page, tmp_path: Path) -> None:
    others = [replace(entry, group=ComparisonGroup("cirr", "val", "official")) for entry in ENTRIES]
    page.open(write_leaderboard_page([*ENTRIES, *others], tmp_path / "boards.html"))
    page.ask("document.querySelectorAll('.board').forEach((board, number) => board.id = 'b' + number)")
    click(page, "sort by method, A to Z")
    assert order_of(page, "#b0") == ["alpha", "beta", "delta", "Gamma"]
    assert order_of(page, "#b1") == ["alpha", "Gamma", "delta", "beta"]


def test_the_columns_of_a_board_stand_under_their_headings(page: Page, tmp_path: Path) -> None:
    for width in (1200, 390):
        page.open(write_leaderboard_page(ENTRIES, tmp_path / "board.html"), width=width)
        lefts = "[...row.cells].map(one => one.getBoundingClientRect().left)"
        rows = page.ask(f"[...document.querySelectorAll('.board tr')].map(row => {lefts})")
        assert len(rows) == 5
        assert all(row == rows[0] for row in rows)
        assert page.ask("document.documentElement.scrollWidth") <= width


def test_a_report_shows_its_own_board_sorted_by_the_first_metric(page: Page) -> None:
    page.open(shared_page())
    shown = "[row.getBoundingClientRect().top, parseFloat(row.querySelector('td').textContent)]"
    rows = page.ask(
        f"[...document.querySelector('#leaderboard .board').querySelectorAll('.entry')].map(row => {shown})"
    )
    assert len(rows) == 5
    assert [value for _, value in sorted(rows)] == sorted((value for _, value in rows), reverse=True)


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
