"""Backfills: one run for each partition that is missing, the others found; failures told at the end."""

import json
import subprocess
import sys

import pytest

from tests.support.toy_pipelines import clean_environment, direct, zscir
from tests.support.toys import store_at
from zscir.pipeline.backfill import is_pipeline_complete, raise_failed_partitions, run_backfill
from zscir.pipeline.execute import RunRequest
from zscir.pipeline.partitions import partitions_between
from zscir.pipeline.pipeline_file import load_pipeline
from zscir.pipeline.run import list_runs
from zscir.runtime.errors import Interrupted, RequestError, StageError

SOURCE = 'name = "sliced"\nurls = "lists/{date}.csv"\n[ingest]\nsource = "sliced"\n'
PIPELINE = 'name = "sliced"\nsource = "source.toml"\n[[steps]]\nstage = "ingest"\ninputs = { urls = "source" }\n'
THREE = partitions_between("2026-11-01", "2026-11-03")


@pytest.fixture
def store(tmp_path):
    return store_at(tmp_path / "store", tmp_path / "cache")


@pytest.fixture
def run_request(tmp_path):
    (tmp_path / "lists").mkdir()
    for partition in THREE:
        write_list(tmp_path, partition.value)
    (tmp_path / "source.toml").write_text(SOURCE)
    (tmp_path / "sliced.toml").write_text(PIPELINE)
    return RunRequest(tmp_path / "sliced.toml", [])


def write_list(folder, day):
    (folder / "lists" / f"{day}.csv").write_text(f"url,text\nhttp://a.example/{day}.jpg,a red cube\n")


def nobody(run, chosen):
    raise AssertionError("nothing was to be made")


def outcomes(rows):
    return [(row["partition"], row["outcome"]) for row in rows]


def test_each_partition_is_an_ordinary_run_of_its_own_files(store, run_request):
    rows = run_backfill(store, run_request, THREE, direct)
    assert outcomes(rows) == [(partition.name, "done") for partition in THREE]
    runs = list_runs(store)
    assert [run["run_id"] for run in runs] == [row["run_id"] for row in rows]
    assert {(run["trigger"], run["status"], run["made"]) for run in runs} == {("backfill", "succeeded", 1)}
    assert [json.loads(run["user_config"])["set"] for run in runs] == [[partition.set_option] for partition in THREE]
    assert len(store.list_keys("ingest")) == 3


def test_what_is_finished_is_found_without_a_run_and_only_the_rest_is_made(store, run_request, tmp_path):
    run_backfill(store, run_request, THREE, direct)
    assert outcomes(run_backfill(store, run_request, THREE, nobody)) == [
        (partition.name, "found") for partition in THREE
    ]
    write_list(tmp_path, "2026-11-04")
    more = run_backfill(store, run_request, partitions_between("2026-11-02", "2026-11-04"), direct)
    assert [row["outcome"] for row in more] == ["found", "found", "done"]
    assert len(list_runs(store)) == 4


def test_a_partition_whose_file_changed_is_made_again(store, run_request, tmp_path):
    run_backfill(store, run_request, THREE, direct)
    (tmp_path / "lists" / "2026-11-02.csv").write_text("url,text\nhttp://a.example/new.jpg,a blue cube\n")
    assert [row["outcome"] for row in run_backfill(store, run_request, THREE, direct)] == ["found", "done", "found"]


def test_a_partition_that_fails_stops_no_other_and_is_listed_with_the_line_to_type(store, run_request, tmp_path):
    (tmp_path / "lists" / "2026-11-01.csv").unlink()
    (tmp_path / "lists" / "2026-11-02.csv").write_text("address,text\nhttp://a.example/1.jpg,a cube\n")
    rows = run_backfill(store, run_request, THREE, direct)
    assert [row["outcome"] for row in rows] == ["failed", "failed", "done"]
    with pytest.raises(StageError) as error:
        raise_failed_partitions(rows, "zscir backfill it again")
    head, first, second, *rest = str(error.value).splitlines()
    assert head == "2 of 3 partitions failed; the others are made:"
    assert first.startswith("  date=2026-11-01: ")
    assert first.endswith("lists/2026-11-01.csv: no such file or folder")
    assert "step 'ingest' (stage ingest)" in second
    assert rest == ["Go on with:", "  zscir backfill it again"]
    for day in ("2026-11-01", "2026-11-02"):
        write_list(tmp_path, day)
    assert [row["outcome"] for row in run_backfill(store, run_request, THREE, direct)] == ["done", "done", "found"]


def test_who_stops_a_backfill_keeps_what_came_before(store, run_request):
    def stops_at_the_second(run, chosen):
        if len(list_runs(store)) == 2:
            raise KeyboardInterrupt
        direct(run, chosen)

    with pytest.raises(Interrupted) as error:
        run_backfill(store, run_request, THREE, stops_at_the_second)
    assert str(error.value).startswith("date=2026-11-02: interrupted")
    assert str(error.value).endswith("1 of 3 partitions came before")
    assert [run["status"] for run in list_runs(store)] == ["succeeded", "interrupted"]
    assert [row["outcome"] for row in run_backfill(store, run_request, THREE, direct)] == ["found", "done", "done"]


