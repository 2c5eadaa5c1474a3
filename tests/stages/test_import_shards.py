"""WebDataset tars that somebody made, well or badly, become what a download would be."""

import io
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

import pytest
import webdataset
from PIL import Image

from tests.data.readers.made_tars import jpeg, sample, tar_of
from tests.faults.downloads import files_in
from zscir.data.download.repack import verify_tar
from zscir.data.images.shards import index_shard
from zscir.data.readers.pairs import pair_digest
from zscir.runtime.errors import RequestError
from zscir.runtime.schemas import IMAGES_SCHEMA, PAIRS_SCHEMA, REJECTS_SCHEMA, read_rows
from zscir.stages.import_shards import ImportShardsSpec, import_shards
from zscir.store.artifacts import Artifact, remove_scratch_files

REPO = Path(__file__).parents[2]
SPEC = {"source": "tars", "keep_jpegs": True}


@pytest.fixture(autouse=True)
def two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSCIR_IMPORT_PROCESSES", "2")


def imported(folder: Path, out: Path, **fields: Any) -> tuple[list[dict], list[dict], dict]:
    out.mkdir(exist_ok=True)
    facts = import_shards(ImportShardsSpec.parse(SPEC | fields, "t"), shards=Artifact.of_folder(folder), out=out)
    return read_rows(out / "images.parquet", IMAGES_SCHEMA), read_rows(out / "rejects.parquet", REJECTS_SCHEMA), facts


def test_tars_become_pairs_images_and_shards_one_to_one(tmp_path: Path) -> None:
    tars, out = tmp_path / "tars", tmp_path / "out"
    url = "https://a.test/1.jpg"
    tar_of(tars / "00000.tar", [*sample("0001", "one", 1, url=url, license="CC0"), *sample("0002", "two", 2)])
    tar_of(tars / "00001.tar", [*sample("0001", "three", 3), *sample("0003", "other text of one", 4, url=url),
                                *sample("0004", "one", 5, url=url), ("0005.jpg", b"<html>"),
                                ("0005.txt", "page")])  # fmt: skip
    (tars / "00000.parquet").write_bytes(b"img2dataset leaves tables beside its tars")
    (tars / "00000_stats.json").write_text("{}")
    rows, rejects, facts = imported(tars, out, licence="unknown", licence_column="license")
    assert [(row["url"], row["text"], row["status"], row["shard"]) for row in rows] == [
        (url, "one", "ok", "00000.tar"), ("file:00000.tar/0002.jpg", "two", "ok", "00000.tar"),
        ("file:00001.tar/0001.jpg", "three", "ok", "00001.tar"), (url, "other text of one", "ok", "00000.tar"),
        ("file:00001.tar/0005.jpg", "page", "failed", None),
    ]  # fmt: skip
    assert [row["image_key"] for row in rows] == [sha256(row["url"].encode()).hexdigest() for row in rows]
    assert [(row["stage"], row["id"], row["reason"]) for row in rejects] == [
        ("import_shards", "00001.tar#0004", "duplicate"), ("import_shards", rows[4]["pair_id"], "not_image"),
    ]  # fmt: skip
    pairs = read_rows(out / "pairs.parquet", PAIRS_SCHEMA)
    assert [pair["pair_id"] for pair in pairs] == [pair_digest(row["url"], row["text"]).hex() for row in rows]
    assert [(pair["licence"], pair["source"], pair["source_row"]) for pair in pairs] == [
        ("CC0", "tars", 0), ("unknown", "tars", 1), ("unknown", "tars", 2), ("unknown", "tars", 3),
        ("unknown", "tars", 5),
    ]  # fmt: skip
    assert facts == {
        "rows": 5, "ok": 4, "rejects": 2, "success_rate": 0.8, "images": 3, "failed_by_class": {"not_image": 1},
        "shards": 2, "left_out_by_reason": {"duplicate": 1}, "ignored_members": {},
    }  # fmt: skip
    for tar in ("00000.tar", "00001.tar"):
        mine = {row["image_key"]: row for row in rows if row["shard"] == tar}
        spans = {span.name.removesuffix(".jpg"): span for span in index_shard(out / tar) if span.name.endswith(".jpg")}
        verify_tar(out / tar, spans, {key: row["sha256"] for key, row in mine.items()})
        assert sorted(spans) == sorted(mine)


