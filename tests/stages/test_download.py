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

from tests.faults.downloads import QUICK, download, pairs_in, spec_for
from tests.faults.hostile_images import LEFT, RIGHT
from tests.faults.hostile_server import HostileServer
from zscir.data.download.specs import DownloadSpec
from zscir.data.images.shards import ShardReader
from zscir.runtime.errors import GateError, RequestError
from zscir.runtime.schemas import HOSTS_SCHEMA, REJECTS_SCHEMA, read_rows
from zscir.tabletop.spec import TabletopSpec
from zscir.tabletop.web import url_fault, url_of, web_jpeg


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
        pairs = pairs_in(folder / "pairs", rows)
        began = time.monotonic()
        self.made = download(folder, spec_for(server, chunk_rows=25, image_size=200), pairs)
        self.wall_s = time.monotonic() - began
        self.facts, self.rows = self.made.facts, self.made.rows()
        self.by_name = dict(zip(self.urls, self.rows, strict=False))

    def image(self, name: str) -> Image.Image:
        row = self.by_name[name]
        with ShardReader(self.made.artifact.path) as reader:
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
def test_a_url_that_works_is_an_image_of_the_requested_size(web: Web, path: str) -> None:
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


def test_nothing_private_was_requested(web: Web) -> None:
    for name in ("private", "to private", "by name", "odd"):
        assert web.by_name[name]["error_class"] == "forbidden_address"
    assert web.private.requests == []
    assert web.by_name["nowhere"]["error_class"] == "dns"


def test_every_pair_is_accounted_for(web: Web) -> None:
    assert len(web.rows) == len(FAILING) + len(WORKING) + 6
    rejects = read_rows(web.made.artifact.path("rejects.parquet"), REJECTS_SCHEMA)
    failed = [row for row in web.rows if row["status"] != "ok"]
    assert [(row["id"], row["reason"]) for row in rejects] == [(row["pair_id"], row["error_class"]) for row in failed]
    assert web.facts["rows"] == web.facts["ok"] + web.facts["rejects"] == len(web.rows)
    assert (web.facts["ok"], web.facts["images"]) == (len(WORKING) + 1, len(WORKING))
    assert web.facts["chunks"] >= 2
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
        for tar in web.made.artifact.files(".tar")
        for sample in webdataset.WebDataset(str(web.made.artifact.path(tar)), shardshuffle=False).decode("pil")
    }
    ok = {row["image_key"]: row for row in reversed(web.rows) if row["status"] == "ok"}
    assert set(samples) == set(ok)
    for key, sample in samples.items():
        assert sample["jpg"].size == (ok[key]["width"], ok[key]["height"])
        assert (sample["json"]["url"], sample["txt"]) == (ok[key]["url"], ok[key]["text"])
        assert sample["json"]["sha256"] == ok[key]["sha256"]


def test_members_are_sorted_and_hold_no_time(web: Web) -> None:
    for name in web.made.artifact.files(".tar"):
        with tarfile.open(web.made.artifact.path(name)) as tar:
            entries = tar.getmembers()
        assert [entry.name for entry in entries] == sorted(entry.name for entry in entries)
        assert {(entry.mtime, entry.uid, entry.gid) for entry in entries} == {(0, 0, 0)}


def test_the_shards_of_the_chunks_are_shared_and_nothing_is_copied(web: Web) -> None:
    names = web.made.artifact.files()
    tables = ["hosts.parquet", "images.parquet", "rejects.parquet"]
    assert [name for name in names if not name.endswith(".tar")] == tables
    assert {web.made.artifact.path(name).name for name in names if name.endswith(".tar")} == {"images.tar"}
    own = web.made.artifact.path("images.parquet").parent
    assert sorted(path.name for path in own.iterdir()) == sorted([*tables, "manifest.json"])


def test_the_worst_hosts_are_listed_by_class(web: Web) -> None:
    rows = read_rows(web.made.artifact.path("hosts.parquet"), HOSTS_SCHEMA)
    counts = {(row["host"], row["error_class"]): row["urls"] for row in rows}
    assert counts["127.0.0.1", None] == len(WORKING) - 2  # /flaky and /busy have addresses of their own
    assert counts["127.0.0.1", "too_large"] == 2
    assert counts["no-such-host.invalid", "dns"] == 1
    assert rows[0]["host"] == "127.0.0.1"
    assert sum(row["urls"] for row in rows) == len(web.urls)


def test_nothing_of_the_run_is_recorded(web: Web) -> None:
    gateway = json.dumps(web.rows).replace(web.server.host, "").replace(web.private.host, "")
    assert "127.0.0.1:" not in gateway.replace("127.0.0.1:1/", "")


