"""Pictures in a folder become what a download of them would be."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

from tests.faults.downloads import QUICK, download, files_in, pairs_in, spec_for
from tests.faults.hostile_server import HostileServer
from zscir.data.download.repack import verify_tar
from zscir.data.images.shards import ShardReader, index_shard
from zscir.runtime.errors import RequestError
from zscir.runtime.schemas import IMAGES_SCHEMA, REJECTS_SCHEMA, read_rows
from zscir.stages.import_images import ImportImagesSpec, import_images
from zscir.stages.ingest import IngestSpec, ingest
from zscir.store.artifacts import Artifact, remove_scratch_files

REPO = Path(__file__).parents[2]
LIST = IngestSpec(source="mine", url_column="file", text_column="caption", url_prefix="file:")


def picture(path: Path, size: tuple[int, int] = (64, 48), form: str = "JPEG", seed: int = 0, **options: Any) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, form, **options)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(stream.getvalue())
    return stream.getvalue()


def listed(folder: Path, rows: list[tuple[str, str]], spec: IngestSpec = LIST) -> Artifact:
    """The pairs that ``ingest`` makes of a list of files and captions."""
    lists, pairs = folder / "lists", folder / "pairs"
    lists.mkdir()
    pairs.mkdir()
    (lists / "a.jsonl").write_text("".join(json.dumps({"file": f, "caption": c}) + "\n" for f, c in rows))
    ingest(spec, urls=Artifact.of_folder(lists), out=pairs)
    return Artifact.of_folder(pairs)


def imported(pairs: Artifact, folder: Path, out: Path, **fields: Any) -> tuple[list[dict], list[dict], dict]:
    out.mkdir(exist_ok=True)
    facts = import_images(ImportImagesSpec(**fields), pairs=pairs, images=Artifact.of_folder(folder), out=out)
    return read_rows(out / "images.parquet", IMAGES_SCHEMA), read_rows(out / "rejects.parquet", REJECTS_SCHEMA), facts


@pytest.fixture(autouse=True)
def two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSCIR_IMPORT_PROCESSES", "2")


def test_a_folder_of_all_sorts_is_accounted_for_one_to_one(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(folder / "a.jpg", (300, 200))
    picture(folder / "sub/deep/b.png", (100, 400), "PNG", 1)
    picture(folder / "c.webp", (50, 40), "WEBP", 2)
    picture(folder / "turned.jpg", (200, 100), seed=3, exif=exif)
    picture(folder / "tab\N{SNOWMAN} #1?.jpg", (30, 30), seed=4)
    (folder / "empty.jpg").touch()
    (folder / "page.jpg").write_text("<html>not found</html>")
    (folder / "cut.jpg").write_bytes(picture(folder / "whole.jpg", seed=5)[:500])
    picture(folder / "large.jpg", (900, 900), seed=6, quality=100)
    picture(folder / "pixels.png", (600, 510), "PNG", 7)
    good = {"a.jpg": (300, 200), "sub/deep/b.png": (100, 400), "c.webp": (50, 40), "turned.jpg": (100, 200),
            "tab\N{SNOWMAN} #1?.jpg": (30, 30)}  # fmt: skip
    bad = {"empty.jpg": "empty", "page.jpg": "not_image", "cut.jpg": "bad_image", "large.jpg": "too_large",
           "pixels.png": "too_many_pixels", "gone.jpg": "not_found", ".hidden.jpg": "not_found"}  # fmt: skip
    picture(folder / ".hidden.jpg")
    rows, rejects, facts = imported(
        listed(tmp_path, [(name, f"text of {name}") for name in [*bad, *good]]), folder, tmp_path / "out",
        image_size=100, max_bytes=1_200_000, max_pixels=300_000,
    )  # fmt: skip
    assert [row["url"] for row in rows] == [f"file:{name}" for name in [*bad, *good]]
    row_of = {row["url"].removeprefix("file:"): row for row in rows}
    assert {name: row_of[name]["error_class"] for name in bad} == bad
    for name, (width, height) in good.items():
        row = row_of[name]
        assert row["image_key"] == sha256(f"file:{name}".encode()).hexdigest()
        assert (row["status"], row["attempts"], row["http_status"]) == ("ok", 1, None)
        assert (row["original_width"], row["original_height"]) == (width, height)
        assert min(row["width"], row["height"]) == min(100, width, height)
    assert [(row["stage"], row["id"], row["reason"]) for row in rejects] == [
        ("import_images", row_of[name]["pair_id"], reason) for name, reason in bad.items()
    ]
    assert facts == {
        "rows": 12, "ok": 5, "rejects": 7, "success_rate": 0.416667, "images": 5, "chunks": 1,
        "failed_by_class": {"bad_image": 1, "empty": 1, "not_found": 2, "not_image": 1, "too_large": 1,
                            "too_many_pixels": 1},
    }  # fmt: skip


def test_rows_and_members_agree_and_lie_where_the_rows_say(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    names = [f"{number}.jpg" for number in range(12)]
    for number, name in enumerate(names):
        picture(folder / name, seed=number)
    pairs = listed(tmp_path, [(name, f"text {name}") for name in names] + [(names[0], "another text of the first")])
    rows, _, facts = imported(pairs, folder, tmp_path / "out", chunk_rows=5)
    assert (facts["rows"], facts["ok"], facts["images"]) == (13, 13, 12)
    assert rows[12]["image_key"] == rows[0]["image_key"]
    assert rows[12]["offset"] == rows[0]["offset"]
    with ShardReader(lambda shard: tmp_path / "out" / shard) as reader:
        for row in rows:
            assert sha256(reader.read(row["shard"], row["offset"], row["size"])).hexdigest() == row["sha256"]
    for tar in sorted((tmp_path / "out").glob("*.tar")):
        mine = {row["image_key"]: row for row in rows if row["shard"] == tar.name}
        spans = {span.name.removesuffix(".jpg"): span for span in index_shard(tar) if span.name.endswith(".jpg")}
        assert sorted(mine) == sorted(spans)
        verify_tar(tar, spans, {key: row["sha256"] for key, row in mine.items()})
    with tarfile.open(tmp_path / "out" / rows[1]["shard"]) as tar:
        stream = tar.extractfile(f"{rows[1]['image_key']}.json")
        about = json.loads(stream.read()) if stream else {}
    assert (about["url"], about["text"], about["width"]) == ("file:1.jpg", "text 1.jpg", 64)


def test_an_import_and_a_download_of_the_same_pictures_give_the_same_images(tmp_path: Path) -> None:
    kinds = ["cmyk.jpg", "16bit.png", "alpha.png", "palette.png", "rotated.jpg", "animated.gif", "webp.webp", "cut.jpg",
             "grey.jpg", "svg.svg", "avif.avif", "empty.jpg", "huge.png"]  # fmt: skip
    paths = ["/photo/900/600/5.jpg", "/photo/200/1000/6.jpg", *(f"/image/{kind}" for kind in kinds)]
    with HostileServer() as server:
        for number, path in enumerate(paths):
            (tmp_path / "pictures").mkdir(exist_ok=True)
            with urlopen(server.url(path)) as answer:
                (tmp_path / "pictures" / f"{number}").write_bytes(answer.read())
        web = pairs_in(tmp_path / "web", [(server.url(path), "t") for path in paths])
        theirs = download(tmp_path, spec_for(server, image_size=100, quality=90), web).rows()
    pairs = listed(tmp_path, [(f"{number}", "t") for number in range(len(paths))])
    ours, _, _ = imported(pairs, tmp_path / "pictures", tmp_path / "out", image_size=100, quality=90,
                          max_bytes=QUICK["max_bytes"])  # fmt: skip
    same = ["status", "error_class", "sha256", "width", "height", "size"]
    for path, mine, other in zip(paths, ours, theirs, strict=True):
        named = same + ["original_width", "original_height"] * (mine["status"] == "ok")
        assert {name: mine[name] for name in named} == {name: other[name] for name in named}, path
    assert sum(row["status"] == "ok" for row in ours) == 11


@pytest.mark.parametrize(
    ("file", "reason"),
    [("/etc/passwd", "bad_path"), ("../up.jpg", "bad_path"), ("a/../../b.jpg", "bad_path"), ("C:\\a.jpg", "bad_path"),
     ("//host/share.jpg", "bad_path"), ("a\x07.jpg", "bad_url"), ("", "no_url")],
)  # fmt: skip
def test_a_list_cannot_name_a_file_outside_of_the_folder(tmp_path: Path, file: str, reason: str) -> None:
    picture(tmp_path / "pictures/good.jpg")
    listed(tmp_path, [(file, "t"), ("./good.jpg", "t")])
    rejects = read_rows(tmp_path / "pairs/rejects.parquet", REJECTS_SCHEMA)
    assert [row["reason"] for row in rejects] == [reason]
    rows, _, _ = imported(Artifact.of_folder(tmp_path / "pairs"), tmp_path / "pictures", tmp_path / "out")
    assert [(row["url"], row["status"]) for row in rows] == [("file:good.jpg", "ok")]


def test_a_link_may_lead_about_in_the_folder_and_never_out_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    picture(folder / "real.jpg")
    picture(tmp_path / "private.jpg")
    (folder / "inside.jpg").symlink_to("real.jpg")
    (folder / "outside.jpg").symlink_to(tmp_path / "private.jpg")
    (folder / "climbing.jpg").symlink_to("../private.jpg")
    names = ["real.jpg", "inside.jpg", "outside.jpg", "climbing.jpg"]
    rows, _, _ = imported(listed(tmp_path, [(name, "t") for name in names]), folder, tmp_path / "out")
    assert [row["error_class"] for row in rows] == [None, None, "forbidden_path", "forbidden_path"]


def test_pairs_of_the_web_are_not_looked_for_on_the_disk(tmp_path: Path) -> None:
    picture(tmp_path / "pictures/a.jpg")
    spec = IngestSpec(source="mine", url_column="file", text_column="caption")
    pairs = listed(tmp_path, [("http://a.test/a.jpg", "t")], spec)
    with pytest.raises(RequestError, match=r"not one of 1 pictures could be read: \{'not_local': 1\}"):
        imported(pairs, tmp_path / "pictures", tmp_path / "out")


def test_the_wrong_folder_is_an_error_that_shows_both_sides(tmp_path: Path) -> None:
    picture(tmp_path / "pictures/sub/a.jpg")
    pairs = listed(tmp_path, [("a.jpg", "t")])
    with pytest.raises(RequestError, match=r"names 'file:a\.jpg' and the like, the folder holds \['sub/a\.jpg'\]"):
        imported(pairs, tmp_path / "pictures", tmp_path / "out")


def test_the_bytes_do_not_depend_on_where_the_folder_lies_or_how_many_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, copy = tmp_path / "pictures", tmp_path / "elsewhere/else"
    for number in range(20):
        picture(folder / f"{number}.jpg", (200 + number, 150), seed=number)
        picture(copy / f"{number}.jpg", (200 + number, 150), seed=number)
    pairs = listed(tmp_path, [(f"{number}.jpg", "t") for number in range(20)] + [("gone.jpg", "t")])
    imported(pairs, folder, tmp_path / "one", chunk_rows=8, image_size=100)
    monkeypatch.setenv("ZSCIR_IMPORT_PROCESSES", "1")
    imported(pairs, copy, tmp_path / "two", chunk_rows=8, image_size=100)
    assert files_in(tmp_path / "one") == files_in(tmp_path / "two")


CHILD = """
import sys
from pathlib import Path
from zscir.store.artifacts import Artifact
from zscir.stages.import_images import ImportImagesSpec, import_images
if __name__ == "__main__":
    pairs, images, out = sys.argv[1:]
    import_images(ImportImagesSpec(chunk_rows=10), pairs=Artifact.of_folder(pairs),
                  images=Artifact.of_folder(images), out=Path(out))
"""


def test_a_killed_import_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    for number in range(60):
        picture(folder / f"{number}.jpg", (500, 400), seed=number)
    pairs = listed(tmp_path, [(f"{number}.jpg", "t") for number in range(60)])
    (tmp_path / "child.py").write_text(CHILD)
    out = tmp_path / "out"
    out.mkdir()
    child = subprocess.Popen(
        [sys.executable, tmp_path / "child.py", tmp_path / "pairs", folder, out],
        env=os.environ | {"PYTHONPATH": str(REPO)},
    )  # fmt: skip
    while not list(out.glob(".records/*.parquet")):
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    kept = {path: path.stat().st_mtime_ns for path in out.glob(".records/*.parquet")}
    assert not (out / "images.parquet").exists()
    imported(pairs, folder, out, chunk_rows=10)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    imported(pairs, folder, tmp_path / "undisturbed", chunk_rows=10)
    assert files_in(out) == files_in(tmp_path / "undisturbed")
    remove_scratch_files(out)
    assert sorted(path.name for path in out.iterdir()) == sorted(files_in(tmp_path / "undisturbed"))
