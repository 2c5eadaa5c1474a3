"""Register deployments, work pools and automations at a Prefect server."""

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate, WorkPoolCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound, PrefectHTTPStatusError
from prefect.utilities.callables import parameter_schema
from prefect.workers.process import ProcessWorker

from flows.automations import WatchedFlows, ensure_automations
from flows.deployment_config import REQUESTED_SLUG, DeploymentConfig, load_deployments
from flows.pipeline import pipeline_flow
from flows.remote_worker import remote_chunks_flow, remote_job_flow
from zscir.maintenance.doctor import prefect_check
from zscir.runtime.errors import RequestError

Row = dict[str, Any]


def register_deployments(
    deployments: list[DeploymentConfig],
    pool: str | None = None,
    webhook: str | None = None,
    keep_fields: Sequence[str] = (),
) -> list[Row]:
    """Register ``deployments`` at the server that PREFECT_API_URL names, and the automations for runs that die.

    One row for each, and one for a pool that had to be made. ``webhook`` is notified of runs that stop (automations).
    A deployment that is registered as it should be is left alone. One that exists keeps its schedules, as somebody may
    have turned them on or off on Prefect's page; only the one that a command line requests is set anew. It also keeps
    the values of ``keep_fields``. RequestError when no server answers.
    """
    with prefect_client() as client:
        rows = []
        for name in dict.fromkeys(pool or deployment.work_pool.name for deployment in deployments):
            rows += _ensure_pool(client, name)
        flow_names = {deployment.flow().name for deployment in deployments}
        flow_ids = {name: client.create_flow_from_name(name) for name in flow_names}
        named = DeploymentFilter(name=DeploymentFilterName(any_=[deployment.name for deployment in deployments]))
        found = client.read_deployments(deployment_filter=named, limit=200)  # 200 is the server's maximum
        registered = {(response.flow_id, response.name): response for response in found}
        for deployment in deployments:
            flow_id = flow_ids[deployment.flow().name]
            old = registered.get((flow_id, deployment.name))
            own_pool = pool or deployment.work_pool.name
            rows.append(_register(client, deployment, own_pool, flow_id, old, keep_fields))
        return rows + asyncio.run(_register_automations(webhook))


def watched_flows() -> WatchedFlows:
    """Our flows by name. Remote steps are apart: their end is reported by the run that requested them."""
    runs = frozenset(deployment.flow().name for deployment in load_deployments()) | {pipeline_flow.name}
    return WatchedFlows(runs, frozenset((remote_job_flow.name, remote_chunks_flow.name)))


async def _register_automations(webhook: str | None) -> list[Row]:
    async with get_client() as client:
        names = await ensure_automations(client, watched_flows(), webhook)
    return [
        {"deployment": f"(automation) {name}", "pool": "", "limit": None, "did": "there", "schedules": ""}
        for name in names
    ]


@contextmanager
def prefect_client() -> Iterator[SyncPrefectClient]:
    """A client of the server that the settings name; RequestError when there is none or it refuses."""
    check = prefect_check(os.environ, Path.home())
    if check.status != "ok":
        raise RequestError(f"Prefect's server: {check.found}; is it running, and is PREFECT_API_URL right?")
    if "none named" in check.found:
        raise RequestError(
            "no Prefect server is named: set PREFECT_API_URL=http://HOST:4200/api, or let `zscir serve` bring one up"
        )
    try:
        with get_client(sync_client=True) as client:
            yield client
    except PrefectHTTPStatusError as error:
        code = error.response.status_code
        advice = "; check PREFECT_API_AUTH_STRING" if code in (401, 403) else ""
        raise RequestError(f"Prefect's server answers {code}: {error.response.text[:300]}{advice}") from error
    except httpx.HTTPError as error:
        raise RequestError(f"Prefect's server does not answer: {error!r}") from error


