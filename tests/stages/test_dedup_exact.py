from pathlib import Path

from tests.stages.albums import OUTPUTS, download_of, keep_list_of, kept, rejected
from zscir.runtime.schemas import IMAGES_SCHEMA, read_rows, write_table
from zscir.stages.dedup_exact import DedupExactSpec, dedup_exact
from zscir.store.artifacts import Artifact

PICTURES = [b"one", b"two", b"one", None, b"three", b"two", b"one"]


def run(tmp_path: Path, images: Artifact, keep: Artifact | None = None) -> dict[str, object]:
    out = tmp_path / "out"
    out.mkdir()
    facts = dedup_exact(DedupExactSpec(), images=images, keep=keep, out=out)
    assert {path.name for path in out.iterdir()} == OUTPUTS
    return facts


def test_the_first_of_equal_bytes_stays(tmp_path: Path) -> None:
    facts = run(tmp_path, download_of(tmp_path / "images", PICTURES, lambda number: ["a", "b"]))
    assert kept(tmp_path / "out") == [0, 1, 4]
    assert rejected(tmp_path / "out") == {
        2: ("same_bytes", "as image 0"), 5: ("same_bytes", "as image 1"), 6: ("same_bytes", "as image 0"),
    }  # fmt: skip
    assert facts == {"rows": 3, "images": 6, "rejects": 3, "rejects_by_reason": {"same_bytes": 3}}


def test_the_first_is_the_first_of_those_that_earlier_filters_kept(tmp_path: Path) -> None:
    images = download_of(tmp_path / "images", PICTURES)
    run(tmp_path, images, keep_list_of(tmp_path / "keep", [1, 2, 5, 6]))
    assert kept(tmp_path / "out") == [1, 2]


def test_bytes_whose_digest_is_not_known_are_read(tmp_path: Path) -> None:
    images = download_of(tmp_path / "images", PICTURES)
    path = images.path("images.parquet")
    write_table(path, IMAGES_SCHEMA, [row | {"sha256": None} for row in read_rows(path, IMAGES_SCHEMA)])
    run(tmp_path, images)
    assert kept(tmp_path / "out") == [0, 1, 4]
