from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.stages.albums import download_of, keep_list_of, kept, key, rejected
from zscir.data.images import keep_list
from zscir.data.images.keep_list import FilterReject, KeepList, first_row_per_image, kept_image_rows, write_keep_list
from zscir.runtime.errors import RequestError
from zscir.runtime.schemas import KEEP_SCHEMA, REJECTS_SCHEMA, read_rows

PICTURES = [b"0", b"1", None, b"3", b"4"]


def twice(number: int) -> list[str]:
    return ["one", "two"] if number == 3 else ["only"]


def test_in_play_is_what_was_downloaded_and_is_kept_with_all_its_captions(tmp_path: Path) -> None:
    images = download_of(tmp_path / "images", PICTURES, twice)
    rows = list(kept_image_rows("toy", images, None, ("text",)))
    assert [(row["image_key"], row["text"]) for row in rows] == [
        (key(0), "only"), (key(1), "only"), (key(3), "one"), (key(3), "two"), (key(4), "only"),
    ]  # fmt: skip
    keep = keep_list_of(tmp_path / "keep", [0, 3])
    assert [row["image_key"] for row in kept_image_rows("toy", images, keep, ())] == [key(0), key(3), key(3)]
    assert [row["text"] for row in first_row_per_image(rows)] == ["only", "only", "one", "only"]


def test_a_choice_of_another_download_is_refused(tmp_path: Path) -> None:
    images = download_of(tmp_path / "images", PICTURES)
    with pytest.raises(RequestError, match=f"toy: 2 images of 'keep' were not downloaded.* such as {key(2)}"):
        list(kept_image_rows("toy", images, keep_list_of(tmp_path / "keep", [0, 2, 9]), ()))


def test_without_a_choice_every_image_is_chosen() -> None:
    choice = KeepList(None)
    assert choice.contains("anything")
    choice.check_all_seen("toy")


def test_every_image_is_kept_or_has_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keep_list, "KEEP_BATCH_ROWS", 3)
    images = download_of(tmp_path / "images", [b"%d" % number for number in range(10)])
    reasons = {2: FilterReject("small", "2 px"), 5: FilterReject("small", "5 px"), 7: FilterReject("odd", "x" * 300)}
    judged = {key(number): reject for number, reject in reasons.items()}
    facts = write_keep_list(
        "toy", kept_image_rows("toy", images, None, ()), lambda row: judged.get(row["image_key"]), tmp_path
    )
    assert facts == {"rows": 7, "images": 10, "rejects": 3, "rejects_by_reason": {"odd": 1, "small": 2}}
    assert kept(tmp_path) == [0, 1, 3, 4, 6, 8, 9]
    assert rejected(tmp_path) == {2: ("small", "2 px"), 5: ("small", "5 px"), 7: ("odd", "x" * 200)}
    assert {row["stage"] for row in read_rows(tmp_path / "rejects.parquet", REJECTS_SCHEMA)} == {"toy"}


def test_no_images_leave_empty_tables(tmp_path: Path) -> None:
    facts = write_keep_list("toy", iter(()), lambda row: None, tmp_path)
    assert facts == {"rows": 0, "images": 0, "rejects": 0, "rejects_by_reason": {}}
    assert read_rows(tmp_path / "keep.parquet", KEEP_SCHEMA) == []


def test_a_table_that_is_no_table_of_images_is_refused(tmp_path: Path) -> None:
    images = download_of(tmp_path / "images", PICTURES)
    pq.write_table(pa.table({"image_key": ["a"], "status": ["ok"]}), tmp_path / "images" / "images.parquet")
    with pytest.raises(RequestError, match=r"images\.parquet: columns missing"):
        list(kept_image_rows("toy", images, None, ()))