def _ensure_pool(client: SyncPrefectClient, name: str) -> list[Row]:
    try:
        client.read_work_pool(name)
        return []
    except ObjectNotFound:
        pass
    template = ProcessWorker.get_default_base_job_template()
    try:
        client.create_work_pool(WorkPoolCreate(name=name, type=ProcessWorker.type, base_job_template=template))
    except ObjectAlreadyExists:  # made meanwhile by another process
        return []
    return [{"deployment": "(work pool)", "did": "created", "pool": name, "limit": None, "schedules": ""}]


def _register(
    client: SyncPrefectClient,
    deployment: DeploymentConfig,
    pool: str,
    flow_id: UUID,
    old: DeploymentResponse | None,
    keep_fields: Sequence[str],
) -> Row:
    flow, limit = deployment.flow(), deployment.concurrency_limit
    options = limit and ConcurrencyOptions(collision_strategy=ConcurrencyLimitStrategy(limit.collision_strategy))
    fields: dict[str, Any] = {
        "version": flow.version,
        "description": flow.description,
        "entrypoint": deployment.entrypoint,
        "tags": deployment.tags,
        "parameters": deployment.parameters,
        "parameter_openapi_schema": parameter_schema(flow).model_dump(exclude_unset=True),
        "enforce_parameter_schema": True,
        "work_pool_name": pool,
        "job_variables": deployment.work_pool.job_variables,
        "concurrency_limit": limit and limit.limit,
        "concurrency_options": options,
        "pull_steps": [],  # no code is copied: a worker imports the installed package
    }
    row = {"deployment": f"{flow.name}/{deployment.name}", "pool": pool, "limit": limit and limit.limit}
    schedules = [
        DeploymentScheduleCreate(schedule=config.to_prefect(), active=config.active, slug=config.slug)
        for config in deployment.schedules
    ]
    if old is None:
        client.create_deployment(flow_id, deployment.name, schedules=schedules, **fields)
        return row | {"did": "created", "schedules": _format_schedules(schedules)}
    did = "unchanged"
    fields = {name: value for name, value in fields.items() if name not in keep_fields}
    if any(_server_value(old, name) != value for name, value in fields.items()):
        client.update_deployment(old.id, DeploymentUpdate(**fields))
        did = "updated"
    for schedule in schedules:
        if schedule.slug == REQUESTED_SLUG:
            did = _set_schedule(client, old, schedule) or did
    return row | {"did": did, "schedules": _format_schedules(client.read_deployment_schedules(old.id))}


def _server_value(registered: DeploymentResponse, field: str) -> Any:
    """The server's value of a field that we set; it calls a limit by another name."""
    if field == "concurrency_limit":
        return registered.global_concurrency_limit and registered.global_concurrency_limit.limit
    return getattr(registered, field)


def _set_schedule(
    client: SyncPrefectClient, registered: DeploymentResponse, requested: DeploymentScheduleCreate
) -> str:
    """Create or change the schedule of that slug; an interval that stays the same keeps its anchor."""
    old = next((schedule for schedule in registered.schedules if schedule.slug == requested.slug), None)
    if old is None:
        client.create_deployment_schedules(registered.id, [requested])
    elif _schedule_fields(old.schedule) != _schedule_fields(requested.schedule):
        client.update_deployment_schedule(registered.id, old.id, active=requested.active, schedule=requested.schedule)
    elif not old.active:
        client.update_deployment_schedule(registered.id, old.id, active=True)
    else:
        return ""
    return "updated"


def _schedule_fields(schedule: Any) -> dict[str, Any]:
    """The fields of a schedule, without the moment from which an interval counts."""
    fields: dict[str, Any] = schedule.model_dump(exclude={"anchor_date"})
    return fields


def _format_schedules(schedules: Sequence[Any]) -> str:
    return "; ".join(sorted(map(format_schedule, schedules)))


def format_schedule(given: Any) -> str:
    """A schedule as short text."""
    schedule = given.schedule
    if isinstance(schedule, CronSchedule):
        when = schedule.cron
    elif isinstance(schedule, IntervalSchedule):
        when = f"every {schedule.interval}"
    else:
        when = schedule.rrule
    return f"{when} {schedule.timezone or 'UTC'}{'' if given.active else ' (inactive)'}"