def test_what_img2dataset_writes_with_webdataset_is_read_and_kept_byte_for_byte(tmp_path: Path) -> None:
    (tmp_path / "tars").mkdir()
    pictures = {f"{number:09d}": jpeg(number) for number in range(5)}
    with webdataset.TarWriter(str(tmp_path / "tars/00000.tar")) as sink:
        for key, data in pictures.items():
            about = {"url": f"http://a.test/{key}", "caption": f"caption {key}", "key": key, "status": "success",
                     "error_message": None, "width": 40, "height": 30, "exif": "{}", "sha256": ""}  # fmt: skip
            sink.write({"__key__": key, "jpg": data, "txt": about["caption"], "json": about})
    rows, rejects, _ = imported(tmp_path / "tars", tmp_path / "out")
    assert rejects == []
    assert [(row["url"], row["text"], row["sha256"]) for row in rows] == [
        (f"http://a.test/{key}", f"caption {key}", sha256(data).hexdigest()) for key, data in pictures.items()
    ]
    with (tmp_path / "out/00000.tar").open("rb") as stream:
        members = webdataset.tariterators.tar_file_iterator(stream)
        back = list(webdataset.tariterators.group_by_keys(dict(member, __url__="") for member in members))
    assert sorted(sample["txt"].decode() for sample in back) == sorted(row["text"] for row in rows)


