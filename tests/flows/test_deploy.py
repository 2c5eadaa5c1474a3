"""prefect.yaml and its two readers, ours and Prefect's: the same deployments, the same forms, clear refusals."""

import json
import subprocess
import sys

import pytest

from flows.deploy import register_deployments
from flows.deployment_config import (
    DEFINITIONS_FILE,
    DeploymentRequest,
    ScheduleConfig,
    load_deployments,
    pipeline_deployment,
)
from tests.support import services
from tests.support.services import prefect_api
from tests.support.toy_pipelines import STEPS, clean_environment, write_toy
from tests.support.toys import store_at
from zscir.pipeline.run import list_runs
from zscir.pipeline.stage import stage_named, stage_names
from zscir.runtime.errors import RequestError

# What differs between two registrations of the same thing: who, when, where.
PASSING = {
    "id", "created", "updated", "created_by", "updated_by", "flow_id", "deployment_id", "work_queue_id", "status",
    "last_polled", "version_id", "version_info", "concurrency_limit_id", "labels", "active_slots", "denied_slots",
    "name_of_limit", "global_concurrency_limit",
}  # fmt: skip


def ask(what, query=None, method=None):
    return services.ask(prefect_api(), what, query, method)


def lasting(value):
    if isinstance(value, dict):
        return {name: lasting(item) for name, item in value.items() if name not in PASSING}
    return [lasting(item) for item in value] if isinstance(value, list) else value


def registered():
    """Deployment name -> what the server keeps of it."""
    flows = {flow["id"]: flow["name"] for flow in ask("flows/filter", {})}
    found = {}
    for deployment in ask("deployments/filter", {"limit": 200}):
        limit = (deployment["global_concurrency_limit"] or {}).get("limit")
        schedules = sorted(lasting(deployment["schedules"]), key=lambda part: part["slug"])
        name = f"{flows[deployment['flow_id']]}/{deployment['name']}"
        found[name] = {**lasting(deployment), "schedules": schedules, "limit": limit}
    return found


def forget_all():
    for deployment in ask("deployments/filter", {"limit": 200}):
        ask(f"deployments/{deployment['id']}", method="DELETE")


