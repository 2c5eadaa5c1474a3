"""deploy: prefect.yaml, or one pipeline and its schedule, become deployments of a Prefect server."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zscir.cli.options import JsonOption, SetOption
from zscir.cli.output import show_rows
from zscir.runtime.errors import RequestError

if TYPE_CHECKING:
    from flows.deploy import Wanted

PipelineChoice = Annotated[Path | None, typer.Argument(help="A pipeline file; without one, all of flows/prefect.yaml")]
PoolOption = Annotated[str | None, typer.Option("--pool", help="Work pool; made, of processes, if it is missing.")]
ScheduleOption = Annotated[str | None, typer.Option("--schedule", help="Start by itself at these times: a cron line.")]
IntervalOption = Annotated[float | None, typer.Option("--interval", help="Start by itself every so many seconds.")]
TimezoneOption = Annotated[str, typer.Option("--timezone", help="Of the schedule: Europe/Berlin, UTC.")]
PartitionOption = Annotated[
    str | None,
    typer.Option("--partition", help="Fill {date} with the last whole hour, day, week, month or year."),
]
AtOnceOption = Annotated[int, typer.Option("--at-once", min=1, help="Runs of this pipeline at work at once.")]
WebhookOption = Annotated[
    str | None,
    typer.Option("--webhook", help="Tell of runs that stop: an http(s) address, or BLOCK-TYPE/NAME of the server."),
]
DID = ("deployment", "did", "pool", "limit", "schedules")


def deploy(pipeline: PipelineChoice = None, pool: PoolOption = None, schedule: ScheduleOption = None,
           interval: IntervalOption = None, timezone: TimezoneOption = "UTC", partition: PartitionOption = None,
           at_once: AtOnceOption = 1, changes: SetOption = None, webhook: WebhookOption = None,
           as_json: JsonOption = False) -> None:  # fmt: skip
    """Register deployments at the Prefect server that PREFECT_API_URL names, so that workers can run them.

    Example: zscir deploy my_pipeline.toml --schedule "0 3 * * *" --timezone Europe/Berlin
    """
    wanted = wanted_by(pipeline, schedule, interval, timezone, partition, at_once, changes or [])
    from flows.deploy import definitions, of_pipeline
    from flows.deploy import deploy as register

    rows = register(definitions() if wanted is None else [of_pipeline(wanted)], pool, webhook)
    show_rows(rows, as_json, "deployments", None if as_json else DID)


def wanted_by(pipeline: Path | None, schedule: str | None, interval: float | None, timezone: str, partition: str | None,
            at_once: int, changes: list[str]) -> "Wanted | None":  # fmt: skip
    """What the options of ``deploy`` and ``serve`` ask for beside prefect.yaml; RequestError when they are at odds."""
    if pipeline is None:
        if schedule or interval or partition or changes or at_once != 1:
            raise RequestError("--schedule, --interval, --partition, --at-once and --set belong to a PIPELINE; name it")
        return None
    if schedule and interval:
        raise RequestError("--schedule and --interval exclude each other; give one")
    from flows.deploy import Wanted
    from zscir.pipeline.partitions import as_every

    every = None if partition is None else as_every(partition)
    return Wanted(pipeline, changes, schedule, interval, timezone, every, at_once)
