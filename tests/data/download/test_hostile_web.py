"""Everything that a web server may do to us, one URL each, through the gateway: what img2dataset is handed instead."""

import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import cv2
import numpy as np
import pytest

from tests.faults.hostile_images import IMAGES, LEFT, RIGHT, picture, saved
from tests.faults.hostile_server import SLOW_TLS, HostileServer, slow_tls
from zscir.data.download.fetch_spec import FetchSpec
from zscir.data.download.gateway import FetchOutcome, Gateway

WHITE = (255, 255, 255)
LIGHT = (142, 142, 206)  # RIGHT, half of it, on white
Halves = tuple[tuple[int, int, int], tuple[int, int, int]]

FAILING = {  # path -> class, HTTP status, attempts
    "/status/403": ("http_403", 403, 1),
    "/status/404": ("http_404", 404, 1),
    "/status/410": ("http_410", 410, 1),
    "/status/451": ("http_451", 451, 1),
    "/status/500": ("http_500", 500, 2),
    "/status/502": ("http_502", 502, 2),
    "/flaky/9": ("http_503", 503, 2),
    "/busy/always?after=3600": ("http_429", 429, 1),
    "/loop": ("too_many_redirects", 302, 1),
    "/chain/6": ("too_many_redirects", 301, 1),
    "/redirect/301?to=http://127.0.0.1:9/secret": ("forbidden_address", 301, 1),
    "/redirect/302?to=http://169.254.169.254/latest/meta-data/": ("forbidden_address", 302, 1),
    "/redirect/303?to=http://[::1]/": ("forbidden_address", 303, 1),
    "/redirect/307?to=http://localhost/": ("forbidden_address", 307, 1),
    "/redirect/308?to=http://0x7f.1/": ("forbidden_address", 308, 1),
    "/redirect/302?to=file:///etc/passwd": ("bad_url", 302, 1),
    "/truncated/1.jpg": ("incomplete", None, 2),
    "/reset/1.jpg": ("incomplete", None, 2),
    "/down/1.jpg": ("incomplete", None, 2),
    "/garbage": ("bad_answer", None, 2),
    "/hang/1.jpg": ("timeout", None, 1),
    "/drip/1.jpg": ("timeout", None, 1),
    "/endless/1.jpg": ("too_large", 200, 1),
    "/announced/1.jpg": ("too_large", 200, 1),
    "/bomb": ("too_large", 200, 1),
    "/brotli": ("bad_encoding", 200, 1),
    "/robots/1?tag=noai": ("robots_tag", 200, 1),
    "/robots/1?tag=noimageai": ("robots_tag", 200, 1),
    "/robots/1?tag=noindex": ("robots_tag", 200, 1),
    "/image/huge.png": ("too_many_pixels", 200, 1),
    "/image/scans.jpg": ("bad_image", 200, 1),
    "/image/claims.png": ("bad_image", 200, 1),
    "/image/broken.avif": ("bad_image", 200, 1),
    "/image/svg.svg?type=image/svg%2Bxml": ("not_image", 200, 1),
    "/image/html.jpg": ("not_image", 200, 1),
    "/image/empty.jpg": ("empty", 200, 1),
}
SHOWN: dict[str, Halves] = {  # what a browser shows: the colours of the left and the right half
    "/image/cmyk.jpg": (LEFT, RIGHT),
    "/image/16bit.png": ((0x40,) * 3, (0xC0,) * 3),
    "/image/rgb16.png": (LEFT, RIGHT),
    "/image/palette.png": (LEFT, WHITE),
    "/image/alpha.png": (LEFT, RIGHT),
    "/image/faint.png": (LEFT, LIGHT),
    "/image/webp.webp": (LEFT, RIGHT),
    "/image/avif.avif": (LEFT, RIGHT),
    "/image/animated.gif": (LEFT, RIGHT),
    "/image/animated.webp": (LEFT, RIGHT),
}
SAME: dict[str, Callable[[], bytes]] = {  # plain images: their bytes, untouched
    "/ok/5.jpg": lambda: saved(picture(5), "JPEG"),
    "/flaky/1": lambda: saved(picture(), "JPEG"),
    "/busy/once?after=0": lambda: saved(picture(), "JPEG"),
    "/chain/5": lambda: saved(picture(7), "JPEG"),
    "/redirect/308?to=/ok/3.jpg": lambda: saved(picture(3), "JPEG"),
    "/no-length/1.jpg": lambda: saved(picture(3, 400, 300), "JPEG"),
    "/long/1.jpg": lambda: saved(picture(3, 400, 300), "JPEG"),
    "/gzip": lambda: saved(picture(3, 400, 300), "JPEG"),
    "/image/grey.jpg?type=text/html": IMAGES["grey.jpg"],
    "/robots/1?tag=googlebot:%20noindex": lambda: saved(picture(), "JPEG"),
}