def clone(folder):
    """A git repository with a remote and a commit: Prefect's command would like to take a version from there."""
    who = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.invalid"]
    words = (["init", "-q"], ["remote", "add", "origin", "https://git.invalid/a.git"])
    for arguments in (*words, [*who, "commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    return folder


def of_stages():
    """Every stage that a pipeline may name; one that only makes chunks of another stage has no form of its own."""
    of_chunks = {chunk_stage for name in stage_names() for chunk_stage in stage_named(name).chunk_stages}
    return set(stage_names()) - of_chunks


def parameter(flow, name):
    from prefect.utilities.callables import parameter_schema

    return parameter_schema(flow).model_dump()["properties"][name]


def test_every_stage_has_a_deployment_of_its_name_and_stands_in_the_forms():
    from flows.deployed_flows import WHERE_IT_STOPPED, rerun_flow, run_stage

    shipped = load_deployments()
    forms = [deployment for deployment in shipped if deployment.entrypoint == "flows.deployed_flows.run_stage"]
    assert {form.name for form in forms} == of_stages()
    assert all(form.parameters == {"stage": form.name} for form in forms)
    assert set(parameter(run_stage, "stage")["enum"]) == of_stages()
    drop_down = parameter(rerun_flow, "stage")
    assert drop_down["default"] == drop_down["enum"][0] == WHERE_IT_STOPPED
    assert set(drop_down["enum"][1:]) == of_stages()


def test_every_field_of_every_form_is_explained():
    for flow in {deployment.flow() for deployment in load_deployments()}:
        schema = flow.parameters.model_dump()
        assert [name for name, field in schema["properties"].items() if not field.get("description")] == []


def test_nothing_of_the_shipped_file_starts_by_itself_or_twice():
    shipped = load_deployments()
    assert [deployment.name for deployment in shipped if any(part.active for part in deployment.schedules)] == []
    for deployment in shipped:
        if deployment.schedules:
            assert deployment.concurrency_limit is not None
            assert deployment.concurrency_limit.limit == 1


def test_a_word_that_is_not_known_is_an_error_and_not_left_out(tmp_path):
    (tmp_path / "prefect.yaml").write_text(DEFINITIONS_FILE.read_text().replace("collision_strategy:", "collision:"))
    with pytest.raises(RequestError, match="collision"):
        load_deployments(tmp_path / "prefect.yaml")


def test_a_pipeline_becomes_a_deployment_that_any_folder_can_run(tmp_path, monkeypatch):
    write_toy(tmp_path / "specs")
    monkeypatch.chdir(tmp_path)
    deployment = pipeline_deployment(
        DeploymentRequest("specs/toy.toml", ["source=specs/source.toml"], cron="0 3 * * *", timezone="Europe/Berlin")
    )
    assert deployment.name == "toy"
    assert deployment.parameters == {
        "pipeline": str(tmp_path / "specs/toy.toml"),
        "set": [f"source={tmp_path}/specs/source.toml"],
    }
    assert (deployment.concurrency_limit.limit, deployment.concurrency_limit.collision_strategy) == (1, "CANCEL_NEW")
    (schedule,) = deployment.schedules
    assert (schedule.cron, schedule.timezone, schedule.active) == ("0 3 * * *", "Europe/Berlin", True)
    shipped = pipeline_deployment(DeploymentRequest("data_specs/pipelines/tabletop.toml", []))
    assert shipped.parameters["pipeline"] == "data_specs/pipelines/tabletop.toml"


def test_with_partitions_a_second_run_waits_since_its_files_are_its_own(tmp_path):
    path = write_toy(tmp_path)
    deployment = pipeline_deployment(
        DeploymentRequest(path, [], interval_s=3600, timezone="Asia/Tokyo", partition="hour")
    )
    assert deployment.parameters == {"pipeline": str(path), "set": [], "partition": "hour", "timezone": "Asia/Tokyo"}
    assert deployment.concurrency_limit.collision_strategy == "ENQUEUE"


@pytest.mark.parametrize("name", ["any", "to/be", "<b>"])
def test_a_name_that_prefect_or_a_form_has_taken_is_refused(tmp_path, name):
    with pytest.raises(RequestError, match="cannot be named"):
        pipeline_deployment(DeploymentRequest(write_toy(tmp_path), [f"name={name}"]))


def test_a_wrong_schedule_is_refused_before_a_server_is_called(tmp_path):
    with pytest.raises(RequestError, match="Invalid cron string"):
        pipeline_deployment(DeploymentRequest(write_toy(tmp_path), [], cron="every night"))


WRONG = {
    "no cron line": ({"cron": "every night"}, 'Invalid cron string: "every night"'),
    "no time zone": ({"cron": "0 3 * * *", "timezone": "Europe/Berlim"}, 'Invalid timezone: "Europe/Berlim"'),
    "no time at all": ({"interval": 0}, "interval"),
    "time backwards": ({"interval": -5}, "interval"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_malformed_schedule_is_refused_with_what_to_write(case):
    given, error_text = WRONG[case]
    with pytest.raises(RequestError) as error:
        ScheduleConfig(slug="asked", **given).to_prefect()
    assert error_text in str(error.value)
    assert "Europe/Berlin" in str(error.value)


NO_SERVER = "no Prefect server is named: set PREFECT_API_URL="
REFUSED = {
    "no server": (("deploy",), {}, NO_SERVER),
    "no server for a pipeline": (("deploy", "toy.toml"), {}, NO_SERVER),
    "a server that is gone": (("deploy",), {"PREFECT_API_URL": "http://127.0.0.1:9/api"}, "is it running"),
    "a schedule of nothing": (("deploy", "--schedule", "0 3 * * *"), {}, "belong to a PIPELINE; name it"),
    "two clocks": (("deploy", "toy.toml", "--schedule", "0 3 * * *", "--interval", "60"), {}, "exclude each other"),
    "an unknown partition": (("deploy", "toy.toml", "--partition", "fortnight"), {}, "choose one of hour, day"),
    "no pipeline there": (("deploy", "none.toml"), {"PREFECT_API_URL": "http://127.0.0.1:9/api"}, "cannot read"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_deploy_refuses_in_a_few_lines_with_code_2(tmp_path, monkeypatch, capsys, case):
    from zscir.cli.main import app

    words, environment, error_text = REFUSED[case]
    write_toy(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RequestError) as error:
        app(list(words), standalone_mode=False)
    assert error_text in str(error.value)
    assert len(str(error.value).splitlines()) <= 3


@pytest.mark.slow
def test_zscir_deploy_and_prefect_deploy_register_the_same(tmp_path, server, capsys):
    """By ours, where it also makes the pool; then by Prefect's own command from the same file, in somebody's clone."""
    from zscir.cli.main import app

    forget_all()
    app(["deploy", "--pool", "zscir", "--json"], standalone_mode=False)
    rows = json.loads(capsys.readouterr().out)
    assert {row["did"] for row in rows} == {"created", "there"}
    assert {row["did"] for row in register_deployments(load_deployments())} == {"unchanged", "there"}
    ours = registered()
    assert sorted(ours) == sorted(row["deployment"] for row in rows if not row["deployment"].startswith("("))
    assert len(ours) == len(load_deployments())
    forget_all()
    words = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(DEFINITIONS_FILE)]
    environment = clean_environment({"PREFECT_API_URL": prefect_api()})
    folder = clone(tmp_path)
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert registered() == ours


def test_deployed_again_a_schedule_stays_as_somebody_left_it(tmp_path, server):
    path = write_toy(tmp_path, STEPS.replace('name = "toy"', 'name = "left"', 1))

    def deployed(**when):
        rows = {
            row["deployment"]: row
            for row in register_deployments([pipeline_deployment(DeploymentRequest(path, [], **when))], "left")
        }
        return rows["run-pipeline/left"]["schedules"]

    assert deployed(interval_s=86400) == "every 1 day, 0:00:00 UTC"
    (deployment,) = [part for part in ask("deployments/filter", {"limit": 200}) if part["name"] == "left"]
    (began,) = deployment["schedules"]
    ask(f"deployments/{deployment['id']}/schedules/{began['id']}", {"active": False}, method="PATCH")
    assert deployed() == "every 1 day, 0:00:00 UTC (inactive)"
    assert deployed(interval_s=86400) == "every 1 day, 0:00:00 UTC"
    (after,) = ask(f"deployments/{deployment['id']}")["schedules"]
    assert after["schedule"]["anchor_date"] == began["schedule"]["anchor_date"]
    assert deployed(cron="0 3 * * 1", timezone="Asia/Tokyo") == "0 3 * * 1 Asia/Tokyo"


def test_the_form_of_a_backfill_runs_what_is_missing_in_one_flow_run_and_lists_what_failed(
    tmp_path, server, monkeypatch
):
    from flows.deployed_flows import backfill_flow

    monkeypatch.setenv("ZSCIR_STORE", str(tmp_path / "store"))
    for day in ("2026-11-01", "2026-11-03"):
        (tmp_path / f"{day}.csv").write_text(f"url,text\nhttp://a.example/{day},a cube\n")
    path = tmp_path / "sliced.toml"
    path.write_text(
        'name = "sliced"\n[[steps]]\nstage = "ingest"\nspec = { source = "s" }\ninputs = { urls = "file:{date}.csv" }\n'
    )
    flow_parameters = {"pipeline": str(path), "first": "2026-11-01", "last": "2026-11-03", "set": ["ingest.source=t"]}
    state = backfill_flow(**flow_parameters, return_state=True)
    assert state.is_failed()
    error_text = state.message.splitlines()
    assert error_text[0] == "1 of 3 partitions failed; the others are made:"
    assert "2026-11-02.csv: no such file" in error_text[1]
    words = f"zscir backfill {path} --from 2026-11-01 --to 2026-11-03 --every day --set ingest.source=t"
    assert error_text[-1].strip() == words
    runs = list_runs(store_at(tmp_path / "store", tmp_path / "cache"))
    assert [(run["trigger"], run["status"]) for run in runs] == [("backfill", "succeeded")] * 2
    assert {run["flow_run_id"] for run in runs} == {str(state.state_details.flow_run_id)}
    (tmp_path / "2026-11-02.csv").write_text("url,text\nhttp://a.example/2,a cube\n")
    found = backfill_flow(**flow_parameters)
    assert list(found.values()) == ["found", "done", "found"]
