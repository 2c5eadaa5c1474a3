"""The pipeline flow: the steps of one run, each as a task, in the order of the plan."""

from prefect import flow
from prefect.runtime import flow_run

from flows.steps import run_step
from flows.ui_artifacts import publish_plan, publish_scores
from zscir.pipeline.run import ACTIVE_RUNS


@flow(name="pipeline", flow_run_name="{pipeline_name}-{run_id}", validate_parameters=False, persist_result=False)
def pipeline_flow(run_id: str, pipeline_name: str, steps: list[list[str]]) -> dict[str, str]:
    """Step name -> key of its artifact; ``steps`` lists [step, stage]. Only names and keys enter and leave a flow."""
    run = ACTIVE_RUNS[run_id]
    run.recorder.set_flow_run(str(flow_run.id))
    publish_plan(run, [name for name, _ in steps])
    made = {name: run_step(run_id, name, stage) for name, stage in steps}
    publish_scores(run)
    return made