def hostile(folder: Path) -> None:
    """Tars in which everything is tried, each with a good sample before the trick and, where one can go on, after."""
    before, after = sample("good", "before", 1), sample("late", "after", 2)

    def odd(name: str, kind: bytes, to: str = "") -> tarfile.TarInfo:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = kind, to
        return entry

    tar_of(folder / "climb.tar", [*before, ("../../climbed.jpg", b"x"), ("/climbed.jpg", b"x"), *after])
    tar_of(folder / "device.tar", [*before, odd("dev.jpg", tarfile.CHRTYPE), odd("pipe.jpg", tarfile.FIFOTYPE), *after])
    tar_of(folder / "link.tar", [*before, odd("link.jpg", tarfile.SYMTYPE, "/etc/passwd"), ("link.txt", "t"), *after])
    huge = tar_of(folder / "huge.tar", [*before, ("bomb.jpg", b"x"), ("bomb.txt", "t")])
    data = bytearray(huge.read_bytes())
    at = data.index(b"bomb.jpg")
    data[at + 124 : at + 136] = b"\x80" + (10**15).to_bytes(11, "big")
    data[at + 148 : at + 156] = b"%06o\0 " % (sum(data[at : at + 148]) + 8 * 32 + sum(data[at + 156 : at + 512]))
    huge.write_bytes(data)
    cut = tar_of(folder / "cut.tar", [*before, *after])
    cut.write_bytes(cut.read_bytes()[: cut.read_bytes().index(b"late.txt")])
    flip = tar_of(folder / "flip.tar", [*before, *after])
    flip.write_bytes(flip.read_bytes().replace(b"late.jpg", b"lbte.jpg", 1))
    with tarfile.open(folder / "pax.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in before:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content.encode() if isinstance(content, str) else content))
        bomb = tarfile.TarInfo("bomb.jpg")
        bomb.pax_headers = {"comment": "x" * 300_000}
        tar.addfile(bomb)
    sparse = odd("holes.jpg", tarfile.GNUTYPE_SPARSE)
    tar_of(folder / "sparse.tar", [*before, sparse, *after])
    (folder / "zipped.tar").write_bytes(b"PK\x03\x04" + bytes(2000))
    (folder / "packed.tar.gz").write_bytes(b"\x1f\x8b")
    (folder / "nothing.tar").touch()


def test_hostile_tars_cost_what_is_broken_in_them_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "deep/down/tars"
    folder.mkdir(parents=True)
    hostile(folder)
    before = sorted(tmp_path.rglob("*"))
    rows, rejects, facts = imported(folder, tmp_path / "out")
    assert sorted({row["url"].split("/")[0] for row in rows if row["text"] == "before"}) == [
        f"file:{name}.tar" for name in ("climb", "cut", "device", "flip", "huge", "link", "pax", "sparse")
    ]
    assert sorted(row["url"].split("/")[0] for row in rows if row["text"] == "after") == [
        f"file:{name}.tar" for name in ("climb", "device", "link", "sparse")
    ]
    reasons: dict[str, list[str]] = {}
    for row in rejects:
        reasons.setdefault(row["id"], []).append(row["reason"])
    assert reasons == {
        "climb.tar#../../climbed.jpg": ["bad_name"], "climb.tar#/climbed.jpg": ["bad_name"],
        "cut.tar": ["bad_tar"], "cut.tar#late": ["no_text"], "device.tar#dev.jpg": ["odd_member"],
        "device.tar#pipe.jpg": ["odd_member"], "flip.tar": ["bad_tar"], "huge.tar": ["bad_tar"],
        "link.tar#link": ["no_image"], "link.tar#link.jpg": ["odd_member"], "nothing.tar": ["bad_tar"],
        "packed.tar.gz": ["packed_tar"], "pax.tar": ["bad_tar"], "sparse.tar#holes.jpg": ["odd_member"],
        "zipped.tar": ["bad_tar"],
    }  # fmt: skip
    assert facts["rejects"] == len(rejects) == 15
    assert facts["rows"] == facts["ok"] == len(rows) == 12
    out = tmp_path / "out"
    assert [path for path in sorted(tmp_path.rglob("*")) if path != out and out not in path.parents] == before


def test_tars_without_a_picture_are_an_error_that_shows_what_was_found(tmp_path: Path) -> None:
    tar_of(tmp_path / "tars/a.tar", [("1.mp3", b"x"), ("1.txt", "t")])
    with pytest.raises(RequestError, match=r"left out: \{'no_image': 1\}, failed: \{\}, ignored: \{'mp3': 1\}"):
        imported(tmp_path / "tars", tmp_path / "out")
    (tmp_path / "none").mkdir()
    (tmp_path / "none/a.zip").touch()
    with pytest.raises(RequestError, match=r"no \.tar among the 1 files, such as \['a\.zip'\]"):
        imported(tmp_path / "none", tmp_path / "out2")


def test_pictures_are_brought_to_size_unless_they_are_small_jpegs_to_be_kept(tmp_path: Path) -> None:
    png = BytesIO()
    Image.new("RGBA", (30, 20), (255, 0, 0, 0)).save(png, "PNG")
    big, small = jpeg(1, (200, 100)), jpeg(2)
    tar_of(tmp_path / "tars/a.tar", [("1.jpg", big), ("1.txt", "big"), ("2.jpg", small), ("2.txt", "small"),
                                     ("3.png", png.getvalue()), ("3.txt", "clear"), ("4.jpg", big + bytes(100_000)),
                                     ("4.txt", "fat")])  # fmt: skip
    rows, _, _ = imported(tmp_path / "tars", tmp_path / "out", image_size=50, max_bytes=100_000)
    assert [(row["width"], row["height"], row["error_class"]) for row in rows] == [
        (100, 50, None), (40, 30, None), (30, 20, None), (None, None, "too_large"),
    ]  # fmt: skip
    assert rows[1]["sha256"] == sha256(small).hexdigest()


def test_another_number_of_samples_than_expected_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tar_of(tmp_path / "tars/a.tar", sample("1"))
    with caplog.at_level("INFO", "zscir"):
        _, _, facts = imported(tmp_path / "tars", tmp_path / "out", expected_rows=3)
    assert (facts["expected_rows"], facts["rows_off"]) == (3, -2)
    assert "the tars hold 1 samples, their source says 3" in caplog.text


CHILD = """
import sys
from pathlib import Path
from zscir.store.artifacts import Artifact
from zscir.stages.import_shards import ImportShardsSpec, import_shards
if __name__ == "__main__":
    tars, out = sys.argv[1:]
    import_shards(ImportShardsSpec(source="tars", image_size=100), shards=Artifact.of_folder(tars), out=Path(out))
"""


def test_a_killed_import_goes_on_with_the_unfinished_tars_and_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tars, out = tmp_path / "tars", tmp_path / "out"
    for tar in range(6):
        members = [
            member
            for n in range(8)
            for member in [(f"{n}.jpg", jpeg(tar * 8 + n, (500, 400))), (f"{n}.txt", f"{tar} {n}")]
        ]
        tar_of(tars / f"{tar:05d}.tar", members)
    (tmp_path / "child.py").write_text(CHILD)
    out.mkdir()
    child = subprocess.Popen(
        [sys.executable, tmp_path / "child.py", tars, out], env=os.environ | {"PYTHONPATH": str(REPO)}
    )
    while not list(out.glob(".records/*.parquet")):
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    kept = {path: path.stat().st_mtime_ns for path in out.glob(".records/*.parquet")}
    assert not (out / "images.parquet").exists()
    fields = {"image_size": 100, "keep_jpegs": False}
    imported(tars, out, **fields)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    monkeypatch.setenv("ZSCIR_IMPORT_PROCESSES", "1")
    imported(tars, tmp_path / "undisturbed", **fields)
    assert files_in(out) == files_in(tmp_path / "undisturbed")
    remove_scratch_files(out)
    assert sorted(path.name for path in out.iterdir()) == sorted(files_in(tmp_path / "undisturbed"))
