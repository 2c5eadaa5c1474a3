"""The pipeline flow: the steps of one run, each as a task, in the order of the plan."""

from prefect import flow
from prefect.runtime import flow_run

from flows.steps import run_step
from flows.ui_artifacts import show_plan, show_scores
from zscir.pipeline.run import UNDER_WAY


@flow(name="pipeline", flow_run_name="{pipeline_name}-{run_id}", validate_parameters=False, persist_result=False)
def pipeline(run_id: str, pipeline_name: str, steps: list[list[str]]) -> dict[str, str]:
    """Step name -> key of its artifact; ``steps`` lists [step, stage]. Only names and keys enter and leave a flow."""
    run = UNDER_WAY[run_id]
    run.recorder.set_flow_run(str(flow_run.id))
    show_plan(run, [name for name, _ in steps])
    made = {name: run_step(run_id, name, stage) for name, stage in steps}
    show_scores(run)
    return made
