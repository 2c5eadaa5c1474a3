"""The whole download stage with the real img2dataset, against a server that misbehaves as the web does."""

import json
import os
import tarfile
import time
from collections.abc import Iterator
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from PIL import Image

from tests.faults.downloads import QUICK, files_in, pairs_in, spec_for
from tests.faults.hostile_server import LEFT, RIGHT, HostileServer
from zscir.artifacts import sweep
from zscir.errors import RequestError
from zscir.records import IMAGES, REJECTS, read_rows
from zscir.shards import ShardReader
from zscir.stages.download import DownloadSpec, download
from zscir.tabletop.spec import TabletopSpec
from zscir.tabletop.web import fate_of, url_of, web_jpeg


@pytest.fixture(scope="module", autouse=True)
def one_process() -> Iterator[None]:
    """Chunks come in their order, and a start of img2dataset costs three imports instead of four."""
    os.environ["ZSCIR_DOWNLOAD_PROCESSES"] = "1"
    yield
    del os.environ["ZSCIR_DOWNLOAD_PROCESSES"]


FAILING = {
    "/status/404": ("http_404", 404, 1),
    "/status/410": ("http_410", 410, 1),
    "/status/500": ("http_500", 500, 2),
    "/busy/always?after=3600": ("http_429", 429, 1),
    "/drip/1.jpg": ("timeout", None, 1),
    "/hang/1.jpg": ("timeout", None, 1),
    "/endless/1.jpg": ("too_large", 200, 1),
    "/truncated/1.jpg": ("incomplete", None, 2),
    "/reset/1.jpg": ("incomplete", None, 2),
    "/redirect/302?to=http://169.254.169.254/latest/meta-data/": ("forbidden_address", 302, 1),
    "/redirect/302?to=http://127.0.0.1:1/secret": ("forbidden_address", 302, 1),
    "/loop": ("too_many_redirects", 302, 1),
    "/bomb": ("too_large", 200, 1),
    "/robots/1?tag=noai": ("robots_tag", 200, 1),
    "/image/huge.png": ("too_many_pixels", 200, 1),
    "/image/html.jpg": ("not_image", 200, 1),
    "/image/svg.svg": ("not_image", 200, 1),
    "/image/empty.jpg": ("empty", 200, 1),
    "/image/cut.jpg": ("bad_image", 200, 1),
}
WORKING = {  # path -> (size as stored, attempts)
    "/ok/1.jpg": ((64, 48), 1),
    "/ok/2.jpg": ((64, 48), 1),
    "/photo/900/600/5.jpg": ((300, 200), 1),
    "/photo/200/1000/6.jpg": ((200, 1000), 1),
    "/flaky/1": ((64, 48), 2),
    "/busy/once?after=0": ((64, 48), 2),
    "/chain/3": ((64, 48), 1),
    "/no-length/1.jpg": ((267, 200), 1),
    "/gzip": ((267, 200), 1),
    "/image/grey.jpg?type=text/html": ((64, 48), 1),
    "/image/cmyk.jpg": ((64, 32), 1),
    "/image/16bit.png": ((64, 32), 1),
    "/image/palette.png": ((64, 32), 1),
    "/image/alpha.png": ((64, 32), 1),
    "/image/rotated.jpg": ((32, 64), 1),
    "/image/webp.webp": ((64, 32), 1),
    "/image/avif.avif": ((64, 32), 1),
    "/image/animated.gif": ((64, 32), 1),
    "/image/animated.webp": ((64, 32), 1),
}


