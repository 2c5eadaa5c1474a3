"""Pools: the work pools that steps name are looked for, and each gets the deployment by which it is given steps."""

from collections.abc import Sequence

from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import ObjectNotFound

from flows.deploy import FORM, Deployment, definitions, deploy, server
from flows.remote_worker import make_dispatched
from zscir.runtime.errors import RequestError

KEPT = ("tags", "parameters", "job_variables", "concurrency_limit", "concurrency_options")


def need_pools(pools: Sequence[str]) -> None:
    """See that each of ``pools`` is there and has its deployment; RequestError when it is not, or no server is.

    What somebody set for a pool's deployment on Prefect's page, such as an image or how many at once, stays.
    """
    with server() as client:
        wanted = [_deployment(client, name) for name in pools]
    deploy(wanted, kept=KEPT)


def _deployment(client: SyncPrefectClient, pool: str) -> Deployment:
    try:
        client.read_work_pool(pool)
    except ObjectNotFound:
        raise RequestError(
            f"the Prefect server has no such work pool; make one: prefect work-pool create {pool} --type process "
            "(or kubernetes: infra/README.md)"
        ) from None
    form = next(one for one in definitions() if one.name == FORM)
    flow = make_dispatched.fn
    return form.model_copy(
        update={
            "name": pool, "entrypoint": f"{flow.__module__}.{flow.__name__}", "tags": ["zscir", "dispatch"],
            "work_pool": form.work_pool.model_copy(update={"name": pool}),
        }
    )  # fmt: skip
