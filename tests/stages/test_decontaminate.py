from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.stages.albums import OUTPUTS, cropped, download_of, jpeg, keep_list_of, kept, rejected, saved, scaled, view
from zscir.data.images.shards import read_members, write_shard
from zscir.runtime.errors import RequestError, StageError
from zscir.stages.decontaminate import DecontaminateSpec, decontaminate
from zscir.stages.tabletop_benchmarks import tabletop_benchmarks
from zscir.store.artifacts import Artifact, remove_scratch_files
from zscir.tabletop.spec import TabletopBenchmarksSpec, TabletopSpec
from zscir.tabletop.web import web_jpeg

MIRROR = Image.Transpose.FLIP_LEFT_RIGHT


def run(tmp_path: Path, images: Artifact, benchmarks: list[Artifact], keep: Artifact | None = None, **spec: Any) -> Any:
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    facts = decontaminate(DecontaminateSpec(**spec), images=images, benchmarks=benchmarks, keep=keep, out=out)
    remove_scratch_files(out)
    assert {path.name for path in out.iterdir()} == OUTPUTS
    return facts


def loose(folder: Path, pictures: dict[str, bytes]) -> Artifact:
    for name, data in pictures.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return Artifact.of_folder(folder)


@pytest.fixture
def cirr(tmp_path: Path) -> Artifact:
    pictures = {f"cirr/images/dev/dev-{seed}.png": saved(view(seed), "PNG") for seed in range(3)}
    return loose(tmp_path / "cirr", pictures | {"cirr/captions/cap.rc2.val.json": b"[]"})


def test_near_duplicates_of_a_benchmark_go_mirrored_ones_too(tmp_path: Path, cirr: Artifact) -> None:
    images = download_of(
        tmp_path / "images",
        [
            jpeg(view(50)), jpeg(view(1), 60), jpeg(scaled(view(2), 2).transpose(MIRROR)), jpeg(view(51)),
            jpeg(view(0).convert("L").convert("RGB")), jpeg(cropped(view(0), 0.25)),
        ],
    )  # fmt: skip
    facts = run(tmp_path, images, [cirr])
    assert kept(tmp_path / "out") == [0, 3, 5]
    found = rejected(tmp_path / "out")
    assert {number: reason for number, (reason, _) in found.items()} == {
        1: "near_benchmark", 2: "near_benchmark_mirrored", 4: "near_benchmark",
    }  # fmt: skip
    assert found[1][1] in [f"distance {bits} from cirr/images/dev/dev-1.png" for bits in (0, 2, 4)]
    assert found[2][1].endswith("from cirr/images/dev/dev-2.png")
    assert facts == {
        "rows": 3, "images": 6, "rejects": 3,
        "rejects_by_reason": {"near_benchmark": 2, "near_benchmark_mirrored": 1},
        "benchmark_pictures": 3, "benchmark_unreadable": 0,
    }  # fmt: skip


def test_colours_may_count(tmp_path: Path, cirr: Artifact) -> None:
    grey, mirrored = view(0).convert("L").convert("RGB"), view(1).transpose(MIRROR)
    images = download_of(tmp_path / "images", [jpeg(grey), jpeg(mirrored)])
    run(tmp_path, images, [cirr], colours=20)
    assert kept(tmp_path / "out") == [0]
    assert rejected(tmp_path / "out")[1][0] == "near_benchmark_mirrored"


def test_several_benchmarks_in_tars_and_folders_are_looked_through(tmp_path: Path, cirr: Artifact) -> None:
    (tmp_path / "circo" / "circo").mkdir(parents=True)
    write_shard(
        tmp_path / "circo" / "circo" / "images.tar",
        [("unlabeled/000000000007.JPG", jpeg(view(7))), ("readme.txt", b"no picture")],
    )
    images = download_of(tmp_path / "images", [jpeg(view(7), 70), jpeg(view(2), 70), jpeg(view(9))])
    facts = run(tmp_path, images, [cirr, Artifact.of_folder(tmp_path / "circo")])
    assert facts["benchmark_pictures"] == 4
    found = rejected(tmp_path / "out")
    assert found[0][1].endswith("from benchmarks.1/circo/images.tar/unlabeled/000000000007.JPG")
    assert found[1][1].endswith("from benchmarks.0/cirr/images/dev/dev-2.png")


def test_the_nearest_picture_is_named(tmp_path: Path) -> None:
    pictures = {"a.jpg": jpeg(cropped(view(0), 0.02)), "b.jpg": jpeg(view(0), 90), "c.jpg": jpeg(view(0), 90)}
    images = download_of(tmp_path / "images", [jpeg(view(0), 90)])
    run(tmp_path, images, [loose(tmp_path / "bench", pictures)], radius=12)
    assert rejected(tmp_path / "out") == {0: ("near_benchmark", "distance 0 from b.jpg")}


def test_only_what_an_earlier_filter_kept_is_looked_at(tmp_path: Path, cirr: Artifact) -> None:
    images = download_of(tmp_path / "images", [jpeg(view(0)), jpeg(view(1)), jpeg(view(60)), b"no picture"])
    facts = run(tmp_path, images, [cirr], keep_list_of(tmp_path / "keep", [1, 2, 3]))
    assert (facts["images"], kept(tmp_path / "out")) == (3, [2])
    assert rejected(tmp_path / "out")[3][0] == "not_image"


def test_a_benchmark_without_pictures_is_refused(tmp_path: Path) -> None:
    images = download_of(tmp_path / "images", [jpeg(view(0))])
    with pytest.raises(RequestError, match=r"no picture .* which holds \['notes.txt'\]"):
        run(tmp_path, images, [loose(tmp_path / "bench", {"notes.txt": b"none here"})])


def test_a_benchmark_picture_that_cannot_be_decoded_stops_the_stage_unless_allowed(tmp_path: Path) -> None:
    images = download_of(tmp_path / "images", [jpeg(view(0)), jpeg(view(1))])
    bench = loose(tmp_path / "bench", {"bad.jpg": b"no picture", "good.jpg": jpeg(view(1))})
    with pytest.raises(
        StageError, match=r"1 of 2 benchmark pictures cannot be decoded.* 0 may be .*bad\.jpg \(not_image"
    ):
        run(tmp_path, images, [bench])
    facts = run(tmp_path, images, [bench], allow_unreadable=1)
    assert (facts["benchmark_unreadable"], kept(tmp_path / "out")) == (1, [0])


def test_the_tabletop_benchmarks_are_kept_away_from_a_training_set_that_holds_them(tmp_path: Path) -> None:
    (tmp_path / "bench").mkdir()
    sizes = {"fashioniq_queries": 4, "fashioniq_gallery": 10, "cirr_sets": 3, "cirr_test_sets": 2, "circo_queries": 3,
             "circo_test_queries": 2, "circo_gallery": 60, "genecis_queries": 3, "genecis_vg_images": 50}  # fmt: skip
    tabletop_benchmarks(TabletopBenchmarksSpec(**sizes), out=tmp_path / "bench")
    bench = Artifact.of_folder(tmp_path / "bench")
    leaked = [data for _, data in read_members(bench.path("cirr/images.tar"))][:10]
    world = TabletopSpec(scenes=60)
    images = download_of(tmp_path / "images", [*(web_jpeg(world, index) for index in range(60)), *leaked])
    run(tmp_path, images, [bench], radius=2)
    found = rejected(tmp_path / "out")
    assert set(range(60, 70)) <= set(found)
    assert all(found[number][1].startswith("distance 0 from cirr/") for number in range(60, 70))
    assert len(found) <= 13
