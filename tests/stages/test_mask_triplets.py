from hashlib import sha256
from pathlib import Path

import pytest

from zscir.runtime.errors import RequestError
from zscir.runtime.schemas import IMAGES_SCHEMA, KEEP_SCHEMA, TRIPLETS_SCHEMA, read_rows, write_table
from zscir.stages import mask_triplets as module
from zscir.stages.mask_triplets import MaskSpec, mask_triplets
from zscir.store.artifacts import Artifact


def images(folder: Path, statuses: list[str]) -> Artifact:
    folder.mkdir()
    rows = []
    for number, status in enumerate(statuses):
        url, text = f"http://a.test/{number}.jpg", f"caption {number}"
        rows.append(
            {"image_key": sha256(url.encode()).hexdigest(), "pair_id": f"{number:032d}", "url": url, "text": text,
             "status": status, "attempts": 1}
        )  # fmt: skip
    write_table(folder / "images.parquet", IMAGES_SCHEMA, rows)
    return Artifact.of_folder(folder)


def run(out: Path, artifact: Artifact, spec: MaskSpec) -> dict[str, object]:
    out.mkdir(exist_ok=True)
    return mask_triplets(spec, images=artifact, out=out)


def test_every_downloaded_image_becomes_one_masked_triplet_of_itself(tmp_path: Path) -> None:
    artifact = images(tmp_path / "images", ["ok", "failed", "ok"])
    facts = run(tmp_path / "out", artifact, MaskSpec(ratio=0.6, seed=5))
    assert facts == {"rows": 2, "pairs": 3, "without_image": 1}
    first, second = read_rows(tmp_path / "out" / "triplets.parquet", TRIPLETS_SCHEMA)
    assert first["source"] == "masked"
    assert first["reference_key"] == first["target_key"] == sha256(b"http://a.test/0.jpg").hexdigest()
    assert (first["text"], first["mask_seed"], first["mask_ratio"]) == ("caption 0", 5, 0.6)
    assert first["response_id"] is None
    assert second["text"] == "caption 2"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["triplets.parquet"]


def test_equal_inputs_give_equal_bytes_and_another_seed_other_ids(tmp_path: Path) -> None:
    artifact = images(tmp_path / "images", ["ok"] * 50)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(tmp_path / name, artifact, MaskSpec(seed=seed))
    a, b, c = ((tmp_path / name / "triplets.parquet") for name in "abc")
    assert a.read_bytes() == b.read_bytes()
    ids = [{row["triplet_id"] for row in read_rows(path, TRIPLETS_SCHEMA)} for path in (a, c)]
    assert len(ids[0]) == 50
    assert not ids[0] & ids[1]


def test_tables_longer_than_a_batch_are_streamed_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MASK_BATCH_ROWS", 7)
    facts = run(tmp_path / "out", images(tmp_path / "images", ["ok", "failed"] * 20), MaskSpec())
    assert facts["rows"] == 20
    assert [row["text"] for row in read_rows(tmp_path / "out" / "triplets.parquet", TRIPLETS_SCHEMA)][
        -1
    ] == "caption 38"


def kept(folder: Path, numbers: list[int]) -> Artifact:
    folder.mkdir()
    keys = [sha256(f"http://a.test/{number}.jpg".encode()).hexdigest() for number in numbers]
    write_table(folder / "keep.parquet", KEEP_SCHEMA, [{"image_key": key} for key in keys])
    return Artifact.of_folder(folder)


def test_only_the_images_that_a_filter_kept_are_masked(tmp_path: Path) -> None:
    artifact = images(tmp_path / "images", ["ok", "failed", "ok", "ok"])
    (tmp_path / "out").mkdir()
    facts = mask_triplets(MaskSpec(), images=artifact, keep=kept(tmp_path / "keep", [0, 3]), out=tmp_path / "out")
    assert facts == {"rows": 2, "pairs": 4, "without_image": 1, "left_out_by_filters": 1}
    assert [row["text"] for row in read_rows(tmp_path / "out" / "triplets.parquet", TRIPLETS_SCHEMA)] == [
        "caption 0",
        "caption 3",
    ]


def test_the_choice_of_another_download_is_refused(tmp_path: Path) -> None:
    artifact = images(tmp_path / "images", ["ok", "failed"])
    (tmp_path / "out").mkdir()
    with pytest.raises(RequestError, match="mask_triplets: 1 images of 'keep' were not downloaded"):
        mask_triplets(MaskSpec(), images=artifact, keep=kept(tmp_path / "keep", [0, 1]), out=tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_no_images_give_an_empty_table(tmp_path: Path) -> None:
    assert run(tmp_path / "out", images(tmp_path / "images", []), MaskSpec())["rows"] == 0


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.5])
def test_a_mask_hides_some_patches_but_not_all(ratio: float) -> None:
    with pytest.raises(RequestError, match="ratio"):
        MaskSpec.parse({"ratio": ratio}, "x.toml")
