"""Pools: the work pools that steps name are looked for, and each gets the deployment by which it is given steps."""

from collections.abc import Sequence

from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import ObjectNotFound

from flows.deploy import FORM_DEPLOYMENT, DeploymentConfig, load_deployments, prefect_client, register_deployments
from flows.remote_worker import remote_job_flow
from zscir.runtime.errors import RequestError

KEPT_FIELDS = ("tags", "parameters", "job_variables", "concurrency_limit", "concurrency_options")


def ensure_work_pools(pools: Sequence[str]) -> None:
    """See that each of ``pools`` is there and has its deployment; RequestError when it is not, or no server is.

    What somebody set for a pool's deployment on Prefect's page, such as an image or how many at once, stays.
    """
    with prefect_client() as client:
        wanted = [_deployment(client, name) for name in pools]
    register_deployments(wanted, kept=KEPT_FIELDS)


def _deployment(client: SyncPrefectClient, pool: str) -> DeploymentConfig:
    try:
        client.read_work_pool(pool)
    except ObjectNotFound:
        raise RequestError(
            f"the Prefect server has no such work pool; make one: prefect work-pool create {pool} --type process "
            "(or kubernetes: infra/README.md)"
        ) from None
    form = next(one for one in load_deployments() if one.name == FORM_DEPLOYMENT)
    flow = remote_job_flow.fn
    return form.model_copy(
        update={
            "name": pool,
            "entrypoint": f"{flow.__module__}.{flow.__name__}",
            "tags": ["zscir", "dispatch"],
            "work_pool": form.work_pool.model_copy(update={"name": pool}),
        }
    )
