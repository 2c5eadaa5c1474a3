"""Check that the work pools of steps exist, and register the deployment by which each is given its steps."""

from collections.abc import Sequence

from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import ObjectNotFound

from flows.deploy import prefect_client, register_deployments
from flows.deployment_config import DeploymentConfig, form_deployment
from flows.remote_worker import remote_job_flow
from zscir.runtime.errors import RequestError

KEPT_FIELDS = ("tags", "parameters", "job_variables", "concurrency_limit", "concurrency_options")


def ensure_work_pools(pools: Sequence[str]) -> None:
    """Check that each of ``pools`` exists, and register its deployment; RequestError when it, or a server, is missing.

    What somebody set for a pool's deployment on Prefect's page, such as an image or how many at once, stays.
    """
    with prefect_client() as client:
        wanted = [_deployment(client, name) for name in pools]
    register_deployments(wanted, keep_fields=KEPT_FIELDS)


def _deployment(client: SyncPrefectClient, pool: str) -> DeploymentConfig:
    try:
        client.read_work_pool(pool)
    except ObjectNotFound:
        raise RequestError(
            f"the Prefect server has no such work pool; make one: prefect work-pool create {pool} --type process "
            "(or kubernetes: docs/workers.md)"
        ) from None
    form, flow = form_deployment(), remote_job_flow.fn
    return form.model_copy(
        update={
            "name": pool,
            "entrypoint": f"{flow.__module__}.{flow.__name__}",
            "tags": ["zscir", "dispatch"],
            "work_pool": form.work_pool.model_copy(update={"name": pool}),
        }
    )
