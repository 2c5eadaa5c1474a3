"""Steps: any step of a pipeline becomes a Prefect task that is named after its stage."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from zscir.runs import do_step


@task(cache_policy=NO_CACHE, task_run_name="{name}", persist_result=False)
def make_step(run_id: str, name: str) -> str:
    """The key of the step's artifact; the store decides whether it is made or reused."""
    return do_step(run_id, name)


def run_step(run_id: str, name: str, stage: str) -> str:
    """Run ``make_step`` under the stage's name, so that the stage is what the UI shows."""
    key: str = make_step.with_options(name=stage)(run_id, name)
    return key
