import json
import platform
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.small_run import FailSpec, PlainSpec, RecordedRun, download, embed, ingest, new_store
from zscir.lineage.recorder import Recorder, RunInfo
from zscir.pipeline.pipeline_file import load_pipeline
from zscir.report.run_data import RunRecord, external_artifact, read_record
from zscir.report.summary import alarm_of, bars_of, run_duration_s
from zscir.runtime.errors import RequestError, ZscirError
from zscir.store.store import Store

PIPELINE = """
name = "p"
[[steps]]
stage = "tabletop"
spec = { scenes = 4 }
[[steps]]
stage = "ingest"
spec = { source = "tabletop" }
inputs = { urls = "tabletop" }
[[steps]]
stage = "download"
inputs = { pairs = "ingest" }
"""


def begun(store: Store, pipeline: Path, digest: str | None = None, **config: Any) -> Recorder:
    request = {"pipeline": str(pipeline), "set": [], "only": None, "from": None, **config}
    info = RunInfo(
        "20260101-000000-aaaaaa", "p", digest or load_pipeline(pipeline).digest(), "cli", json.dumps(request)
    )
    recorder = Recorder(store, info)
    with pytest.raises(ZscirError), recorder.step("tabletop", "tabletop"):
        raise ZscirError("the disk is full")
    recorder.finish("failed")
    return recorder


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    path = tmp_path / "p.toml"
    path.write_text(PIPELINE)
    return path


def names(record: RunRecord) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(step.name, step.outcome, step.parents) for step in record.steps]


def test_steps_that_were_not_reached_wait_at_the_end(tmp_path: Path, pipeline: Path) -> None:
    store = Store(str(tmp_path / "store"), tmp_path / "cache")
    begun(store, pipeline)
    assert names(read_record(store, "latest")) == [
        ("tabletop", "failed", ()), ("ingest", "waiting", ("tabletop",)), ("download", "waiting", ("ingest",)),
    ]  # fmt: skip


def test_a_pipeline_that_has_changed_since_is_not_believed(tmp_path: Path, pipeline: Path) -> None:
    store = Store(str(tmp_path / "store"), tmp_path / "cache")
    begun(store, pipeline)
    pipeline.write_text(PIPELINE.replace("scenes = 4", "scenes = 5"))
    assert names(read_record(store, "latest")) == [("tabletop", "failed", ())]
    pipeline.unlink()
    assert names(read_record(store, "latest")) == [("tabletop", "failed", ())]


def test_a_part_of_a_pipeline_does_not_wait_for_the_rest(tmp_path: Path, pipeline: Path) -> None:
    store = Store(str(tmp_path / "store"), tmp_path / "cache")
    begun(store, pipeline, only="tabletop")
    assert names(read_record(store, "latest")) == [("tabletop", "failed", ())]


def test_a_run_of_later_steps_finds_the_pictures_of_the_run_before() -> None:
    store = new_store("later")
    first = RecordedRun(store, "20260101-000000-aaaaaa")
    pairs = first.step("ingest", ingest, PlainSpec())
    images = first.step("download", download, PlainSpec(), pairs=pairs)
    first.recorder.finish("succeeded")
    second = RecordedRun(store, "20260101-000001-aaaaaa", parent="20260101-000000-aaaaaa")
    from zscir.stages.mask_triplets import MaskSpec, mask_triplets

    second.step("mask_triplets", mask_triplets, MaskSpec(), images=images)
    second.recorder.finish("succeeded")
    record = read_record(store, second.recorder.run_id)
    assert [step.name for step in record.steps] == ["mask_triplets"]
    assert [artifact.key for artifact in record.artifacts_of("download")] == [images.key]
    assert [
        ancestor.stage for ancestor in record.library.ancestors(record.steps_with_artifact("mask_triplets")[0][1])
    ] == ["download", "ingest"]