def test_a_pipeline_that_reads_the_same_files_for_two_partitions_is_refused_before_anything_runs(
    store, run_request, tmp_path
):
    (tmp_path / "source.toml").write_text(SOURCE.replace("{date}", "{date:%Y-%m}-01"))
    with pytest.raises(RequestError, match=r"date=2026-11-01 and date=2026-11-02 read the same files; write \{date\}"):
        run_backfill(store, run_request, THREE, nobody)
    assert len(run_backfill(store, run_request, partitions_between("2026-11-01", "2026-11-01", "month"), direct)) == 1


def test_shards_fill_their_number_and_a_step_may_read_one_too(store, run_request, tmp_path):
    for number in (9, 10):
        (tmp_path / f"part-{number:03d}.csv").write_text(f"url,text\nhttp://a.example/{number}.jpg,a cube\n")
    (tmp_path / "sliced.toml").write_text(
        'name = "sliced"\n[[steps]]\nstage = "ingest"\nspec = { source = "s" }\n'
        'inputs = { urls = "file:part-{shard:03d}.csv" }\n'
    )
    rows = run_backfill(store, run_request, partitions_between("9", "10"), direct)
    assert outcomes(rows) == [("shard=9", "done"), ("shard=10", "done")]


def test_the_same_files_under_another_date_are_found(store, run_request, tmp_path):
    (tmp_path / "source.toml").write_text(SOURCE.replace("{date}.csv", "{date}/urls.csv"))
    for partition, color in zip(THREE, ("red", "blue", "red"), strict=True):
        (tmp_path / "lists" / f"{partition.value}").mkdir()
        (tmp_path / "lists" / f"{partition.value}" / "urls.csv").write_text(
            f"url,text\nhttp://a.example/1,a {color} cube\n"
        )
    assert [row["outcome"] for row in run_backfill(store, run_request, THREE, direct)] == ["done", "done", "found"]


def test_a_missing_artifact_is_not_finished(store, run_request):
    pipeline = load_pipeline(run_request.path, [THREE[0].set_option])
    assert not is_pipeline_complete(store, pipeline)
    run_backfill(store, run_request, THREE[:1], direct)
    assert is_pipeline_complete(store, pipeline)
    with pytest.raises(RequestError, match="no such file"):
        is_pipeline_complete(store, load_pipeline(run_request.path, ["partition.date=2030-01-01"]))


TWICE = """
import sys
from pathlib import Path
from tests.support.toy_pipelines import direct
from tests.support.toys import store_at
from zscir.pipeline.backfill import run_backfill
from zscir.pipeline.partitions import partitions_between
from zscir.pipeline.execute import RunRequest
folder = Path(sys.argv[1])
store, run_request = store_at(folder / "store", folder / "cache"), RunRequest(folder / "sliced.toml", [])
rows = run_backfill(store, run_request, partitions_between("1", "6"), direct)
assert all(row["outcome"] in ("done", "found") for row in rows), rows
"""


def test_started_twice_at_the_same_time_it_does_the_work_once(store, tmp_path):
    for number in range(1, 7):
        (tmp_path / f"{number}.csv").write_text(f"url,text\nhttp://a.example/{number}.jpg,a cube\n")
    (tmp_path / "sliced.toml").write_text(
        PIPELINE.replace('source = "source.toml"\n', "").replace('"source"', '"file:{shard}.csv"')
    )
    (tmp_path / "sliced.toml").write_text((tmp_path / "sliced.toml").read_text() + 'spec = { source = "s" }\n')
    words = [sys.executable, "-c", TWICE, str(tmp_path)]
    both = [subprocess.Popen(words, env=clean_environment({}), stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    runs = list_runs(store)
    assert sum(run["made"] for run in runs) == 6
    assert {run["status"] for run in runs} == {"succeeded"}
    assert len(store.list_keys("ingest")) == 6


def test_the_command_ends_with_3_a_table_and_the_same_words_to_type_again(store, run_request, tmp_path):
    run_backfill(store, run_request, THREE, direct)
    words = ["backfill", "sliced.toml", "--from", "2026-11-01", "--to", "2026-11-04", "--json"]
    done = zscir(tmp_path, *words, ZSCIR_STORE=store.uri, PREFECT_HOME=str(tmp_path / "no-prefect"))
    assert done.returncode == 3
    assert [row["outcome"] for row in json.loads(done.stdout)] == ["found", "found", "found", "failed"]
    assert done.stderr.splitlines()[-1].strip().endswith(" ".join(words))
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "no-prefect").exists()
