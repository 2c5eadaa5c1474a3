"""Steps for other work pools: named in a table or by the machine, in no key; a job is JSON and its report too."""

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.services import CREDENTIALS, free_port
from tests.support.toy_pipelines import SOURCE, STEPS, digests, direct, load_toy, run_toy, write_toy
from tests.support.toys import store_at
from zscir.lineage.sql_views import query_store_rows
from zscir.pipeline.chunk_job import load_chunk_job
from zscir.pipeline.execute import RunRequest, execute_run, plan_rows
from zscir.pipeline.pipeline_file import load_pipeline
from zscir.pipeline.plan import make_plan
from zscir.pipeline.remote_step import JobReport, RemoteJob, execute_job, parse_job_report, remote_job_for
from zscir.pipeline.run import Run, execute_step
from zscir.pipeline.stage import Chunk, ChunkResult, map_sequentially, materialize
from zscir.runtime.errors import GateError, RequestError, StageError, TransientError
from zscir.runtime.retries import RetryPolicy
from zscir.runtime.settings import data_specs
from zscir.store.artifacts import MANIFEST, Artifact
from zscir.store.store import Store

TABLE = STEPS.replace("[[steps]]", '[dispatch]\ningest = "gpu"\n[[steps]]', 1)
ELSEWHERE = "elsewhere:1:1"
WORK = {"outcome": "made", "worker": ELSEWHERE, "attempts": 1, "wall_s": 3600.0, "cpu_s": 7.0, "peak_rss_bytes": 8}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return store_at(tmp_path / "store", tmp_path / "cache")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_toy(tmp_path / "specs", TABLE)


def pools(pipeline) -> dict[str, str | None]:
    return {step.name: step.pool for step in pipeline.steps}


def test_a_table_names_steps_or_stages_and_a_step_goes_before_its_stage(tmp_path: Path) -> None:
    assert pools(load_toy(tmp_path, steps=TABLE)) == {"tabletop": None, "short": "gpu", "ingest": "gpu"}
    changed = load_toy(tmp_path, "dispatch.short=cpu", "dispatch.tabletop=gpu", steps=TABLE)
    assert pools(changed) == {"tabletop": "gpu", "short": "cpu", "ingest": "gpu"}
    here = load_toy(tmp_path, "dispatch.short=here", steps=TABLE)
    assert pools(here) == {"tabletop": None, "short": None, "ingest": "gpu"}


def test_a_machine_may_say_it_for_every_pipeline_and_the_file_goes_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZSCIR_DISPATCH", " train = big,ingest=cpu, tabletop=cpu")
    assert pools(load_toy(tmp_path)) == {"tabletop": "cpu", "short": "cpu", "ingest": "cpu"}
    assert pools(load_toy(tmp_path, steps=TABLE)) == {"tabletop": "cpu", "short": "gpu", "ingest": "gpu"}
    here = load_toy(tmp_path, "dispatch.tabletop=here", "dispatch.ingest=here", "dispatch.short=gpu")
    assert pools(here) == {"tabletop": None, "short": "gpu", "ingest": None}


@pytest.mark.parametrize(
    ("change", "machine", "words"),
    [
        ("dispatch.trian=gpu", "", r"\[dispatch\]: no step or stage 'trian'.*the steps are \['ingest', 'short'"),
        ("dispatch.train=gpu", "", "no step or stage 'train'"),
        ("dispatch.short=", "", "dispatch"),
        ("dispatch.short.pool=gpu", "", "dispatch"),
        ("dispatch=gpu", "", "STEP.field=value"),
        ("limits.retries=1", "trian=gpu", "ZSCIR_DISPATCH: no step or stage 'trian'"),
        ("limits.retries=1", "train", "ZSCIR_DISPATCH: 'train': write it as STAGE=POOL"),
    ],
)
def test_a_name_that_is_of_no_step_is_refused(tmp_path, monkeypatch, change: str, machine: str, words: str) -> None:
    monkeypatch.setenv("ZSCIR_DISPATCH", machine)
    with pytest.raises(RequestError, match=words):
        load_toy(tmp_path, change)


def test_who_makes_a_step_is_part_of_no_key_and_of_no_digest(store: Store, path: Path) -> None:
    made = run_toy(store, path, "dispatch.ingest=here")
    there = load_toy(path.parent, steps=TABLE)
    assert there.digest() == made.pipeline.digest()
    plan = make_plan(store, there)
    assert {planned.step.name: planned.key for planned in plan} == {
        name: artifact.key for name, artifact in made.artifacts.items()
    }
    assert {row["pool"] for row in plan_rows(plan)} == {None}  # nothing is to be made anywhere


