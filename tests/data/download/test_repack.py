import io
import json
import tarfile
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.faults.hostile_images import picture, saved
from zscir.data.download.chunks import ChunkUrl
from zscir.data.download.gateway import FetchOutcome
from zscir.data.download.merge_chunks import RECORD_SCHEMA
from zscir.data.download.repack import repack, verify_tar
from zscir.data.images.shards import BadShard, MemberSpan, index_shard
from zscir.runtime.schemas import read_rows

TARGETS = tuple(
    ChunkUrl(sha256(url.encode()).hexdigest(), url, f"text {number}")
    for number, url in enumerate(f"http://a.test/{number}.jpg" for number in range(4))
)
FETCHED = FetchOutcome(None, None, 200, 1, 640, 480, "0" * 64)
OUTCOMES = {
    TARGETS[0].image_key: FETCHED,
    TARGETS[1].image_key: FetchOutcome("http_404", "HTTP status 404", 404, 1),
    TARGETS[2].image_key: FETCHED,
    TARGETS[3].image_key: FETCHED,
}


def raw_shard(folder: Path, stored: dict[int, bytes], errors: dict[int, str], order: list[int]) -> Path:
    """What img2dataset leaves: samples in the order of completion, with the times of this run, and a table."""
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for number in (number for number in order if number in stored):
            about = {"url": f"http://127.0.0.1:4711/{TARGETS[number].image_key}", "key": f"{number:09d}"}
            for suffix, data in (("jpg", stored[number]), ("json", json.dumps(about).encode())):
                entry = tarfile.TarInfo(f"{number:09d}.{suffix}")
                entry.size, entry.mtime = len(data), 1_700_000_000 + number
                tar.addfile(entry, io.BytesIO(data))
    urls = [f"http://127.0.0.1:4711/{target.image_key}" for target in TARGETS]
    messages = [errors.get(number) for number in range(len(TARGETS))]
    pq.write_table(pa.table({"url": urls, "error_message": pa.array(messages, pa.string())}), folder / "00000.parquet")
    return folder / "00000.tar"


STORED = {0: saved(picture(0), "JPEG"), 2: saved(picture(2, 30, 20), "JPEG")}
SAID = {1: "HTTP Error 424: http_404", 3: "Image  decoding\nerror"}


def run(folder: Path, order: list[int]) -> tuple[list[dict], Path]:
    raw = raw_shard(folder / "raw", STORED, SAID, order)
    assert repack(raw, TARGETS, OUTCOMES.get, folder) == 2
    return read_rows(folder / "record.parquet", RECORD_SCHEMA), folder / "images.tar"


def test_every_url_has_a_row_and_every_image_lies_where_it_says(tmp_path: Path) -> None:
    rows, tar = run(tmp_path, [2, 0])
    assert [row["image_key"] for row in rows] == [target.image_key for target in TARGETS]
    assert [(row["status"], row["error_class"], row["http_status"], row["attempts"]) for row in rows] == [
        ("ok", None, 200, 1), ("failed", "http_404", 404, 1), ("ok", None, 200, 1), ("failed", "bad_image", 200, 1),
    ]  # fmt: skip
    assert rows[3]["error"] == "img2dataset: Image decoding error"
    data = tar.read_bytes()
    for number in (0, 2):
        row = rows[number]
        image = data[row["offset"] : row["offset"] + row["size"]]
        assert image == STORED[number]
        assert row["sha256"] == sha256(image).hexdigest()
        assert (row["original_width"], row["original_height"]) == (640, 480)
    assert (rows[2]["width"], rows[2]["height"]) == (30, 20)


def test_members_are_sorted_and_say_nothing_of_the_run(tmp_path: Path) -> None:
    _, tar = run(tmp_path, [2, 0])
    names = [span.name for span in index_shard(tar)]
    assert names == sorted(names)
    assert len(names) == 6
    assert b"4711" not in tar.read_bytes()


def test_the_order_of_completion_does_not_matter(tmp_path: Path) -> None:
    for name, order in (("one", [0, 2]), ("two", [2, 0])):
        (tmp_path / name).mkdir()
        run(tmp_path / name, order)
    for file in ("images.tar", "record.parquet"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_truncated_raw_shard_is_refused_and_nothing_is_finished(tmp_path: Path) -> None:
    raw = raw_shard(tmp_path / "raw", STORED, SAID, [0, 2])
    raw.write_bytes(raw.read_bytes()[:1500])
    with pytest.raises(BadShard):
        repack(raw, TARGETS, OUTCOMES.get, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw"]


def test_a_shard_whose_urls_were_never_requested_is_refused(tmp_path: Path) -> None:
    raw = raw_shard(tmp_path / "raw", {}, dict.fromkeys(range(4), "connection refused"), [])
    with pytest.raises(BadShard, match="did not request 4 of 4 URLs"):
        repack(raw, TARGETS, lambda _: None, tmp_path)


def test_an_image_that_img2dataset_lost_has_the_error_class_engine(tmp_path: Path) -> None:
    raw = raw_shard(tmp_path / "raw", {0: STORED[0], 3: b"no image at all"}, {}, [0, 3])
    repack(raw, TARGETS, OUTCOMES.get, tmp_path)
    rows = read_rows(tmp_path / "record.parquet", RECORD_SCHEMA)
    assert [row["error_class"] for row in rows] == [None, "http_404", "engine", "engine"]


def test_a_chunk_without_an_image_has_a_record_and_no_tar(tmp_path: Path) -> None:
    raw = raw_shard(tmp_path / "raw", {}, SAID, [])
    assert repack(raw, TARGETS, OUTCOMES.get, tmp_path) == 0
    assert not (tmp_path / "images.tar").exists()
    assert len(read_rows(tmp_path / "record.parquet", RECORD_SCHEMA)) == 4


def test_a_finished_tar_that_differs_from_its_record_is_noticed(tmp_path: Path) -> None:
    rows, tar = run(tmp_path, [0, 2])
    spans = {
        row["image_key"]: MemberSpan(f"{row['image_key']}.jpg", row["offset"], row["size"])
        for row in rows
        if row["status"] == "ok"
    }
    digests = {row["image_key"]: row["sha256"] for row in rows}
    verify_tar(tar, spans, digests)
    whole = bytearray(tar.read_bytes())
    whole[rows[0]["offset"] + 5] ^= 1
    tar.write_bytes(whole)
    with pytest.raises(BadShard, match="not what was written"):
        verify_tar(tar, spans, digests)
    first, *rest = spans
    with pytest.raises(BadShard):
        verify_tar(tar, {first: spans[first]} if rest else {}, digests)
