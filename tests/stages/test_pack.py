from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

from tests.faults.hostile_images import picture, rotated_jpeg, saved
from zscir.data.images.shards import ShardReader, write_shard
from zscir.runtime.errors import StageError
from zscir.runtime.schemas import IMAGES_SCHEMA, PACKED_SCHEMA, REJECTS_SCHEMA, TRIPLETS_SCHEMA, read_rows, write_table
from zscir.stages.pack import PackSpec, pack
from zscir.store.artifacts import Artifact

SIZES = [(64, 48), (300, 200), (200, 300), (1000, 50)]


def key(number: int) -> str:
    return sha256(f"http://a.test/{number}.jpg".encode()).hexdigest()


def images_in(folder: Path, pictures: dict[int, bytes], failed: tuple[int, ...] = ()) -> Artifact:
    """A download artifact: one shard, one row per picture (each twice, for two texts) and per failed URL."""
    folder.mkdir()
    spans = {
        span.name: span
        for span in write_shard(folder / "00000.tar", [(f"{key(n)}.jpg", d) for n, d in pictures.items()])
    }
    rows = []
    for number in [*pictures, *pictures, *failed]:
        row: dict[str, Any] = {
            "image_key": key(number), "pair_id": f"p{len(rows)}", "url": f"http://a.test/{number}.jpg", "text": "t",
            "status": "failed" if number in failed else "ok", "attempts": 1,
        }  # fmt: skip
        if number in failed:
            row |= {"error_class": "http_404"}
        else:
            span = spans[f"{key(number)}.jpg"]
            row |= {"shard": "00000.tar", "offset": span.offset, "size": span.size}
        rows.append(row)
    write_table(folder / "images.parquet", IMAGES_SCHEMA, rows)
    return Artifact.of_folder(folder)


def triplets_in(folder: Path, ends: list[tuple[int, int]]) -> Artifact:
    folder.mkdir()
    rows = [
        {
            "triplet_id": f"t{number:03d}", "source": "masked" if a == b else "template", "reference_key": key(a),
            "target_key": key(b), "text": f"change \N{SNOWMAN} {number}", "reference_caption": "before",
            "mask_seed": number if a == b else None, "mask_ratio": 0.75 if a == b else None,
        }
        for number, (a, b) in enumerate(ends)
    ]  # fmt: skip
    write_table(folder / "triplets.parquet", TRIPLETS_SCHEMA, rows)
    return Artifact.of_folder(folder)


@pytest.fixture
def images(tmp_path: Path) -> Artifact:
    pictures = {number: saved(picture(number, *size), "JPEG", quality=90) for number, size in enumerate(SIZES)}
    return images_in(tmp_path / "images", pictures, failed=(8,))


def run(
    tmp_path: Path, images: Artifact, ends: list[tuple[int, int]], name: str = "out", **spec: Any
) -> tuple[list[dict], Path]:
    out = tmp_path / name
    out.mkdir(exist_ok=True)
    folder = tmp_path / f"triplets of {name}"
    triplets = Artifact.of_folder(folder) if folder.exists() else triplets_in(folder, ends)
    facts = pack(PackSpec(**spec), triplets=triplets, images=images, out=out)
    rows = read_rows(out / "index.parquet", PACKED_SCHEMA)
    assert facts["rows"] == len(rows)
    assert facts["rejects"] == pq.read_metadata(out / "rejects.parquet").num_rows
    return rows, out


def image(out: Path, row: dict[str, Any], role: str) -> Image.Image:
    with ShardReader(lambda shard: out / shard) as reader:
        return Image.open(BytesIO(reader.read(row["shard"], row[f"{role}_offset"], row[f"{role}_size"])))


def test_the_index_says_where_each_image_lies(tmp_path: Path, images: Artifact) -> None:
    rows, out = run(tmp_path, images, [(0, 1), (2, 2), (1, 3)], shard_rows=2)
    assert [(row["triplet_id"], row["shard"]) for row in rows] == [
        ("t000", "00000.tar"), ("t001", "00000.tar"), ("t002", "00001.tar"),
    ]  # fmt: skip
    assert [image(out, row, "reference").size for row in rows] == [SIZES[0], SIZES[2], SIZES[1]]
    assert image(out, rows[0], "target").size == SIZES[1]
    assert (rows[1]["target_offset"], rows[1]["target_size"]) == (None, None)
    assert (rows[1]["mask_seed"], rows[1]["mask_ratio"], rows[1]["source"]) == (1, 0.75, "masked")


def test_without_a_size_the_bytes_are_copied(tmp_path: Path, images: Artifact) -> None:
    rows, out = run(tmp_path, images, [(1, 1)])
    stored = read_rows(images.path("images.parquet"), IMAGES_SCHEMA)[1]
    with ShardReader(images.path) as source, ShardReader(lambda shard: out / shard) as packed:
        assert packed.read("00000.tar", rows[0]["reference_offset"], rows[0]["reference_size"]) == source.read(
            stored["shard"], stored["offset"], stored["size"]
        )