class Web:
    """One download of all paths above, plus URLs that never reach the server."""

    def __init__(self, folder: Path, server: HostileServer, private: HostileServer) -> None:
        self.server, self.private = server, private
        self.urls = {path: server.url(path) for path in [*FAILING, *WORKING]}
        self.urls |= {
            "private": private.url("/secret.jpg"),
            "to private": server.url(f"/redirect/301?to={private.url('/secret.jpg')}"),
            "by name": f"http://localhost:{private.port}/secret.jpg",
            "odd": f"http://2130706433:{private.port}/secret.jpg",
            "nowhere": "http://no-such-host.invalid/1.jpg",
        }
        rows = [(url, f"text of {name}") for name, url in self.urls.items()]
        rows.append((server.url("/ok/1.jpg"), "another text of the same picture"))
        self.out = folder / "out"
        self.out.mkdir()
        pairs = pairs_in(folder / "pairs", rows)
        began = time.monotonic()
        self.facts = download(spec_for(server, chunk_rows=25, image_size=200), pairs=pairs, out=self.out)
        self.wall_s = time.monotonic() - began
        self.rows = read_rows(self.out / "images.parquet", IMAGES)
        self.by_name = dict(zip(self.urls, self.rows, strict=False))

    def image(self, name: str) -> Image.Image:
        row = self.by_name[name]
        with ShardReader(lambda shard: self.out / shard) as reader:
            data = reader.read(row["shard"], row["offset"], row["size"])
        assert sha256(data).hexdigest() == row["sha256"]
        return Image.open(BytesIO(data))


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with HostileServer() as server, HostileServer() as private:
        yield Web(tmp_path_factory.mktemp("web"), server, private)


@pytest.mark.parametrize("path", FAILING)
def test_a_url_that_fails_is_a_row_that_says_why(web: Web, path: str) -> None:
    row = web.by_name[path]
    assert row["status"] == "failed"
    assert (row["error_class"], row["http_status"], row["attempts"]) == FAILING[path]
    assert row["error"]
    assert row["shard"] is None


@pytest.mark.parametrize("path", WORKING)
def test_a_url_that_works_is_an_image_of_the_asked_size(web: Web, path: str) -> None:
    row, (size, attempts) = web.by_name[path], WORKING[path]
    assert (row["status"], row["error_class"], row["http_status"]) == ("ok", None, 200)
    assert (row["width"], row["height"], row["attempts"]) == (*size, attempts)
    image = web.image(path)
    assert (image.format, image.size) == ("JPEG", size)


@pytest.mark.parametrize("name", ["cmyk.jpg", "alpha.png", "webp.webp", "avif.avif", "animated.gif", "animated.webp"])
def test_colours_survive_whatever_the_format(web: Web, name: str) -> None:
    pixels = np.asarray(web.image(f"/image/{name}").convert("RGB")).astype(int)
    assert np.abs(pixels[4:-4, 4:24] - LEFT).max() < 40
    assert np.abs(pixels[4:-4, 40:-4] - RIGHT).max() < 40


def test_odd_images_come_out_as_a_browser_shows_them(web: Web) -> None:
    rotated = np.asarray(web.image("/image/rotated.jpg")).astype(int)
    assert np.abs(rotated[4:24, 4:-4] - LEFT).max() < 40
    assert np.abs(rotated[40:-4, 4:-4] - RIGHT).max() < 40
    deep = np.asarray(web.image("/image/16bit.png").convert("L")).astype(int)
    assert np.abs(deep[:, 4:24] - 0x40).max() < 6
    assert np.abs(deep[:, 40:-4] - 0xC0).max() < 6
    palette = np.asarray(web.image("/image/palette.png")).astype(int)
    assert np.abs(palette[4:-4, 40:-4] - 255).max() < 6


def test_nothing_private_was_asked(web: Web) -> None:
    for name in ("private", "to private", "by name", "odd"):
        assert web.by_name[name]["error_class"] == "forbidden_address"
    assert web.private.requests == []
    assert web.by_name["nowhere"]["error_class"] == "dns"


def test_every_pair_is_accounted_for(web: Web) -> None:
    assert len(web.rows) == len(FAILING) + len(WORKING) + 6
    rejects = read_rows(web.out / "rejects.parquet", REJECTS)
    failed = [row for row in web.rows if row["status"] != "ok"]
    assert [(one["id"], one["reason"]) for one in rejects] == [(row["pair_id"], row["error_class"]) for row in failed]
    assert web.facts["rows"] == web.facts["ok"] + web.facts["rejects"] == len(web.rows)
    assert (web.facts["ok"], web.facts["images"], web.facts["chunks"]) == (len(WORKING) + 1, len(WORKING), 2)
    assert web.facts["failed_by_class"]["timeout"] == 2
    assert sum(web.facts["failed_by_class"].values()) == web.facts["rejects"]