def test_a_plan_says_which_pool_would_make_a_step(store: Store, path: Path) -> None:
    plan = plan_rows(make_plan(store, load_toy(path.parent, "dispatch.short=here", steps=TABLE)))
    assert {row["step"]: row["pool"] for row in plan} == {"tabletop": None, "short": None, "ingest": "gpu"}


def test_a_finished_pipeline_needs_no_pool(store: Store, path: Path) -> None:
    run_toy(store, path, "dispatch.ingest=here")
    assert {row["outcome"] for row in run_toy(store, path).recorder.steps()} == {"reused"}


def test_a_run_without_pools_refuses_before_anything_is_written(store: Store, path: Path) -> None:
    with pytest.raises(RequestError, match=r"step 'short' is to be made in work pool 'gpu': .*reaches no work pool"):
        run_toy(store, path)
    assert store.fs.find(store.root) == []
    with pytest.raises(RequestError, match=r"step 'short' is to be made in work pool 'gpu': no such pool"):
        execute_run(store, RunRequest(path, []), direct, no_such_pool)
    assert store.fs.find(store.root) == []


def no_such_pool(pools: list[str]) -> None:
    raise RequestError(f"no such pool: {pools}")


def test_a_step_that_reads_files_of_this_machine_is_refused_before_anything_is_written(
    tmp_path: Path, store: Store
) -> None:
    (tmp_path / "list.csv").write_text("url,caption\nhttp://a.example/1.jpg,a cube\n")
    steps = STEPS.replace('inputs = { urls = "tabletop" }', f'inputs = {{ urls = "file:{tmp_path}/list.csv" }}', 1)
    path = write_toy(tmp_path / "specs", steps)
    words = rf"step 'short' cannot be made in work pool 'gpu': it reads {tmp_path}/list.csv.*dispatch.short=here"
    with pytest.raises(RequestError, match=words):
        run_toy(store, path, "dispatch.short=gpu")
    assert store.fs.find(store.root) == []


def engine_with(elsewhere: Callable[[str, RemoteJob], JobReport]) -> Callable[[Run, list[str]], None]:
    def engine(run: Run, chosen: list[str]) -> None:
        for name in chosen:
            execute_step(run.run_id, name, run_job=elsewhere)

    return engine


def run_with(store: Store, path: Path, elsewhere: Callable[[str, RemoteJob], JobReport], *changes: str) -> Run:
    return execute_run(store, RunRequest(path, list(changes)), engine_with(elsewhere), lambda pools: None)


def worker(pool: str, job: RemoteJob) -> JobReport:
    """A worker that gets and gives JSON."""
    report = execute_job(json.loads(json.dumps(job)))
    read = parse_job_report(f"some words\n{report.message()}")
    assert read == report
    return report


def test_a_step_is_made_from_json_by_the_same_bytes_and_the_record_says_by_whom(
    tmp_path: Path, store: Store, path: Path
) -> None:
    def elsewhere(pool: str, job: RemoteJob) -> JobReport:
        done = worker(pool, job)
        return JobReport.parse({**done.literals(), **WORK, "key": done.key}, "test")

    run = run_with(store, path, elsewhere)
    undisturbed = run_toy(store_at(tmp_path / "other", tmp_path / "cache"), path, "dispatch.ingest=here")
    assert digests(run.artifacts) == digests(undisturbed.artifacts)
    recorded = {row["step"]: row for row in query_store_rows(store, "SELECT * FROM stages")}
    assert recorded["tabletop"]["worker"] != ELSEWHERE
    for step in ("short", "ingest"):
        row = recorded[step]
        assert (row["outcome"], row["worker"], row["attempts"]) == ("made", ELSEWHERE, 1)
        assert (row["wall_s"], row["cpu_s"], row["peak_rss_bytes"]) == (3600.0, 7.0, 8)


def test_a_worker_that_is_lost_is_followed_by_another_as_often_as_the_run_says(store: Store, path: Path) -> None:
    steps = []

    def elsewhere(pool: str, job: RemoteJob) -> JobReport:
        steps.append(job["name"])
        if len(steps) == 1:
            raise TransientError("crashed")
        return worker(pool, job)

    quickly = "limits.backoff_s=0"
    run = run_with(store, path, elsewhere, quickly, "dispatch.ingest=here", "dispatch.short=gpu")
    assert steps == ["short", "short"]
    assert {row["step"]: row["attempts"] for row in run.recorder.steps()} == {"tabletop": 1, "short": 2, "ingest": 1}

    def lost(pool: str, job: RemoteJob) -> JobReport:
        raise TransientError("crashed")

    with pytest.raises(StageError, match=r"step 'short' \(stage ingest\): crashed"):
        run_with(store, path, lost, quickly, "limits.retries=1", "short.max_text_chars=39")


