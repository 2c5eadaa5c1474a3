"""Vectors of benchmark images: complete, or what is missing is reported all the way to the table."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.evaluation import squares
from zscir.evaluation.annotations import load_benchmark_parts
from zscir.evaluation.specs import BenchmarkEntry
from zscir.runtime.errors import RequestError, StageError
from zscir.stages.embed_benchmarks import EmbedBenchmarksSpec, embed_benchmarks
from zscir.stages.evaluate import EvaluateSpec, evaluate
from zscir.store.artifacts import Artifact

IDS = [f"dev-{n}" for n in range(9)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return squares.clip_checkpoint(tmp_path_factory.mktemp("clip") / "clip")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """CIRR's images, loose, to be spoilt."""
    return squares.benchmarks(tmp_path / "benchmarks", loose=True) / "cirr/images"


def embedded(clip: Artifact, images: Path, out: Path, **fields: Any) -> dict[str, Any]:
    out.mkdir(exist_ok=True)
    spec = EmbedBenchmarksSpec.parse({"benchmarks": ["cirr"], **fields}, "test")
    return embed_benchmarks(spec, backbone=clip, benchmarks=Artifact.of_folder(images.parents[1]), out=out)


def scored(clip: Artifact, images: Path, out: Path, gallery: Path | None, **fields: Any) -> list[dict[str, Any]]:
    out.mkdir()
    spec = EvaluateSpec.parse({"benchmarks": [{"name": "cirr", **fields}], "control": "sum", "weight": 1.0}, "test")
    vectors = None if gallery is None else Artifact.of_folder(gallery)
    evaluate(spec, checkpoint=clip, benchmarks=Artifact.of_folder(images.parents[1]), gallery=vectors, out=out)
    rows: list[dict[str, Any]] = pq.read_table(out / "intervals.parquet").to_pylist()
    return rows


def test_missing_and_broken_images_are_listed_with_where_to_get_them(
    clip: Artifact, images: Path, tmp_path: Path
) -> None:
    (images / "dev-3.png").unlink()
    with pytest.raises(
        StageError, match=r"cirr: 1 of 9 images .*: dev-3 \(missing\)\. data_specs/benchmarks/cirr.toml .* NLVR2's"
    ):
        embedded(clip, images, tmp_path / "o")
    (images / "dev-3.png").write_bytes(b"<html>404</html>")
    (images / "dev-8.png").write_bytes(squares.picture(3)[:99])
    with pytest.raises(StageError, match=r"cirr: 2 of 9 images .*, none may be missing .*: dev-3 \(.*dev-8 \("):
        embedded(clip, images, tmp_path / "o")
    with pytest.raises(StageError, match=r"2 of 9 images .*, 1 may be missing: dev-3"):
        embedded(clip, images, tmp_path / "o", allow_missing={"cirr": 1})
    assert not (tmp_path / "o/cirr.npy").exists()


def test_an_allowed_gap_is_in_the_facts_the_vectors_and_the_table(clip: Artifact, images: Path, tmp_path: Path) -> None:
    (images / "dev-4.png").write_bytes(b"nothing")
    (images / "dev-8.png").unlink()
    out = tmp_path / "gallery"
    facts = embedded(clip, images, out, allow_missing={"cirr": 3})
    assert facts == {"rows": 7, "cirr": 7, "cirr missing": 2}
    assert np.load(out / "cirr.npy").shape[0] == 7
    assert pq.read_table(out / "cirr.parquet").column("image_id").to_pylist() == [
        image_id for image_id in IDS if image_id not in ("dev-4", "dev-8")
    ]
    absent = {row["image_id"]: row["reason"] for row in pq.read_table(out / "cirr.absent.parquet").to_pylist()}
    assert absent.keys() == {"dev-8", "dev-4"}
    assert absent["dev-8"] == "missing"
    rows = scored(clip, images, tmp_path / "with", out, allow_missing=2)
    assert rows == scored(clip, images, tmp_path / "without", None, allow_missing=2)
    assert {row["protocol"].split("/")[0] for row in rows} == {"official without 2 images"}
    assert {row["n"] for row in rows} == {3}
    for allowed in ({}, {"allow_missing": 1}):
        with pytest.raises(StageError, match=r"cirr: 2 of 9 images are missing .*dev-8 \(missing\)"):
            scored(clip, images, tmp_path / f"refused{len(allowed)}", out, **allowed)


def test_an_allowance_that_nobody_needs_leaves_the_same_bytes(clip: Artifact, images: Path, tmp_path: Path) -> None:
    strict = embedded(clip, images, tmp_path / "a")
    assert embedded(clip, images, tmp_path / "b", allow_missing={"cirr": 3}) == strict == {"rows": 9, "cirr": 9}
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["cirr.npy", "cirr.parquet", "mark.json"]
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)