def test_two_texts_of_one_url_share_one_image_fetched_once(web: Web) -> None:
    first, second = web.by_name["/ok/1.jpg"], web.rows[-1]
    assert second["text"] == "another text of the same picture"
    assert first["pair_id"] != second["pair_id"]
    assert [first[name] for name in ("image_key", "shard", "offset")] == [
        second[name] for name in ("image_key", "shard", "offset")
    ]
    assert web.server.paths().count("/ok/1.jpg") == 1


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_shards_are_webdataset_shards(web: Web) -> None:
    samples = {
        sample["__key__"]: sample
        for tar in sorted(web.out.glob("*.tar"))
        for sample in webdataset.WebDataset(str(tar), shardshuffle=False).decode("pil")
    }
    ok = {row["image_key"]: row for row in reversed(web.rows) if row["status"] == "ok"}
    assert set(samples) == set(ok)
    for key, sample in samples.items():
        assert sample["jpg"].size == (ok[key]["width"], ok[key]["height"])
        assert (sample["json"]["url"], sample["txt"]) == (ok[key]["url"], ok[key]["text"])
        assert sample["json"]["sha256"] == ok[key]["sha256"]


def test_members_are_sorted_and_hold_no_time(web: Web) -> None:
    for path in web.out.glob("*.tar"):
        with tarfile.open(path) as tar:
            entries = tar.getmembers()
        assert [entry.name for entry in entries] == sorted(entry.name for entry in entries)
        assert {(entry.mtime, entry.uid, entry.gid) for entry in entries} == {(0, 0, 0)}


def test_nothing_of_the_run_is_left_or_told(web: Web) -> None:
    sweep(web.out)
    assert sorted(files_in(web.out)) == ["00000.tar", "00001.tar", "images.parquet", "rejects.parquet"]
    gateway = json.dumps(web.rows).replace(web.server.host, "").replace(web.private.host, "")
    assert "127.0.0.1:" not in gateway.replace("127.0.0.1:1/", "")


def test_the_tabletop_world_is_downloaded_with_its_broken_urls(tmp_path: Path) -> None:
    world = TabletopSpec(
        scenes=60, missing_share=0.1, server_error_share=0.1, html_share=0.1, truncated_share=0.1, reset_share=0.1,
        hang_share=0.05,
    )  # fmt: skip
    pairs = pairs_in(tmp_path / "pairs", [(url_of(world, index), f"scene {index}") for index in range(60)])
    fields = {**QUICK, "chunk_rows": 30, "keep_jpegs": True, "tabletop": world.literals()}
    spec = DownloadSpec.parse(fields, "test")
    (tmp_path / "out").mkdir()
    download(spec, pairs=pairs, out=tmp_path / "out")
    classes = {
        "ok": None, "missing": "http_404", "server_error": "http_500", "html": "not_image", "truncated": "bad_image",
        "reset": "incomplete", "hang": "timeout",
    }  # fmt: skip
    rows = read_rows(tmp_path / "out" / "images.parquet", IMAGES)
    assert [row["error_class"] for row in rows] == [classes[fate_of(world, index)] for index in range(60)]
    assert {row["url"].split("/")[2] for row in rows} == {"tabletop.test"}
    kept = [row["sha256"] for row in rows if row["status"] == "ok"]  # small enough: the bytes that the server gave
    assert kept == [sha256(web_jpeg(world, n)).hexdigest() for n in range(60) if fate_of(world, n) == "ok"]


def test_an_empty_list_is_an_empty_download(tmp_path: Path) -> None:
    pairs = pairs_in(tmp_path / "pairs", [])
    facts = download(DownloadSpec(), pairs=pairs, out=tmp_path)
    assert (facts["rows"], facts["ok"], facts["success_rate"]) == (0, 0, None)
    assert read_rows(tmp_path / "images.parquet", IMAGES) == []


@pytest.mark.parametrize(
    "wrong", [{"chunk_rows": 1}, {"allow_hosts": ["localhost"]}, {"resize_mode": "crop"}, {"deadline_s": 0}, {"x": 1}]
)
def test_a_wrong_spec_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        DownloadSpec.parse(wrong, "test")
