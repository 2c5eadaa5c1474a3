from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.stages.albums import (
    OUTPUTS,
    cropped,
    download_of,
    jpeg,
    keep_list_of,
    kept,
    lit,
    rejected,
    saved,
    scaled,
    view,
)
from zscir.data.images import fingerprints
from zscir.data.images.decode import decode_image
from zscir.stages.dedup_near import DedupNearSpec, dedup_near
from zscir.store.artifacts import Artifact, remove_scratch_files
from zscir.tabletop.spec import TabletopSpec
from zscir.tabletop.web import web_jpeg


def run(tmp_path: Path, images: Artifact, keep: Artifact | None = None, name: str = "out", **spec: Any) -> Any:
    out = tmp_path / name
    out.mkdir(exist_ok=True)
    facts = dedup_near(DedupNearSpec(**spec), images=images, keep=keep, out=out)
    remove_scratch_files(out)  # as the store does
    assert {path.name for path in out.iterdir()} == OUTPUTS
    return facts


def copies(image: Image.Image) -> list[bytes]:
    """The same picture as other pages would show it."""
    return [
        jpeg(image, 60), saved(image, "PNG"), saved(image, "WEBP", quality=70), jpeg(scaled(image, 0.5)),
        jpeg(scaled(image, 3)), jpeg(lit(image, 0.9)), jpeg(lit(image, 1.1)),
    ]  # fmt: skip


def others(image: Image.Image) -> list[bytes]:
    """Pictures that share much with it, and are not it."""
    return [
        jpeg(cropped(image, 0.2)), jpeg(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
        jpeg(image.transpose(Image.Transpose.ROTATE_90)), jpeg(Image.merge("RGB", image.split()[::-1])),
    ]  # fmt: skip


def test_copies_go_and_other_pictures_stay(tmp_path: Path) -> None:
    first = [jpeg(view(seed, 240, 180)) for seed in range(3)]
    same = [copy for seed in range(3) for copy in copies(view(seed, 240, 180))]
    else_ = [picture for seed in range(3) for picture in others(view(seed, 240, 180))]
    images = download_of(tmp_path / "images", [*first, *else_, *same])
    facts = run(tmp_path, images)
    assert kept(tmp_path / "out") == list(range(15))
    assert facts["rejects_by_reason"] == {"near_duplicate": 21}
    found = rejected(tmp_path / "out")
    assert [found[15 + number][1].split()[-1] for number in range(21)] == ["0"] * 7 + ["1"] * 7 + ["2"] * 7
    assert {found[number][1].split(" from ")[0] for number in range(15, 36)} <= {
        "distance 0", "distance 2", "distance 4",
    }  # fmt: skip


def test_the_radius_says_how_alike(tmp_path: Path) -> None:
    image = view(7)
    images = download_of(tmp_path / "images", [jpeg(image), jpeg(cropped(image, 0.02))])
    run(tmp_path, images, name="near", radius=0)
    assert kept(tmp_path / "near") == [0, 1]
    run(tmp_path, images, name="far", radius=12)
    assert kept(tmp_path / "far") == [0]


def test_the_same_form_in_another_colour_is_another_picture(tmp_path: Path) -> None:
    def dress(colour: tuple[int, int, int]) -> Image.Image:
        image = Image.new("RGB", (120, 160), "white")
        for box in ((37, 18, 81, 148), (12, 92, 101, 148), (12, 25, 40, 71), (75, 18, 110, 44)):
            image.paste(colour, box)
        return image

    images = download_of(tmp_path / "images", [jpeg(dress((200, 30, 30))), jpeg(dress((30, 30, 200)))])
    run(tmp_path, images, name="coloured")
    assert kept(tmp_path / "coloured") == [0, 1]
    run(tmp_path, images, name="grey", colours=255)
    assert kept(tmp_path / "grey") == [0]


def test_images_that_cannot_be_decoded_are_rejects_of_their_own(tmp_path: Path) -> None:
    images = download_of(tmp_path / "images", [b"no picture", b"no picture", jpeg(view(0))])
    facts = run(tmp_path, images)
    assert kept(tmp_path / "out") == [2]
    assert facts["rejects_by_reason"] == {"not_image": 2}


def test_only_what_an_earlier_filter_kept_is_compared(tmp_path: Path) -> None:
    images = download_of(tmp_path / "images", [jpeg(view(0)), jpeg(view(0), 70), jpeg(view(0), 80), jpeg(view(1))])
    run(tmp_path, images, keep_list_of(tmp_path / "keep", [1, 2, 3]))
    assert kept(tmp_path / "out") == [1, 3]
    assert list(rejected(tmp_path / "out")) == [2]


def test_a_killed_run_makes_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprints, "PART_IMAGES", 3)
    images = download_of(tmp_path / "images", [jpeg(view(seed % 5), 60 + seed) for seed in range(10)])
    run(tmp_path, images, name="whole")
    made: list[int] = []
    original = fingerprints._fingerprint_part

    def dying(part: Any, pool: Any) -> Any:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(len(part))
        return original(part, pool)

    monkeypatch.setattr(fingerprints, "_fingerprint_part", dying)
    with pytest.raises(KeyboardInterrupt):
        dedup_near(DedupNearSpec(), images=images, out=tmp_path / "killed")
    monkeypatch.setattr(fingerprints, "_fingerprint_part", original)
    run(tmp_path, images, name="killed")
    for name in OUTPUTS:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_in_the_tabletop_world_copies_are_found_and_few_scenes_are_taken_for_another(tmp_path: Path) -> None:
    """Its scenes are alike as few photographs are: one to four plain things on five plain grounds."""
    world = TabletopSpec(scenes=400)
    scenes = [web_jpeg(world, index) for index in range(400)]
    again = [jpeg(decode_image(scene), 60) for scene in scenes[:100]]
    images = download_of(tmp_path / "images", [*scenes, *again])
    run(tmp_path, images)
    taken = rejected(tmp_path / "out")
    assert sum(number >= 400 for number in taken) >= 95
    assert sum(number < 400 for number in taken) <= 6
