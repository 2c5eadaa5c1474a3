import dataclasses

import pytest

from tests.support.toy_pipelines import ORDER, SOURCE, STEPS, load_toy, run_toy, write_toy
from tests.support.toys import store_at
from zscir.pipeline.pipeline_file import Pipeline, load_pipeline
from zscir.pipeline.plan import make_plan
from zscir.pipeline.run import choose_steps
from zscir.pipeline.stage import stage_named
from zscir.runtime.errors import RequestError


@pytest.fixture
def store(tmp_path):
    return store_at(tmp_path / "store", tmp_path / "cache")


@pytest.fixture
def path(tmp_path):
    return write_toy(tmp_path / "specs")


def reasons(store, path, *changes):
    """Step -> 'action: reason'."""
    return {
        planned.step.name: f"{planned.action}: {planned.reason}"
        for planned in make_plan(store, load_pipeline(path, list(changes)))
    }


def test_in_an_empty_store_the_first_step_has_no_artifact_and_the_others_wait(store, path):
    assert reasons(store, path) == {
        "tabletop": "make: no artifact",
        "short": "make: input to be made first: tabletop",
        "ingest": "make: input to be made first: tabletop",
    }


def test_a_plan_writes_nothing(store, path, tmp_path):
    reasons(store, path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["specs"]
    assert store.fs.find(store.root) == []


def test_after_a_run_everything_is_reused(store, path):
    run_toy(store, path)
    assert set(reasons(store, path).values()) == {"reuse: the same inputs, spec and version made it before"}


def test_a_changed_field_is_explained_with_both_values_and_only_where_it_matters(store, path):
    run_toy(store, path)
    plan = reasons(store, path, "short.max_text_chars=30", "short.licence=CC0")
    assert plan["short"] == "make: spec changed: licence (none) -> 'CC0'; spec changed: max_text_chars 40 -> 30"
    assert plan["ingest"].startswith("reuse")


def test_a_changed_parent_is_explained_first_and_the_children_wait_for_it(store, path):
    run_toy(store, path)
    plan = reasons(store, path, "tabletop.scenes=41")
    assert plan["tabletop"] == "make: spec changed: scenes 40 -> 41"
    assert plan["ingest"] == "make: input to be made first: tabletop"


def test_a_changed_input_is_reported_by_role_and_digest(store, path):
    run = run_toy(store, path)
    before = run.artifacts["tabletop"].digest
    changed = run_toy(store, path, "tabletop.seed=1", only="tabletop").artifacts["tabletop"].digest
    plan = reasons(store, path, "tabletop.seed=1")
    assert plan["ingest"] == f"make: input changed: urls {before[:8]} -> {changed[:8]}"


def test_a_bumped_version_is_reported(store, path):
    run_toy(store, path)
    pipeline = load_pipeline(path)
    bumped = dataclasses.replace(stage_named("ingest"), declared_version=2)
    steps = [dataclasses.replace(step, stage=bumped) if step.name == "short" else step for step in pipeline.steps]
    plan = make_plan(store, Pipeline(pipeline.name, pipeline.path, tuple(steps)))
    assert {planned.step.name: planned.reason for planned in plan}["short"] == "code version bumped: 1 -> 2"


def test_a_missing_file_is_reported_by_name(store, path):
    made = run_toy(store, path).artifacts["ingest"]
    store.fs.rm_file(store.address("ingest", made.key, "pairs.parquet"))
    assert reasons(store, path)["ingest"] == "make: file missing: pairs.parquet"


def test_a_damaged_file_is_reported_by_name_even_when_another_spec_was_run_last(store, path):
    made = run_toy(store, path).artifacts["short"]
    run_toy(store, path, "short.max_text_chars=30")
    store.fs.pipe_file(store.address("ingest", made.key, "pairs.parquet"), b"")
    assert "file damaged: pairs.parquet has 0 bytes" in reasons(store, path)["short"]


def test_a_damaged_manifest_of_an_earlier_spec_does_not_stop_the_plan(store, path):
    made = run_toy(store, path).artifacts["short"]
    store.fs.pipe_file(store.address("ingest", made.key, "manifest.json"), b"{")
    assert reasons(store, path, "short.max_text_chars=30")["short"] == "make: no artifact"
    assert "manifest damaged" in reasons(store, path)["short"]


def test_going_back_to_an_earlier_spec_reuses_what_it_made(store, path):
    run_toy(store, path)
    run_toy(store, path, "short.max_text_chars=30")
    assert reasons(store, path)["short"].startswith("reuse")


def test_a_store_on_s3_is_planned_like_a_folder(s3, path, tmp_path):
    remote = store_at(s3, tmp_path / "cache")
    made = run_toy(remote, path).artifacts["ingest"]
    remote.fs.rm_file(remote.address("ingest", made.key, "pairs.parquet"))
    plan = reasons(remote, path, "short.max_text_chars=30")
    assert plan["short"] == "make: spec changed: max_text_chars 40 -> 30"
    assert plan["ingest"] == "make: file missing: pairs.parquet"


def test_a_plan_knows_how_long_a_step_took_last_time(store, path):
    run_toy(store, path)
    plan = make_plan(store, load_pipeline(path, ["tabletop.scenes=41"]))
    assert all(planned.last_wall_s is not None and planned.last_wall_s > 0 for planned in plan)


def test_a_changed_outside_file_is_reported_as_a_changed_input(store, tmp_path):
    steps = 'name = "x"\nsource = "source.toml"\n[[steps]]\nstage = "ingest"\ninputs = { urls = "file:list.csv" }\n'
    path = write_toy(tmp_path / "specs", steps)
    (tmp_path / "specs" / "list.csv").write_text("url,caption\nhttp://a.test/1.jpg,one\n")
    run_toy(store, path)
    (tmp_path / "specs" / "list.csv").write_text("url,caption\nhttp://a.test/1.jpg,two\n")
    assert reasons(store, path)["ingest"].startswith("make: input changed: urls ")


def test_a_file_that_a_later_step_reads_is_missed_before_anything_runs(store, tmp_path):
    late = STEPS + '[[steps]]\nname = "late"\nstage = "embed"\ninputs = { images = "short", backbone = "file:gone" }\n'
    path = write_toy(tmp_path / "specs", late)
    with pytest.raises(RequestError, match=r"step 'late': .*gone: no such file or folder"):
        make_plan(store, load_pipeline(path))


def test_only_one_step_is_run_when_its_inputs_are_made(store, path):
    with pytest.raises(RequestError, match="not made yet: tabletop; run without --only/--from"):
        run_toy(store, path, only="short")
    assert store.fs.find(store.root) == []
    assert list(run_toy(store, path, only="tabletop").artifacts) == ["tabletop"]
    assert [row["step"] for row in run_toy(store, path, only="short").recorder.steps()] == ["short"]
    assert store.list_keys("ingest") == [("ingest", run_toy(store, path, only="short").artifacts["short"].key)]


def test_only_with_the_name_of_a_stage_runs_all_its_steps(store, path):
    run_toy(store, path, only="tabletop")
    assert [row["step"] for row in run_toy(store, path, only="ingest").recorder.steps()] == ["short", "ingest"]


def test_from_runs_a_step_and_what_depends_on_it(tmp_path, path):
    pipeline = load_toy(tmp_path / "specs")
    assert choose_steps(pipeline, [], None, "tabletop") == ORDER
    assert choose_steps(pipeline, [], None, "ingest") == ["short", "ingest"]
    assert choose_steps(pipeline, [], None, None) == ORDER


def test_an_unknown_step_to_run_is_refused_before_anything_is_written(store, path):
    for selection in ({"only": "nothing"}, {"from_step": "nothing"}):
        with pytest.raises(RequestError, match="no step or stage 'nothing'"):
            run_toy(store, path, **selection)
    assert store.fs.find(store.root) == []


def test_another_pipeline_of_the_same_store_explains_nothing_and_shares_everything(store, path, tmp_path):
    run_toy(store, path)
    other = write_toy(tmp_path / "other", STEPS.replace('name = "toy"', 'name = "other"'), SOURCE)
    assert set(reasons(store, other).values()) == {"reuse: the same inputs, spec and version made it before"}
    assert reasons(store, other, "tabletop.scenes=41")["tabletop"] == "make: no artifact"