def test_not_even_an_allowance_makes_a_benchmark_of_nothing(clip: Artifact, images: Path, tmp_path: Path) -> None:
    for path in images.iterdir():
        path.write_bytes(b"nothing")
    with pytest.raises(StageError, match="cirr: none of its 9 images is there and can be read"):
        embedded(clip, images, tmp_path / "o", allow_missing={"cirr": 99})
    shutil.rmtree(images)
    with pytest.raises(StageError, match="cirr: none of its 9 images is there and can be read"):
        embedded(clip, images, tmp_path / "o", allow_missing={"cirr": 99})


def test_more_images_may_be_missing_than_queries_are_left(clip: Artifact, images: Path, tmp_path: Path) -> None:
    for number in (2, 6, 7, 8):  # dev-2 is one query's target and another's reference: two of four are left
        (images / f"dev-{number}.png").unlink()
    embedded(clip, images, tmp_path / "gallery", allow_missing={"cirr": 4})
    rows = scored(clip, images, tmp_path / "o", tmp_path / "gallery", allow_missing=4)
    assert {(row["protocol"].split("/")[0], row["n"]) for row in rows} == {("official without 4 images", 2)}
    spec = EvaluateSpec.parse({"benchmarks": [{"name": "cirr", "allow_missing": 4}]}, "test")
    (tmp_path / "composed").mkdir()
    evaluate(spec, checkpoint=clip, benchmarks=Artifact.of_folder(images.parents[1]), out=tmp_path / "composed")
    composed = pq.read_table(tmp_path / "composed/intervals.parquet").to_pylist()
    assert [row["value"] for row in composed] == [row["value"] for row in rows]  # clip's own method is the sum


def test_an_embedding_that_goes_on_after_a_crash_gives_the_same_facts(
    clip: Artifact, images: Path, tmp_path: Path
) -> None:
    (images / "dev-4.png").unlink()
    facts = embedded(clip, images, tmp_path / "o", allow_missing={"cirr": 1})
    before = {path.name: path.read_bytes() for path in (tmp_path / "o").iterdir()}
    (tmp_path / "o/mark.json").unlink()
    assert embedded(clip, images, tmp_path / "o", allow_missing={"cirr": 1}) == facts
    assert {path.name: path.read_bytes() for path in (tmp_path / "o").iterdir()} == before


def test_the_allowance_is_in_the_key_and_its_absence_is_not() -> None:
    assert "allow_missing" not in EmbedBenchmarksSpec().literals()
    spec = EmbedBenchmarksSpec.parse({"allow_missing": {"circo": 2}}, "test")
    assert spec.literals()["allow_missing"] == {"circo": 2}
    for wrong in ({"circo": 0}, {"flickr": 1}, 3):
        with pytest.raises(RequestError, match="allow_missing"):
            EmbedBenchmarksSpec.parse({"allow_missing": wrong}, "test")


def test_vectors_of_another_split_do_not_count_as_missing_images(clip: Artifact, images: Path, tmp_path: Path) -> None:
    embedded(clip, images, tmp_path / "gallery")
    table = tmp_path / "gallery/cirr.parquet"
    names = pq.read_table(table)
    pq.write_table(names.set_column(0, "image_id", [[f"x{n}" for n in range(9)]]).cast(names.schema), table)
    with pytest.raises(RequestError, match="the input 'gallery' lacks 9 images"):
        scored(clip, images, tmp_path / "o", tmp_path / "gallery", allow_missing=9)


def test_annotations_that_are_official_only_in_part_are_refused_before_any_image_is_read(
    shared: Path, tmp_path: Path
) -> None:
    for file in ("captions/cap.rc2.val.json", "image_splits/split.rc2.val.json"):
        (tmp_path / "cirr" / file).parent.mkdir(parents=True)
        shutil.copy(shared / "annotations/CIRR" / file, tmp_path / "cirr" / file)
    (bench,) = load_benchmark_parts(Artifact.of_folder(tmp_path), BenchmarkEntry(name="cirr"))
    assert len(bench.queries) == 4181
    path = tmp_path / "cirr/image_splits/split.rc2.val.json"
    path.write_text(path.read_text().replace("dev-", "dev-", 1) + " ")
    with pytest.raises(RequestError, match=r"1 annotation files were altered:\n  image_splits/split.rc2.val.json"):
        load_benchmark_parts(Artifact.of_folder(tmp_path), BenchmarkEntry(name="cirr"))
