"""Images that may crash OpenCV are decoded in a child process. No such image is known: the child is killed instead."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from tests.faults.hostile_images import IMAGES, many_scans, picture, saved
from tests.faults.matrix import Measured
from zscir.data.download.decode_sandbox import DecodeSandbox

Children = Callable[[], list[psutil.Process]]


@pytest.fixture
def children() -> Children:
    """The children that decode images for this test. A download of an earlier test keeps one for the next download."""
    earlier = decoders()
    return lambda: [process for process in decoders() if process not in earlier]


@pytest.fixture
def sandbox(children: Children) -> Iterator[DecodeSandbox]:
    sandbox = DecodeSandbox(limit_s=1.0)
    yield sandbox
    sandbox.close()
    assert not children()


def decoders() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # a child that has just ended, of whatever test
            if "zscir.data.download.decode_sandbox" in process.cmdline():
                found.append(process)
    return found


def test_images_and_what_is_none_are_survived_by_one_child(sandbox: DecodeSandbox, children: Children) -> None:
    for data in (saved(picture(), "JPEG"), saved(picture(), "PNG"), IMAGES["cut.jpg"](), b"", b"not an image"):
        assert sandbox.can_decode(data)
    assert len(children()) == 1


@pytest.mark.timeout(60)
def test_an_image_that_takes_for_ever_is_not_survived_and_the_next_one_is(
    sandbox: DecodeSandbox, measured: Measured
) -> None:
    """Each of the scans is a pass over four million pixels."""
    assert sandbox.can_decode(saved(picture(), "JPEG"))
    began = time.monotonic()
    assert not sandbox.can_decode(many_scans(20_000, side_px=2000))
    took_s = time.monotonic() - began
    assert sandbox.can_decode(saved(picture(), "JPEG"))
    measured(
        "an image that crashes or hangs the decoder",
        f"one that hangs it, with a limit of 1 s, was given up after {took_s:.1f} s, and the next one decoded",
    )


def test_an_image_over_which_the_child_dies_is_not_survived(sandbox: DecodeSandbox, children: Children) -> None:
    assert sandbox.can_decode(saved(picture(), "JPEG"))
    [child] = children()
    child.kill()
    child.wait()
    assert not sandbox.can_decode(saved(picture(), "JPEG"))
    assert sandbox.can_decode(saved(picture(), "JPEG"))


def test_closing_ends_a_decoding_that_is_under_way(children: Children) -> None:
    sandbox = DecodeSandbox(limit_s=600.0)
    assert sandbox.can_decode(b"")
    verdicts: list[bool] = []
    thread = threading.Thread(target=lambda: verdicts.append(sandbox.can_decode(many_scans(20_000, side_px=2000))))
    thread.start()
    time.sleep(0.5)
    sandbox.close()
    thread.join(20)
    assert verdicts == [False]
    assert not children()