def test_an_artifact_whose_worker_was_lost_after_it_was_made_is_not_requested_again(store: Store, path: Path) -> None:
    reports = []

    def elsewhere(pool: str, job: RemoteJob) -> JobReport:
        reports.append(worker(pool, job))
        raise TransientError("the server is gone")

    run = run_with(store, path, elsewhere, "limits.backoff_s=0", "dispatch.ingest=here", "dispatch.short=gpu")
    assert [report.outcome for report in reports] == ["made"]
    assert {row["step"]: row["outcome"] for row in run.recorder.steps()}["short"] == "reused"


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        (None, StageError, r"step 'short' \(stage ingest\): no room \(on elsewhere:1:1\)"),
        ("gate", GateError, "no room"),
        ("out_of_memory", StageError, "out of memory; give it a larger machine or GPU"),
        ("over", StageError, "no room"),
    ],
)
def test_a_failure_elsewhere_is_the_failure_of_the_step(
    store: Store, path: Path, kind: str | None, error: type, words: str
) -> None:
    failed = {**WORK, "outcome": "failed", "error": "no room", "kind": kind}
    with pytest.raises(error, match=words):
        run_with(store, path, lambda pool, job: JobReport.parse(failed, "test"))
    recorded = {row["step"]: row for row in query_store_rows(store, "SELECT * FROM stages")}
    assert (recorded["short"]["outcome"], recorded["short"]["worker"], recorded["short"]["attempts"]) == (
        "failed",
        ELSEWHERE,
        1,
    )


def test_an_artifact_that_was_reported_and_is_not_there_is_an_error(store: Store, path: Path) -> None:
    def boast(pool: str, job: RemoteJob) -> JobReport:
        return JobReport.parse({**WORK, "key": job["key"]}, "test")

    with pytest.raises(StageError, match=r"no artifact; is that the same store for a worker of pool 'gpu'\?"):
        run_with(store, path, boast)


def job_of_short(store: Store, path: Path) -> RemoteJob:
    """The job of the step ``short``."""
    pipeline = load_toy(path.parent)
    tabletop, short, _ = pipeline.steps
    made = materialize(store, tabletop.stage, tabletop.spec, {}).artifact
    return remote_job_for(store, Chunk("short", short.stage, short.spec, {"urls": made}, RetryPolicy(0, 0.0)), None)


