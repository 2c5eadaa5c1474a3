"""deploy: the definitions in prefect.yaml, or one pipeline with a schedule, become deployments of a Prefect server."""

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import httpx
import yaml
from prefect import Flow, get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate, WorkPoolCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound, PrefectHTTPStatusError
from prefect.utilities.callables import parameter_schema
from prefect.workers.process import ProcessWorker
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flows.automations import WatchedFlows, ensure_automations
from flows.pipeline import pipeline_flow
from flows.remote_worker import remote_chunks_flow, remote_job_flow
from zscir.maintenance.doctor import prefect_check
from zscir.pipeline.execute import absolute_change
from zscir.pipeline.partitions import PartitionLength
from zscir.pipeline.pipeline_file import load_pipeline
from zscir.runtime.errors import RequestError
from zscir.runtime.settings import data_specs, spec_path

DEFINITIONS_FILE = Path(__file__).with_name("prefect.yaml")
REQUESTED_SLUG = "asked"  # the slug of the schedule that a command line gave
FORM_DEPLOYMENT = "any"  # the deployment that runs whatever pipeline it is given
BANNED_CHARS = "/%&<>"  # by Prefect
Row = dict[str, Any]


class StrictModel(BaseModel):
    """Part of prefect.yaml; a word that is not known here is an error, as it would be left out without a sound."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ScheduleConfig(StrictModel):
    """When a deployment starts by itself."""

    slug: str
    cron: str | None = None
    interval: float | None = None  # seconds
    anchor_date: datetime | None = None
    timezone: str = "UTC"
    active: bool = True

    def made(self) -> CronSchedule | IntervalSchedule:
        """The schedule as Prefect's client takes it; RequestError when it is none."""
        try:
            if self.cron is not None:
                return CronSchedule(cron=self.cron, timezone=self.timezone)
            anchor = {} if self.anchor_date is None else {"anchor_date": self.anchor_date}
            interval = timedelta(seconds=self.interval or 0)
            return IntervalSchedule(interval=interval, timezone=self.timezone, **anchor)
        except ValidationError as error:
            words = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
            raise RequestError(
                f"schedule '{self.cron or self.interval}', time zone '{self.timezone}': {words}; "
                "write a cron line as '0 3 * * *', a time zone as Europe/Berlin"
            ) from None


class LimitConfig(StrictModel):
    """How many runs of a deployment may be at work at once, and what becomes of one more."""

    limit: int
    collision_strategy: Literal["ENQUEUE", "CANCEL_NEW"]


class PoolConfig(StrictModel):
    """The work pool whose workers take a deployment's runs."""

    name: str
    job_variables: dict[str, Any] = Field(default_factory=dict)


class DeploymentConfig(StrictModel):
    """One deployment, in prefect.yaml's words."""

    name: str
    entrypoint: str
    work_pool: PoolConfig
    version_type: Literal["prefect:simple"]  # the flow's own, which is the package's
    tags: list[str] = Field(default_factory=list)
    parameters: dict[str, Any] = Field(default_factory=dict)
    concurrency_limit: LimitConfig | None = None
    schedules: list[ScheduleConfig] = Field(default_factory=list)

    def flow(self) -> Flow[..., Any]:
        """The flow that ``entrypoint`` names."""
        module, _, name = self.entrypoint.rpartition(".")
        found: Flow[..., Any] = getattr(import_module(module), name)
        return found


@dataclass(frozen=True)
class DeploymentRequest:
    """A pipeline to deploy: its file, changed fields, how many at once, and when it starts by itself."""

    path: Path
    changes: list[str]
    cron: str | None = None
    interval_s: float | None = None
    timezone: str = "UTC"
    partition: PartitionLength | None = None
    at_once: int = 1


def load_deployments(path: Path = DEFINITIONS_FILE) -> list[DeploymentConfig]:
    """The deployments of prefect.yaml, checked."""
    try:
        return [DeploymentConfig.model_validate(one) for one in yaml.safe_load(path.read_text())["deployments"]]
    except (ValidationError, KeyError, TypeError, yaml.YAMLError) as error:
        raise RequestError(f"{path}: not a file of deployments: {error}") from None


def pipeline_deployment(wanted: DeploymentRequest) -> DeploymentConfig:
    """The deployment of one pipeline: named after it, one run at a time, started by the asked schedule.

    A run that would be the second is left out, since the one at work makes what it would make. With partitions each
    run has its own files, so the second waits.
    """
    path = spec_path(str(wanted.path)).resolve()
    given = wanted.changes if wanted.partition is None else [*wanted.changes, "partition.date=2026-01-01"]
    name = load_pipeline(path, given).name
    template = next(one for one in load_deployments() if one.name == FORM_DEPLOYMENT)
    if name == FORM_DEPLOYMENT or set(name) & set(BANNED_CHARS):
        raise RequestError(
            f"{path}: a deployment cannot be named '{name}'; give --set name=... without any of {BANNED_CHARS}"
        )
    shipped = data_specs().resolve()
    where = Path("data_specs", path.relative_to(shipped)) if path.is_relative_to(shipped) else path
    parameters: dict[str, Any] = {"pipeline": str(where), "set": [absolute_change(change) for change in wanted.changes]}
    if wanted.partition is not None:
        parameters |= {"partition": wanted.partition, "timezone": wanted.timezone}
    limit = LimitConfig(
        limit=wanted.at_once, collision_strategy="CANCEL_NEW" if wanted.partition is None else "ENQUEUE"
    )
    schedules = []
    if wanted.cron is not None or wanted.interval_s is not None:
        asked = ScheduleConfig(
            slug=REQUESTED_SLUG, cron=wanted.cron, interval=wanted.interval_s, timezone=wanted.timezone
        )
        asked.made()
        schedules = [asked]
    return template.model_copy(
        update={"name": name, "parameters": parameters, "concurrency_limit": limit, "schedules": schedules}
    )