def test_an_unknown_run_is_named_and_the_newest_are_listed(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no run with id 'nope'"):
        read_record(Store(str(tmp_path / "store"), tmp_path), "nope")


def failing(name: str, status: str) -> RunRecord:
    run = RecordedRun(new_store(name), "20260101-000000-aaaaaa")
    pairs = run.step("ingest", ingest, PlainSpec())
    images = run.step("download", download, PlainSpec(), pairs=pairs)
    with pytest.raises(ZscirError):
        run.step("embed", embed, FailSpec(message="out of memory"), images=images)
    run.recorder.finish(status)
    return read_record(run.store, "latest")


@pytest.mark.parametrize(
    ("status", "title"),
    [("failed", "The run failed at 'embed'"), ("interrupted", "The run was interrupted at 'embed'")],
)
def test_a_failure_says_where_why_and_how_to_go_on(status: str, title: str) -> None:
    alarm = alarm_of(failing(status, status))
    assert alarm is not None
    assert alarm.title == title
    assert alarm.lines == ("ZscirError: out of memory",)
    assert alarm.command == "zscir rerun 20260101-000000-aaaaaa"


def test_a_run_whose_process_is_gone_has_died() -> None:
    nobody = f"{platform.node()}:1:1"  # the process 1 of this machine began later than one second after 1970
    run = RecordedRun(new_store("died"), "20260101-000000-aaaaaa", process=nobody)
    with run.recorder.step("ingest", "ingest"):
        record = read_record(run.store, "latest")
    assert (record.row["status"], record.steps[0].outcome) == ("died", "failed")
    alarm = alarm_of(record)
    assert alarm is not None
    assert alarm.title == "The run died at 'ingest'"
    assert "killed" in alarm.lines[0]


def test_a_run_under_way_is_no_failure() -> None:
    run = RecordedRun(new_store("under-way"), "20260101-000000-aaaaaa")
    with run.recorder.step("ingest", "ingest"):
        record = read_record(run.store, "latest")
    alarm = alarm_of(record)
    assert alarm is not None
    assert (alarm.kind, alarm.title, alarm.command) == ("calm", "Still running: ingest", "")
    assert [(bar.name, bar.outcome) for bar in bars_of(record)] == [("ingest", "running")]


def test_bars_lie_on_the_time_of_the_run() -> None:
    record = failing("bars", "failed")
    total = run_duration_s(record)
    assert total is not None
    assert total >= sum(step.wall_s or 0 for step in record.steps) - 0.1
    lefts = [bar.left for bar in bars_of(record)]
    assert lefts == sorted(lefts)
    assert all(0 <= bar.left <= bar.left + bar.width <= 100.01 for bar in bars_of(record))


def test_a_run_with_an_end_took_the_time_between() -> None:
    record = failing("took", "failed")
    begun_at = datetime(2026, 1, 1, tzinfo=UTC)
    record.row.update(started_at=begun_at, finished_at=begun_at + timedelta(minutes=2))
    assert run_duration_s(record) == 120


BENCHMARKS = """
name = "p"
[[steps]]
stage = "tabletop"
spec = { scenes = 4 }
[[steps]]
stage = "embed_benchmarks"
inputs = { backbone = "file:model", benchmarks = "file:there" }
"""


def test_a_folder_outside_of_the_store_is_found_again_by_the_pipeline(tmp_path: Path) -> None:
    pipeline = tmp_path / "p.toml"
    pipeline.write_text(BENCHMARKS)
    (tmp_path / "there" / "cirr" / "images").mkdir(parents=True)
    (tmp_path / "there" / "cirr" / "images" / "dev-0.png").write_bytes(b"1234")
    store = Store(str(tmp_path / "store"), tmp_path / "cache")
    begun(store, pipeline)
    record, seen = read_record(store, "latest"), dict[str, Any]()
    found = external_artifact(record, "embed_benchmarks", "benchmarks", seen)
    assert found is not None
    assert {name: entry.size for name, entry in found.entries.items()} == {"cirr/images/dev-0.png": 4}
    assert found.path("cirr/images/dev-0.png").read_bytes() == b"1234"
    assert external_artifact(record, "embed_benchmarks", "benchmarks", seen) is found
    assert external_artifact(record, "embed_benchmarks", "backbone", seen) is None  # no such folder
    assert external_artifact(record, "tabletop", "benchmarks", seen) is None
    pipeline.write_text(BENCHMARKS.replace("scenes = 4", "scenes = 5"))
    assert external_artifact(record, "embed_benchmarks", "benchmarks", {}) is None
