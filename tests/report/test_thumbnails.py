import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.small_run import shared_store
from zscir.benchmarks import benchmark_info
from zscir.methods.masks import kept_patches
from zscir.methods.specs import ModelPixelSpec
from zscir.report.benchmark_thumbnails import BenchmarkThumbnails
from zscir.report.masked_examples import masked_sheets, patches_of
from zscir.report.run_data import read_record
from zscir.report.thumbnails import (
    GREY,
    STRIPE,
    THUMB_PX,
    PatchGrid,
    StoredImages,
    Thumbnail,
    enlarge_to_thumbnail,
    make_thumbnail,
    masked_thumbnail,
    read_shard_member,
)
from zscir.report.triplet_examples import pair_sheets, triplet_sheets
from zscir.store.artifacts import Artifact


def image_of(picture: Thumbnail) -> np.ndarray:
    head, _, text = picture.uri.partition(",")
    assert head in ("data:image/jpeg;base64", "data:image/png;base64")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB"))


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def test_a_thumbnail_is_small_and_keeps_its_shape() -> None:
    picture = make_thumbnail(encoded(Image.new("RGB", (800, 400), "red")), "a red board")
    assert (picture.width, picture.height) == (THUMB_PX, THUMB_PX // 2)
    assert image_of(picture).shape == (THUMB_PX // 2, THUMB_PX, 3)
    assert picture.alt == "a red board"
    assert len(picture.uri) < 4000


def test_a_small_picture_is_not_blown_up() -> None:
    picture = make_thumbnail(encoded(Image.new("RGB", (40, 30))), "")
    assert (picture.width, picture.height) == (40, 30)


@pytest.mark.parametrize("data", [b"", b"<html>", encoded(Image.new("RGB", (90, 90)), "JPEG")[:300]])
def test_what_is_no_picture_says_why(data: bytes) -> None:
    picture = make_thumbnail(data, "words")
    assert (picture.uri, picture.alt) == ("", "words")
    assert picture.problem in ("not_image", "bad_image")


def test_a_picture_of_too_many_pixels_is_not_unfolded() -> None:
    assert make_thumbnail(encoded(Image.new("L", (9000, 9000))), "").problem == "too_many_pixels"


def test_the_model_sees_exactly_the_patches_that_the_mask_keeps() -> None:
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 2, (8, 8, 3), dtype=np.uint8) * 255
    whole = Image.fromarray(np.kron(colours, np.ones((8, 8, 1), dtype=np.uint8)))
    patches = PatchGrid(ModelPixelSpec(size_px=64), 8)
    shown = image_of(masked_thumbnail(whole, patches, (7, 3, "key"), 0.75, ""))
    side = shown.shape[0] // 8
    assert shown.shape == (128, 128, 3)
    kept = set(kept_patches([7], 3, ["key"], 64, 0.75)[0].tolist())
    for patch in range(64):
        row, column = divmod(patch, 8)
        square = shown[row * side : (row + 1) * side, column * side : (column + 1) * side]
        assert np.isin(square, (GREY, STRIPE)).all() == (patch not in kept)
        assert (square == colours[row, column]).all() == (patch in kept)
    assert len(kept) == 16


def test_a_large_square_is_brought_to_thumbnail_size() -> None:
    assert enlarge_to_thumbnail(Image.new("RGB", (224, 224)), "").width == THUMB_PX


def test_a_span_outside_of_the_artifact_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "00000.tar").write_bytes(b"x" * 10)
    (tmp_path.parent / "secret").write_bytes(b"secret")
    artifact = Artifact.of_folder(tmp_path)
    assert read_shard_member(artifact, "00000.tar", 2, 3) == b"xxx"
    for shard, offset, size in (
        ("../secret", 0, 6),
        ("00000.tar", -1, 3),
        ("00000.tar", 0, -1),
        ("00000.tar", 0, 1 << 40),
    ):
        assert read_shard_member(artifact, shard, offset, size) is None


