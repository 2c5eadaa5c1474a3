from pathlib import Path
from typing import Any

import pytest

from tests.stages.albums import OUTPUTS, download_of, keep_list_of, kept, rejected
from zscir.runtime.errors import RequestError
from zscir.stages.filter_size import FilterSizeSpec, filter_size
from zscir.store.artifacts import Artifact

SIZES = [(640, 480), (63, 900), (64, 64), (1000, 199), (199, 1000), (5000, 4000), (None, None)]
STORED = [(256, 192), (63, 900), (64, 64), (256, 51), (51, 256), (256, 205), (80, 80)]


@pytest.fixture
def images(tmp_path: Path) -> Artifact:
    names = ("original_width", "original_height", "width", "height")
    columns = zip(*[(*original, *stored) for original, stored in zip(SIZES, STORED, strict=True)], strict=True)
    return download_of(tmp_path / "images", [b"x"] * len(SIZES), **dict(zip(names, map(list, columns), strict=True)))


def run(tmp_path: Path, images: Artifact, keep: Artifact | None = None, **spec: Any) -> dict[str, Any]:
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    facts = filter_size(FilterSizeSpec.parse(spec, "t"), images=images, keep=keep, out=out)
    assert {path.name for path in out.iterdir()} == OUTPUTS
    return facts


def test_by_default_tiny_and_very_long_images_go(tmp_path: Path, images: Artifact) -> None:
    facts = run(tmp_path, images)
    assert kept(tmp_path / "out") == [0, 2, 5]
    assert rejected(tmp_path / "out") == {
        1: ("small_side", "63 x 900; at least 64 on each side"),
        3: ("aspect", "1000 x 199; at most 5 to 1"),
        4: ("aspect", "199 x 1000; at most 5 to 1"),
        6: ("unknown_size", "the download does not say the original size"),
    }
    assert facts == {
        "rows": 3, "images": 7, "rejects": 4, "rejects_by_reason": {"aspect": 2, "small_side": 1, "unknown_size": 1},
    }  # fmt: skip


def test_the_stored_size_may_count_instead(tmp_path: Path, images: Artifact) -> None:
    run(tmp_path, images, of="stored", max_aspect=100.0)
    assert kept(tmp_path / "out") == [0, 2, 5, 6]
    assert rejected(tmp_path / "out")[3] == ("small_side", "256 x 51; at least 64 on each side")


@pytest.mark.parametrize(
    ("spec", "gone", "reason"),
    [
        ({"max_side_px": 1000}, {5}, "large_side"),
        ({"min_side_px": 65}, {1, 2}, "small_side"),
        ({"min_pixels": 64 * 64 + 1}, {2}, "few_pixels"),
        ({"min_pixels": 64 * 64}, set(), "few_pixels"),
        ({"max_aspect": 1.0}, {0, 1, 3, 4, 5}, "aspect"),
    ],
)
def test_a_bound_takes_what_is_beyond_it(
    tmp_path: Path, images: Artifact, spec: dict[str, Any], gone: set[int], reason: str
) -> None:
    run(tmp_path, images, **({"min_side_px": 1, "max_aspect": 1000.0} | spec))
    assert {number for number, (why, _) in rejected(tmp_path / "out").items() if why == reason} == gone


def test_only_what_an_earlier_filter_kept_is_looked_at(tmp_path: Path, images: Artifact) -> None:
    facts = run(tmp_path, images, keep_list_of(tmp_path / "keep", [1, 2, 5]))
    assert (facts["images"], kept(tmp_path / "out"), list(rejected(tmp_path / "out"))) == (3, [2, 5], [1])


@pytest.mark.parametrize("spec", [{"min_side_px": 0}, {"max_aspect": 0.9}, {"min_side_px": 9, "max_side_px": 8}])
def test_bounds_that_make_no_sense_are_refused(spec: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        FilterSizeSpec.parse(spec, "t")
