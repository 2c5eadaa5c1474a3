"""zscir deploy: register deployments, of prefect.yaml or of one pipeline and its schedule, at a Prefect server."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zscir.cli.options import JsonOption, SetOption
from zscir.cli.output import print_rows
from zscir.runtime.errors import RequestError

if TYPE_CHECKING:
    from flows.deployment_config import DeploymentRequest

OptionalPipelineArgument = Annotated[
    Path | None, typer.Argument(help="A pipeline file; without one, all of flows/prefect.yaml")
]
PoolOption = Annotated[str | None, typer.Option("--pool", help="Work pool; made, of processes, if it is missing.")]
ScheduleOption = Annotated[str | None, typer.Option("--schedule", help="Start by itself at these times: a cron line.")]
IntervalOption = Annotated[float | None, typer.Option("--interval", help="Start by itself every so many seconds.")]
TimezoneOption = Annotated[str, typer.Option("--timezone", help="Of the schedule: Europe/Berlin, UTC.")]
PartitionOption = Annotated[
    str | None, typer.Option("--partition", help="Fill {date} with the last whole hour, day, week, month or year.")
]
AtOnceOption = Annotated[int, typer.Option("--at-once", min=1, help="Runs of this pipeline at work at once.")]
WebhookOption = Annotated[
    str | None,
    typer.Option("--webhook", help="Notify when a run stops: an http(s) address, or BLOCK-TYPE/NAME of the server."),
]
DEPLOYMENT_COLUMNS = ("deployment", "did", "pool", "limit", "schedules")


def deploy_command(
    pipeline: OptionalPipelineArgument = None,
    pool: PoolOption = None,
    schedule: ScheduleOption = None,
    interval: IntervalOption = None,
    timezone: TimezoneOption = "UTC",
    partition: PartitionOption = None,
    at_once: AtOnceOption = 1,
    changes: SetOption = None,
    webhook: WebhookOption = None,
    as_json: JsonOption = False,
) -> None:
    """Register deployments at the Prefect server that PREFECT_API_URL names, so that workers can run them.

    Example: zscir deploy my_pipeline.toml --schedule "0 3 * * *" --timezone Europe/Berlin
    """
    # Before Prefect is imported, which takes seconds: options that exclude each other are reported at once.
    wanted = deployment_request(pipeline, schedule, interval, timezone, partition, at_once, changes or [])
    from flows.deploy import register_deployments
    from flows.deployment_config import load_deployments, pipeline_deployment

    deployments = load_deployments() if wanted is None else [pipeline_deployment(wanted)]
    rows = register_deployments(deployments, pool, webhook)
    print_rows(rows, as_json, "deployments", None if as_json else DEPLOYMENT_COLUMNS)


def deployment_request(
    pipeline: Path | None,
    schedule: str | None,
    interval: float | None,
    timezone: str,
    partition: str | None,
    at_once: int,
    changes: list[str],
) -> "DeploymentRequest | None":
    """What the options of ``deploy`` and ``serve`` request beside prefect.yaml; RequestError when they are at odds."""
    if pipeline is None:
        if schedule or interval or partition or changes or at_once != 1:
            raise RequestError("--schedule, --interval, --partition, --at-once and --set belong to a PIPELINE; name it")
        return None
    if schedule and interval:
        raise RequestError("--schedule and --interval exclude each other; give one")
    from flows.deployment_config import DeploymentRequest
    from zscir.pipeline.partitions import parse_partition_length

    every = None if partition is None else parse_partition_length(partition)
    return DeploymentRequest(pipeline, changes, schedule, interval, timezone, every, at_once)