@pytest.fixture(scope="module")
def server() -> Iterator[HostileServer]:
    with HostileServer() as server:
        yield server


def ask(gateway: Gateway, key: str) -> bytes:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{gateway.port}/{key}", timeout=60) as response:
            return bytes(response.read())
    except urllib.error.HTTPError as error:
        error.close()
        return b""


Got = dict[str, tuple[bytes, FetchOutcome | None]]


@pytest.fixture(scope="module")
def got(server: HostileServer) -> Got:
    """What becomes of all paths, requested at the same time, in the time that the slowest may take."""
    spec = FetchSpec(
        allow_hosts=server.hosts, deadline_s=3.0, retries=1, backoff_s=0.05, max_bytes=1_000_000, per_host=64
    )
    with Gateway(spec) as gateway, ThreadPoolExecutor(80) as pool:
        paths = [*FAILING, *SHOWN, *SAME, "/image/rotated.jpg"]
        gateway.expect({str(number): server.url(path) for number, path in enumerate(paths)})
        bodies = pool.map(lambda number: ask(gateway, str(number)), range(len(paths)))
        return {path: (body, gateway.outcome(str(n))) for n, (path, body) in enumerate(zip(paths, bodies, strict=True))}


@pytest.mark.parametrize("path", FAILING)
def test_what_fails_has_a_class_and_no_body(got: Got, path: str) -> None:
    body, outcome = got[path]
    assert body == b""
    assert outcome is not None
    assert (outcome.error_class, outcome.http_status, outcome.attempts) == FAILING[path]
    assert outcome.error


@pytest.mark.parametrize("path", SAME)
def test_a_plain_image_comes_as_it_is_with_its_size_and_digest(got: Got, path: str) -> None:
    body, outcome = got[path]
    assert body == SAME[path]()
    assert outcome is not None
    height, width = as_opencv_sees(body).shape[:2]
    assert (outcome.width, outcome.height, outcome.sha256) == (width, height, sha256(body).hexdigest())


def as_opencv_sees(data: bytes) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels.dtype == np.uint8
    return (pixels[..., None].repeat(3, axis=2) if pixels.ndim == 2 else pixels[..., ::-1]).astype(int)


@pytest.mark.parametrize("path", SHOWN)
def test_an_odd_image_comes_with_the_colours_that_a_browser_shows(got: Got, path: str) -> None:
    body, outcome = got[path]
    pixels = as_opencv_sees(body)
    assert pixels.shape == (32, 64, 3)
    assert np.abs(pixels[4:-4, 4:28] - SHOWN[path][0]).max() < 40
    assert np.abs(pixels[4:-4, 36:-4] - SHOWN[path][1]).max() < 40
    assert outcome is not None
    assert outcome.sha256 == sha256(IMAGES[path.removeprefix("/image/")]()).hexdigest()


def test_an_image_that_is_to_be_turned_comes_turned(got: Got) -> None:
    body, outcome = got["/image/rotated.jpg"]
    pixels = as_opencv_sees(body)
    assert pixels.shape == (64, 32, 3)
    assert np.abs(pixels[4:28, 4:-4] - LEFT).max() < 40
    assert np.abs(pixels[36:-4, 4:-4] - RIGHT).max() < 40
    assert outcome is not None
    assert (outcome.width, outcome.height) == (32, 64)


def test_equal_bytes_behind_two_urls_are_two_images_with_one_digest(got: Got) -> None:
    assert got["/flaky/1"][1].sha256 == got["/busy/once?after=0"][1].sha256  # type: ignore[union-attr]


def test_an_image_that_was_announced_too_short_is_cut_and_opencv_says_so(server: HostileServer) -> None:
    with Gateway(FetchSpec(allow_hosts=server.hosts)) as gateway:
        gateway.expect({"short": server.url("/short/1.jpg")})
        body = ask(gateway, "short")
        assert 0 < len(body) < len(saved(picture(3, 400, 300), "JPEG"))
        assert cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_UNCHANGED) is None


def test_a_handshake_that_never_ends_costs_one_url_its_deadline() -> None:
    with slow_tls() as port, Gateway(FetchSpec(allow_hosts=(f"{SLOW_TLS}:{port}",), deadline_s=1.0)) as gateway:
        gateway.expect({"k": f"https://{SLOW_TLS}:{port}/1.jpg"})
        assert ask(gateway, "k") == b""
        assert gateway.outcome("k") == FetchOutcome("timeout", "not done within 1 s", None, 1)
