"""serve: one machine becomes a Prefect server, a worker and a clock that starts pipelines."""

import sys
from typing import Annotated

import typer

from zscir.cli.deploy_command import (
    AtOnceOption,
    IntervalOption,
    PartitionOption,
    PipelineChoice,
    ScheduleOption,
    TimezoneOption,
    WebhookOption,
    wanted_by,
)
from zscir.cli.engine import opened
from zscir.cli.options import SetOption, StoreOption
from zscir.cli.output import say, show_rows
from zscir.runtime.progress import note

PortOption = Annotated[int, typer.Option("--port", min=1, max=65535, help="Of 127.0.0.1.")]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="Flow runs at work at once; default: no limit")]


def serve(pipeline: PipelineChoice = None, store: StoreOption = None, port: PortOption = 4200,
          limit: LimitOption = None, schedule: ScheduleOption = None, interval: IntervalOption = None,
          timezone: TimezoneOption = "UTC", partition: PartitionOption = None, at_once: AtOnceOption = 1,
          changes: SetOption = None, webhook: WebhookOption = None) -> None:  # fmt: skip
    """Be Prefect's server, a worker and the schedules on this machine until Ctrl-C; what they know outlives them.

    Example: zscir serve my_pipeline.toml --schedule "0 3 * * *" --timezone Europe/Berlin
    """
    from flows.local_server import HOST, bring_up, bury, household
    from flows.local_server import serve as work
    from zscir.lineage.reaper import reap

    asked = (schedule, interval, timezone, partition, at_once, changes or [])
    where = opened(store)
    with household(where, port) as server:
        from flows.deploy import definitions, deploy, of_pipeline

        wanted = wanted_by(pipeline, *asked)
        deployments = definitions() + ([] if wanted is None else [of_pipeline(wanted)])
        bring_up(server, port)
        pool = deployments[0].work_pool.name
        rows = deploy(deployments, webhook=webhook)
        for name in bury(pool):
            note(f"serve: {name} was at work when the last `zscir serve` ended; Prefect is told of it")
        reap(where)
        scheduled = [row for row in rows if row["schedules"]]
        show_rows(scheduled, False, f"http://{HOST}:{port}", ("deployment", "limit", "schedules"))
        say(f"elsewhere on this machine: export PREFECT_API_URL=http://{HOST}:{port}/api")
        sys.stdout.flush()
        work(server, pool, limit)