def test_a_worker_reports_its_failures_and_raises_none(
    store: Store, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = job_of_short(store, path)
    spec = {**job["spec"], "text_column": "nothing"}
    report = execute_job({**job, "spec": spec})
    assert (report.outcome, report.key, report.attempts) == ("failed", None, 1)
    assert "would make another artifact" in str(report.error)
    assert job["zscir"] in str(report.error)
    over = execute_job({**job, "terms": {**job["terms"], "until": 1.0}})
    assert (over.kind, over.error) == ("over", "not begun: the time for it was over")
    lost = execute_job({**job, "inputs": {"urls": {"stage": "tabletop", "key": "0" * 64}}})
    assert f"tabletop/{'0' * 12}" in str(lost.error)
    assert execute_job(job).outcome == "made"
    assert execute_job(job).outcome == "reused"


def test_a_split_step_whose_time_is_over_says_so(tmp_path: Path, store: Store) -> None:
    steps = STEPS + '[[steps]]\nstage = "download"\ninputs = { pairs = "ingest" }\n'
    path = write_toy(tmp_path / "specs", steps, SOURCE + "[download]\nchunk_rows = 4\n")
    made = execute_run(store, RunRequest(path, []), lambda run, chosen: direct(run, ["tabletop", "ingest"])).artifacts
    download = load_pipeline(path, []).steps[-1]
    until = time.time() + 2
    job = remote_job_for(
        store, Chunk("cut", download.stage, download.spec, {"pairs": made["ingest"]}, RetryPolicy(until=until)), None
    )

    def late(store: Store, chunks: Sequence[Chunk]) -> Iterator[ChunkResult]:
        time.sleep(max(0.0, until - time.time()) + 0.1)
        return map_sequentially(store, chunks)

    report = execute_job(job, late)
    assert (report.kind, report.error) == ("over", "not all of its chunks were begun: the time for it was over")


def test_the_inputs_of_what_is_made_elsewhere_are_dated_at_its_beginning(store: Store, path: Path) -> None:
    job = job_of_short(store, path)
    tabletop = job["inputs"]["urls"]
    manifest = store.address(tabletop["stage"], tabletop["key"], MANIFEST)
    os.utime(manifest, (1.0, 1.0))
    assert execute_job(job).outcome == "made"
    assert time.time() - os.stat(manifest).st_mtime < 600


def test_an_input_that_is_gone_since_it_was_known_is_an_error(store: Store, path: Path) -> None:
    job = job_of_short(store, path)
    assert execute_job(job).outcome == "made"
    shutil.rmtree(Path(store.address("tabletop", job["inputs"]["urls"]["key"], MANIFEST)).parent)
    assert re.search(r"the input tabletop/.* is gone; run the pipeline again", str(execute_job(job).error))


def test_a_store_that_cannot_be_reached_when_the_inputs_are_looked_up_is_tried_again(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("ZSCIR_PATIENCE_S", "0")
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    job = job_of_short(store, path)
    report = execute_job({**job, "store": "s3://nowhere/prefix", "terms": {**job["terms"], "retries": 1}})
    assert (report.attempts, report.outcome) == (2, "failed")
    assert "store s3://nowhere/prefix" in str(report.error)


def test_a_mistake_in_a_stage_is_reported_with_its_traceback_and_no_secret(
    store: Store, path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_TOKEN", "very-secret-words")

    def broken(spec: object, **others: object) -> dict[str, object]:
        raise ValueError("bad very-secret-words")

    job = job_of_short(store, path)
    ingest = load_toy(path.parent).steps[1].stage
    monkeypatch.setattr("zscir.stages.ingest.ingest", replace(ingest, function=broken))
    report = execute_job(job)
    assert report.error == "ValueError: bad ***"
    assert "in broken" in caplog.text
    assert "very-secret-words" not in caplog.text


def test_what_ships_with_zscir_is_on_every_machine_and_anything_else_outside_the_store_is_not(
    store: Store, path: Path
) -> None:
    ingest = load_toy(path.parent).steps[1]
    backbone = Artifact.of_folder(data_specs() / "backbones" / "tabletop")
    job = remote_job_for(store, Chunk("short", ingest.stage, ingest.spec, {"urls": backbone}), None)
    _, chunk = load_chunk_job(json.loads(json.dumps(job)))
    assert chunk.inputs["urls"].digest == backbone.digest  # type: ignore[union-attr]  # one artifact, no list
    for wrong in ({"shipped": "backbones/other"}, {"shipped": "../tests"}, {"files": ["no.json"]}):
        address = {**job["inputs"]["urls"], **wrong}
        assert "does not have the files" in str(execute_job({**job, "inputs": {"urls": address}}).error)
    with pytest.raises(StageError, match="outside the store"):
        remote_job_for(store, replace(chunk, inputs={"urls": Artifact.of_folder(path.parent)}), None)


@pytest.mark.parametrize("name", ["tabletop.toml", "own.toml"])
def test_the_heavy_stages_of_the_shipped_pipelines_can_be_made_elsewhere(tmp_path: Path, name: str) -> None:
    source = tmp_path / "photos.toml"
    source.write_text(
        'name = "photos"\nurls = "list.csv"\n[ingest]\nsource = "p"\nurl_column = "url"\ntext_column = "t"\n'
    )
    (tmp_path / "list.csv").write_text("url,t\n")
    changes = ["source=" + str(source)] if name == "own.toml" else []
    heavy = ("download", "embed", "ask_llm", "train")
    wanted: list[str] = []

    def check_pools(pools: list[str]) -> None:
        wanted.extend(pools)
        raise RequestError("far enough")

    there = RunRequest(data_specs() / "pipelines" / name, [*changes, *(f"dispatch.{stage}=gpu" for stage in heavy)])
    with pytest.raises(RequestError, match="far enough"):
        execute_run(store_at(tmp_path / "store", tmp_path / "cache"), there, direct, check_pools)
    assert wanted == ["gpu"]


def test_a_state_of_prefect_is_no_report() -> None:
    for message in (None, "", "All states completed.", "{}", '{"outcome": "made"}', "made\n[1]"):
        assert parse_job_report(message) is None