def test_pairs_are_spread_over_the_list_and_failed_ones_left_out() -> None:
    (sheet,) = pair_sheets(read_record(shared_store(), "latest"))
    assert len(sheet.cards) == 18
    assert all(card.pictures[0].picture.uri for card in sheet.cards)
    assert "http://tabletop.test/3/0.jpg" in sheet.cards[0].detail


def test_masked_triplets_are_drawn_as_the_training_reads_them() -> None:
    record = read_record(shared_store(), "latest")
    patches, origin = patches_of(record)
    assert (patches.grid, patches.patch_px, origin) == (8, 8, "As step train_pli sees them")
    (sheet,) = masked_sheets(record)
    assert len(sheet.cards) == 8
    assert [shot.label for shot in sheet.cards[0].pictures] == ["epoch 1", "epoch 2", "target"]
    one, two, whole = (image_of(shot.picture) for shot in sheet.cards[0].pictures)
    hidden = [np.isin(shown, (GREY, STRIPE)).all(axis=2).mean() for shown in (one, two)]
    assert hidden == pytest.approx([0.75, 0.75], abs=0.02)
    assert (one != two).any()
    assert np.isin(whole, (GREY, STRIPE)).all(axis=2).mean() < 0.05


def test_triplets_show_reference_text_and_target() -> None:
    (sheet,) = triplet_sheets(read_record(shared_store(), "latest"))
    assert len(sheet.cards) == 12
    for card in sheet.cards:
        reference, target = card.pictures
        assert (reference.frame, target.frame) == ("reference", "right")
        assert card.text.startswith("change it to")
        assert reference.picture.uri != target.picture.uri


def test_images_that_are_nowhere_say_so() -> None:
    (download,) = read_record(shared_store(), "latest").artifacts_of("download")
    picture = StoredImages([download]).picture("f" * 64, "words")
    assert (picture.uri, picture.problem) == ("", "not in the store")


@pytest.mark.parametrize(
    ("benchmark", "image_id", "name", "box"),
    [
        ("cirr", "dev-1-2-img0", "dev-1-2-img0", None),
        ("genecis", "285468", "coco/000000285468.jpg", None),
        ("genecis", "2378121[10,20.5,30,40]", "vg/2378121.jpg", (10.0, 20.5, 30.0, 40.0)),
        ("genecis", "odd[1,2,x,4]", "vg/odd.jpg", None),
    ],
)
def test_ids_of_rankings_name_files(benchmark: str, image_id: str, name: str, box: object) -> None:
    images = benchmark_info(benchmark).images
    assert images.indexed_name(image_id) == name
    assert images.region_box(image_id) == box


def test_a_region_is_cut_from_its_image(tmp_path: Path) -> None:
    folder = tmp_path / "genecis" / "images" / "vg"
    folder.mkdir(parents=True)
    image = Image.new("RGB", (100, 100), "blue")
    image.paste("red", (40, 40, 60, 60))
    (folder / "7.jpg").write_bytes(encoded(image, "JPEG"))
    gallery = BenchmarkThumbnails(Artifact.of_folder(tmp_path), "genecis")
    red = image_of(gallery.picture("7[54,54,10,10]", ""))  # GeneCIS grows the box to the left and top
    assert red.shape[:2] == (17, 17)
    assert red[8, 8, 0] > 200
    assert red[8, 8, 2] < 60
    assert gallery.picture("7[500,500,9,9]", "words").uri == ""
    assert gallery.picture("8[1,1,9,9]", "words").problem == "no image of 8[1,1,9,9]"


def test_loose_images_of_circo_are_found_by_their_number(tmp_path: Path) -> None:
    folder = tmp_path / "circo" / "images"
    folder.mkdir(parents=True)
    (folder / "000000000042.jpg").write_bytes(encoded(Image.new("RGB", (50, 50)), "JPEG"))
    assert BenchmarkThumbnails(Artifact.of_folder(tmp_path), "circo").picture("42", "").uri