def test_larger_images_are_shrunk_and_smaller_ones_kept(tmp_path: Path, images: Artifact) -> None:
    rows, out = run(tmp_path, images, [(number, number) for number in range(4)], size_px=100)
    assert [image(out, row, "reference").size for row in rows] == [(64, 48), (150, 100), (100, 150), (1000, 50)]


def test_images_turned_by_exif_are_packed_upright_even_when_small(tmp_path: Path) -> None:
    rows, out = run(tmp_path, images_in(tmp_path / "turned", {0: rotated_jpeg()}), [(0, 0)], size_px=100)
    assert image(out, rows[0], "reference").size == (32, 64)


def test_triplets_without_their_images_are_rejects(tmp_path: Path, images: Artifact) -> None:
    rows, out = run(tmp_path, images, [(0, 8), (9, 0), (8, 8), (1, 2)])
    assert [row["triplet_id"] for row in rows] == ["t003"]
    rejects = read_rows(out / "rejects.parquet", REJECTS_SCHEMA)
    assert [(row["stage"], row["id"], row["reason"], row["detail"]) for row in rejects] == [
        ("pack", "t000", "no_image", f"target {key(8)}: http_404"),
        ("pack", "t001", "no_image", f"reference {key(9)}: not in the images"),
        ("pack", "t002", "no_image", f"reference {key(8)}: http_404"),
    ]


def test_an_image_that_cannot_be_shrunk_is_a_reject(tmp_path: Path) -> None:
    broken = images_in(
        tmp_path / "broken", {0: saved(picture(0, 300, 300), "JPEG")[:-3000], 1: saved(picture(), "JPEG")}
    )
    rows, out = run(tmp_path, broken, [(0, 0), (1, 1)], size_px=100)
    assert [row["triplet_id"] for row in rows] == ["t001"]
    assert [row["reason"] for row in read_rows(out / "rejects.parquet", REJECTS_SCHEMA)] == ["bad_image"]


def test_a_shard_with_nothing_but_rejects_is_no_tar(tmp_path: Path, images: Artifact) -> None:
    rows, out = run(tmp_path, images, [(8, 8), (0, 0)], shard_rows=1)
    assert [row["shard"] for row in rows] == ["00001.tar"]
    assert [path.name for path in sorted(out.glob("*.tar"))] == ["00001.tar"]


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_the_shards(tmp_path: Path, images: Artifact) -> None:
    _, out = run(tmp_path, images, [(0, 1), (2, 2)])
    first, second = webdataset.WebDataset(str(out / "00000.tar"), shardshuffle=False).decode("pil")
    assert (first["__key__"], first["reference.jpg"].size, first["target.jpg"].size) == ("t000", SIZES[0], SIZES[1])
    assert first["json"] == {
        "text": "change \N{SNOWMAN} 0", "source": "template", "reference_key": key(0), "target_key": key(1),
        "reference_caption": "before", "target_caption": None, "mask_seed": None, "mask_ratio": None,
    }  # fmt: skip
    assert "target.jpg" not in second
    assert second["json"]["mask_ratio"] == 0.75


def test_a_crashed_pack_goes_on_and_ends_with_the_same_bytes(tmp_path: Path, images: Artifact) -> None:
    ends = [(number % 4, (number * 3 + 1) % 4) for number in range(30)]
    _, whole = run(tmp_path, images, ends, "whole", shard_rows=7, size_px=100)
    _, crashed = run(tmp_path, images, ends, "crashed", shard_rows=7, size_px=100)
    for name in (
        "index.parquet",
        "rejects.parquet",
        ".parts/00002.rejects.parquet",
        "00004.tar",
        ".parts/00004.index.parquet",
    ):
        (crashed / name).unlink()
    (crashed / ".parts/00004.rejects.parquet").unlink()
    (crashed / "00002.tar.part").write_bytes(b"half")
    kept = crashed / "00001.tar"
    before = kept.stat().st_mtime_ns
    run(tmp_path, images, ends, "crashed", shard_rows=7, size_px=100)
    assert kept.stat().st_mtime_ns == before
    for path in sorted(whole.iterdir()):
        if path.is_file():
            assert (crashed / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_triplet_id_that_webdataset_would_cut_is_refused(tmp_path: Path, images: Artifact) -> None:
    folder = tmp_path / "odd"
    triplets_in(folder, [(0, 0)])
    [row] = read_rows(folder / "triplets.parquet", TRIPLETS_SCHEMA)
    write_table(folder / "triplets.parquet", TRIPLETS_SCHEMA, [row | {"triplet_id": "v1.0"}])
    with pytest.raises(StageError, match="holds a dot or a slash"):
        pack(PackSpec(), triplets=Artifact.of_folder(folder), images=images, out=tmp_path)


def test_no_triplets_make_an_empty_pack(tmp_path: Path, images: Artifact) -> None:
    rows, out = run(tmp_path, images, [])
    assert rows == []
    assert sorted(path.name for path in out.iterdir() if path.is_file()) == ["index.parquet", "rejects.parquet"]
