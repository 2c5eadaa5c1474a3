"""What is deployed to a Prefect server: the deployments of prefect.yaml, or one pipeline with a schedule."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import yaml
from prefect import Flow
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from zscir.pipeline.execute import absolute_change
from zscir.pipeline.partitions import PartitionLength
from zscir.pipeline.pipeline_file import load_pipeline
from zscir.runtime.errors import RequestError
from zscir.runtime.settings import data_specs, spec_path

DEFINITIONS_FILE = Path(__file__).with_name("prefect.yaml")
REQUESTED_SLUG = "asked"  # on the server: the slug of the schedule that a command line gave
FORM_DEPLOYMENT = "any"  # the deployment that runs the pipeline named in its form
BANNED_CHARS = "/%&<>"  # Prefect refuses them in names


class StrictModel(BaseModel):
    """Part of prefect.yaml. An unknown field is an error: Prefect's own reader ignores it without a word."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ScheduleConfig(StrictModel):
    """When a deployment starts by itself."""

    slug: str
    cron: str | None = None
    interval: float | None = None  # seconds
    anchor_date: datetime | None = None
    timezone: str = "UTC"
    active: bool = True

    def to_prefect(self) -> CronSchedule | IntervalSchedule:
        """The schedule as Prefect's client takes it; RequestError for a wrong cron line, interval or time zone."""
        try:
            if self.cron is not None:
                return CronSchedule(cron=self.cron, timezone=self.timezone)
            anchor = {} if self.anchor_date is None else {"anchor_date": self.anchor_date}
            interval = timedelta(seconds=self.interval or 0)
            return IntervalSchedule(interval=interval, timezone=self.timezone, **anchor)
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, part['loc']))}: {part['msg']}" for part in error.errors())
            raise RequestError(
                f"schedule '{self.cron or self.interval}', time zone '{self.timezone}': {problems}; "
                "write a cron line as '0 3 * * *', a time zone as Europe/Berlin"
            ) from None


class LimitConfig(StrictModel):
    """How many runs of a deployment may be at work at once, and whether one more waits or is left out."""

    limit: int
    collision_strategy: Literal["ENQUEUE", "CANCEL_NEW"]


class PoolConfig(StrictModel):
    """The work pool whose workers execute a deployment's runs."""

    name: str
    job_variables: dict[str, Any] = Field(default_factory=dict)


class DeploymentConfig(StrictModel):
    """One deployment, with the fields that it has in prefect.yaml."""

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
    """The deployments of prefect.yaml; RequestError when the file is not one."""
    try:
        return [DeploymentConfig.model_validate(values) for values in yaml.safe_load(path.read_text())["deployments"]]
    except (ValidationError, KeyError, TypeError, yaml.YAMLError) as error:
        raise RequestError(f"{path}: not a file of deployments: {error}") from None


def form_deployment() -> DeploymentConfig:
    """The deployment with a form for any pipeline, of which those of pipelines and work pools are copies."""
    return next(deployment for deployment in load_deployments() if deployment.name == FORM_DEPLOYMENT)


def pipeline_deployment(wanted: DeploymentRequest) -> DeploymentConfig:
    """The deployment of one pipeline: named after it, one run at a time, started by the requested schedule.

    A second run at a time is left out, since the one at work makes what it would make. With partitions each run has its
    own files, so the second waits. RequestError for a wrong pipeline, name or schedule.
    """
    path = spec_path(str(wanted.path)).resolve()
    # Any date: the pipeline is only loaded for its name, and so that errors in it are reported now.
    changes = wanted.changes if wanted.partition is None else [*wanted.changes, "partition.date=2026-01-01"]
    name = load_pipeline(path, changes).name
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
        requested = ScheduleConfig(
            slug=REQUESTED_SLUG, cron=wanted.cron, interval=wanted.interval_s, timezone=wanted.timezone
        )
        requested.to_prefect()
        schedules = [requested]
    return form_deployment().model_copy(
        update={"name": name, "parameters": parameters, "concurrency_limit": limit, "schedules": schedules}
    )