def test_the_tabletop_world_is_downloaded_with_its_broken_urls(tmp_path: Path) -> None:
    world = TabletopSpec(
        scenes=60, missing_share=0.1, server_error_share=0.1, html_share=0.1, truncated_share=0.1, reset_share=0.1,
        hang_share=0.05,
    )  # fmt: skip
    pairs = pairs_in(tmp_path / "pairs", [(url_of(world, index), f"scene {index}") for index in range(60)])
    fields = {**QUICK, "chunk_rows": 30, "keep_jpegs": True, "tabletop": world.literals()}
    rows = download(tmp_path, DownloadSpec.parse(fields, "test"), pairs).rows()
    classes = {
        "ok": None, "missing": "http_404", "server_error": "http_500", "html": "not_image", "truncated": "bad_image",
        "reset": "incomplete", "hang": "timeout",
    }  # fmt: skip
    assert [row["error_class"] for row in rows] == [classes[url_fault(world, index)] for index in range(60)]
    assert {row["url"].split("/")[2] for row in rows} == {"tabletop.test"}
    kept = [row["sha256"] for row in rows if row["status"] == "ok"]  # small enough: the bytes that the server gave
    assert kept == [sha256(web_jpeg(world, n)).hexdigest() for n in range(60) if url_fault(world, n) == "ok"]


def test_an_empty_list_is_an_empty_download(tmp_path: Path) -> None:
    made = download(tmp_path, DownloadSpec(), pairs_in(tmp_path / "pairs", []))
    assert (made.facts["rows"], made.facts["ok"], made.facts["success_rate"]) == (0, 0, None)
    assert made.rows() == []


def test_a_changed_row_and_an_appended_one_cost_a_chunk_each(tmp_path: Path) -> None:
    with HostileServer() as server:
        spec = spec_for(server, chunk_rows=8)
        rows = [(server.url(f"/ok/{number}.jpg?row"), "t") for number in range(40)]
        first = download(tmp_path, spec, pairs_in(tmp_path / "a", rows))
        chunks = {name: first.artifact.path(name).parent.name for name in first.artifact.files(".tar")}
        assert len(chunks) > 6
        requests_before = len(server.requests)
        rows = [*rows[:12], (server.url("/ok/901.jpg"), "t"), *rows[13:], (server.url("/ok/902.jpg"), "t")]
        second = download(tmp_path, spec, pairs_in(tmp_path / "b", rows))
    again = set(server.paths()[requests_before:])
    kept = {second.artifact.path(name).parent.name for name in second.artifact.files(".tar")} & set(chunks.values())
    assert {"/ok/901.jpg", "/ok/902.jpg"} <= again
    assert len(again) <= 3 * 8
    assert len(kept) >= len(chunks) - 3
    assert second.facts["ok"] == 41


def test_failed_urls_alone_are_requested_again_in_a_patch_round_that_costs_nothing_else(tmp_path: Path) -> None:
    with HostileServer() as server:
        paths = ["/ok/1.jpg", "/ok/2.jpg", "/status/404", "/flaky/1", "/flaky/1?b", "/status/500", "/ok/3.jpg"]
        pairs = pairs_in(tmp_path / "pairs", [(server.url(path), path) for path in paths])
        first = download(tmp_path, spec_for(server, chunk_rows=4, retries=0), pairs)
        assert (first.facts["ok"], first.facts["failed_by_class"]) == (3, {"http_404": 1, "http_500": 1, "http_503": 2})
        requests_before = len(server.requests)
        patched = download(tmp_path, spec_for(server, chunk_rows=4, retries=0, patch_rounds=1), pairs)
        assert sorted(server.paths()[requests_before:]) == ["/flaky/1", "/flaky/1?b", "/status/500"]
        assert (patched.facts["ok"], patched.facts["failed_by_class"]) == (5, {"http_404": 1, "http_500": 1})
        rows = {row["text"]: row for row in patched.rows()}
        assert (rows["/flaky/1"]["status"], rows["/flaky/1"]["attempts"]) == ("ok", 2)
        with ShardReader(patched.artifact.path) as reader:
            data = reader.read(*(rows["/flaky/1"][name] for name in ("shard", "offset", "size")))
        assert sha256(data).hexdigest() == rows["/flaky/1"]["sha256"]
        before = len(server.requests)
        again = download(tmp_path, spec_for(server, chunk_rows=4, retries=0, patch_rounds=2), pairs)
        assert server.paths()[before:] == ["/status/500"]
        assert again.facts["ok"] == 5


def test_a_rate_below_the_gate_stops_the_run_and_keeps_every_chunk(tmp_path: Path) -> None:
    with HostileServer() as server:
        urls = [server.url(path) for path in ("/ok/1.jpg", "/status/404", "/status/410", "/ok/2.jpg")]
        pairs = pairs_in(tmp_path / "pairs", [(url, "t") for url in urls])
        with pytest.raises(GateError, match=r"2 of 4 URLs .* 0\.5000, below min_success_rate = 0\.75.*http_404 1"):
            download(tmp_path, spec_for(server, min_success_rate=0.75), pairs)
        requests_before = len(server.requests)
        made = download(tmp_path, spec_for(server, min_success_rate=0.5), pairs)
        assert made.facts["ok"] == 2
        assert len(server.requests) == requests_before


@pytest.mark.parametrize(
    "wrong", [{"chunk_rows": 1}, {"allow_hosts": ["localhost"]}, {"resize_mode": "crop"}, {"deadline_s": 0}, {"x": 1}]
)
def test_a_wrong_spec_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        DownloadSpec.parse(wrong, "test")
