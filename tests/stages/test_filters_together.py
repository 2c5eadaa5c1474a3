from pathlib import Path

import pytest

from tests.stages.albums import download_of, jpeg, kept, saved, scaled, view
from tests.support.toy_pipelines import run_toy
from tests.support.toys import store_at
from zscir.pipeline.pipeline_file import load_pipeline
from zscir.pipeline.run import Run
from zscir.pipeline.stage import stage_key
from zscir.report.run_data import read_record
from zscir.report.steps_table import step_table_rows
from zscir.runtime.schemas import TRIPLETS_SCHEMA, read_rows
from zscir.runtime.settings import data_specs
from zscir.stages.mask_triplets import MaskSpec, mask_triplets
from zscir.store.artifacts import Artifact, make_key
from zscir.store.store import Store

STEPS = """
name = "filters"
steps = [
  { stage = "filter_size", inputs = { images = "file:images" } },
  { stage = "filter_text", inputs = { images = "file:images", keep = "filter_size" } },
  { stage = "dedup_exact", inputs = { images = "file:images", keep = "filter_text" } },
  { stage = "dedup_near", inputs = { images = "file:images", keep = "dedup_exact" } },
  { stage = "decontaminate", inputs = { images = "file:images", keep = "dedup_near", benchmarks = ["file:bench"] } },
  { stage = "mask_triplets", inputs = { images = "file:images", keep = "decontaminate" } },
]
"""
FILTERS = ["filter_size", "filter_text", "dedup_exact", "dedup_near", "decontaminate"]


@pytest.fixture
def filtered(tmp_path: Path) -> tuple[Store, Run]:
    """Ten pictures, one of them not downloaded: one or two for each filter to leave out, and two that stay."""
    pictures = [
        jpeg(view(0)), jpeg(view(1, 40, 40)), jpeg(view(2)), jpeg(view(0)), jpeg(scaled(view(0), 0.5)), jpeg(view(5)),
        None, jpeg(view(7)), jpeg(view(1, 40, 40)), jpeg(view(5), 60),
    ]  # fmt: skip
    sides = [40 if number in (1, 8) else 160 for number in range(10)]
    texts = {2: ["IMG_0002.jpg"], 7: ["a fine view", "the same view in the morning"]}
    download_of(
        tmp_path / "images", pictures, lambda number: texts.get(number, ["a view"]), original_width=sides,
        original_height=sides,
    )  # fmt: skip
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "gallery.png").write_bytes(saved(view(5), "PNG"))
    (tmp_path / "filters.toml").write_text(STEPS)
    store = store_at(tmp_path / "store", tmp_path / "cache")
    return store, run_toy(store, tmp_path / "filters.toml")


def folder(made: Artifact, name: str) -> Path:
    return made.path(name).parent


def test_each_filter_looks_at_what_the_one_before_it_left(filtered: tuple[Store, Run]) -> None:
    _, run = filtered
    left = {name: kept(folder(run.artifacts[name], "keep.parquet")) for name in FILTERS}
    assert left == {
        "filter_size": [0, 2, 3, 4, 5, 7, 9],
        "filter_text": [0, 3, 4, 5, 7, 9],
        "dedup_exact": [0, 4, 5, 7, 9],
        "dedup_near": [0, 5, 7],
        "decontaminate": [0, 7],
    }
    triplets = read_rows(run.artifacts["mask_triplets"].path("triplets.parquet"), TRIPLETS_SCHEMA)
    assert [row["text"] for row in triplets] == ["a view", "a fine view", "the same view in the morning"]


def test_the_report_shows_what_each_filter_kept_and_left_out_of_what_it_looked_at(filtered: tuple[Store, Run]) -> None:
    store, run = filtered
    rows = {row.step.name: row for row in step_table_rows(read_record(store, run.run_id))}
    assert [(rows[name].rows, rows[name].rejects, rows[name].rejected_from) for name in FILTERS] == [
        (7, 2, 9), (6, 1, 7), (5, 1, 6), (3, 2, 5), (2, 1, 3),
    ]  # fmt: skip
    assert [(reason.name, reason.count) for reason in rows["dedup_near"].reasons] == [("near_duplicate", 2)]
    assert rows["decontaminate"].facts["benchmark_pictures"] == "1"


def test_a_changed_bound_makes_again_only_what_comes_after_it(filtered: tuple[Store, Run], tmp_path: Path) -> None:
    store, _ = filtered
    again = run_toy(store, tmp_path / "filters.toml", "dedup_near.radius=0")
    outcomes = {row["step"]: row["outcome"] for row in again.recorder.steps()}
    assert {name: outcomes[name] for name in FILTERS} == {
        "filter_size": "reused", "filter_text": "reused", "dedup_exact": "reused", "dedup_near": "made",
        "decontaminate": "made",
    }  # fmt: skip


def test_a_choice_moves_no_key_of_a_stage_that_is_given_none(tmp_path: Path) -> None:
    images = download_of(tmp_path / "images", [jpeg(view(0))])
    assert stage_key(mask_triplets, MaskSpec(), {"images": images}) == make_key(
        "mask_triplets", 1, MaskSpec(), {"images": images.digest}
    )


def test_own_lists_are_filtered_before_anything_is_made_of_them() -> None:
    steps = {step.name: step for step in load_pipeline(data_specs() / "pipelines" / "own.toml").steps}
    chain = ["filter_size", "filter_text", "dedup_exact", "dedup_near"]
    assert [steps[name].inputs.get("keep") for name in chain] == [None, *chain[:-1]]
    assert steps["mask_triplets"].inputs["keep"] == steps["embed"].inputs["keep"] == chain[-1]