def register_deployments(
    deployments: list[DeploymentConfig], pool: str | None = None, webhook: str | None = None, kept: Sequence[str] = ()
) -> list[Row]:
    """Register ``deployments`` at the server that PREFECT_API_URL names, and what it does when a run of ours dies.

    One row for each, and one for a pool that had to be made. ``webhook``: whom to tell of runs that stop (automations).
    One that is registered as it stands is left alone. One that exists keeps its schedules, as somebody may have turned
    them on or off in Prefect's page; only the one that a command line asks for is set anew. It also keeps the fields
    ``kept``. RequestError when no server answers.
    """
    with prefect_client() as client:
        rows = []
        for name in dict.fromkeys(pool or one.work_pool.name for one in deployments):
            rows += _ensure_pool(client, name)
        flows = {name: client.create_flow_from_name(name) for name in {one.flow().name for one in deployments}}
        wanted = DeploymentFilter(name=DeploymentFilterName(any_=[one.name for one in deployments]))
        there = {(one.flow_id, one.name): one for one in client.read_deployments(deployment_filter=wanted, limit=200)}
        for one in deployments:
            flow_id = flows[one.flow().name]
            found = there.get((flow_id, one.name))
            rows.append(_register(client, one, pool or one.work_pool.name, flow_id, found, kept))
        return rows + asyncio.run(_register_automations(webhook))


def watched_flows() -> WatchedFlows:
    """Our flows by name. The end of a remote step is reported by the run that asked for it, so it is listed apart."""
    runs = frozenset(one.flow().name for one in load_deployments()) | {pipeline_flow.name}
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
        cure = "; check PREFECT_API_AUTH_STRING" if code in (401, 403) else ""
        raise RequestError(f"Prefect's server answers {code}: {error.response.text[:300]}{cure}") from error
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
    except ObjectAlreadyExists:  # somebody else was quicker
        return []
    return [{"deployment": "(work pool)", "did": "created", "pool": name, "limit": None, "schedules": ""}]


def _register(
    client: SyncPrefectClient,
    one: DeploymentConfig,
    pool: str,
    flow_id: UUID,
    found: DeploymentResponse | None,
    kept: Sequence[str],
) -> Row:
    flow, limit = one.flow(), one.concurrency_limit
    options = limit and ConcurrencyOptions(collision_strategy=ConcurrencyLimitStrategy(limit.collision_strategy))
    given: dict[str, Any] = {
        "version": flow.version,
        "description": flow.description,
        "entrypoint": one.entrypoint,
        "tags": one.tags,
        "parameters": one.parameters,
        "parameter_openapi_schema": parameter_schema(flow).model_dump(exclude_unset=True),
        "enforce_parameter_schema": True,
        "work_pool_name": pool,
        "job_variables": one.work_pool.job_variables,
        "concurrency_limit": limit and limit.limit,
        "concurrency_options": options,
        "pull_steps": [],
    }
    row = {"deployment": f"{flow.name}/{one.name}", "pool": pool, "limit": limit and limit.limit}
    schedules = [
        DeploymentScheduleCreate(schedule=part.made(), active=part.active, slug=part.slug) for part in one.schedules
    ]
    if found is None:
        client.create_deployment(flow_id, one.name, schedules=schedules, **given)
        return row | {"did": "created", "schedules": _format_schedules(schedules)}
    did = "unchanged"
    given = {field: value for field, value in given.items() if field not in kept}
    if any(_server_value(found, field) != value for field, value in given.items()):
        client.update_deployment(found.id, DeploymentUpdate(**given))
        did = "updated"
    for schedule in [part for part in schedules if part.slug == REQUESTED_SLUG]:
        did = _set_schedule(client, found, schedule) or did
    return row | {"did": did, "schedules": _format_schedules(client.read_deployment_schedules(found.id))}


def _server_value(found: DeploymentResponse, field: str) -> Any:
    """What the server keeps of a field that we give; it calls a limit by another name."""
    if field == "concurrency_limit":
        return found.global_concurrency_limit and found.global_concurrency_limit.limit
    return getattr(found, field)


def _set_schedule(client: SyncPrefectClient, found: DeploymentResponse, asked: DeploymentScheduleCreate) -> str:
    """Make or change the schedule of that slug. One that is the same already goes on counting from where it began."""
    old = next((one for one in found.schedules if one.slug == asked.slug), None)
    if old is None:
        client.create_deployment_schedules(found.id, [asked])
    elif _schedule_fields(old.schedule) != _schedule_fields(asked.schedule):
        client.update_deployment_schedule(found.id, old.id, active=asked.active, schedule=asked.schedule)
    elif not old.active:
        client.update_deployment_schedule(found.id, old.id, active=True)
    else:
        return ""
    return "updated"


def _schedule_fields(schedule: Any) -> dict[str, Any]:
    """What a schedule says, but for the moment from which an interval counts."""
    words: dict[str, Any] = schedule.model_dump(exclude={"anchor_date"})
    return words


def _format_schedules(schedules: Sequence[Any]) -> str:
    return "; ".join(sorted(map(format_schedule, schedules)))


def format_schedule(given: Any) -> str:
    """A schedule in a few words."""
    schedule = given.schedule
    if isinstance(schedule, CronSchedule):
        when = schedule.cron
    elif isinstance(schedule, IntervalSchedule):
        when = f"every {schedule.interval}"
    else:
        when = schedule.rrule
    return f"{when} {schedule.timezone or 'UTC'}{'' if given.active else ' (inactive)'}"
