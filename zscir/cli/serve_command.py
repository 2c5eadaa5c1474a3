"""zscir serve: run a Prefect server, a worker and scheduled pipelines on one machine."""

import sys
from typing import Annotated

import typer

from zscir.cli.deploy_command import (
    AtOnceOption,
    IntervalOption,
    OptionalPipelineArgument,
    PartitionOption,
    ScheduleOption,
    TimezoneOption,
    WebhookOption,
    deployment_request,
)
from zscir.cli.engine import open_checked_store
from zscir.cli.options import SetOption, StoreOption
from zscir.cli.output import print_lines, print_rows
from zscir.runtime.progress import log_info

PortOption = Annotated[int, typer.Option("--port", min=1, max=65535, help="Of 127.0.0.1.")]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="Flow runs at work at once; default: no limit")]


def serve_command(
    pipeline: OptionalPipelineArgument = None,
    store_uri: StoreOption = None,
    port: PortOption = 4200,
    limit: LimitOption = None,
    schedule: ScheduleOption = None,
    interval: IntervalOption = None,
    timezone: TimezoneOption = "UTC",
    partition: PartitionOption = None,
    at_once: AtOnceOption = 1,
    changes: SetOption = None,
    webhook: WebhookOption = None,
) -> None:
    """Run Prefect's server, a worker and the schedules on this machine until Ctrl-C; their state is kept.

    Example: zscir serve my_pipeline.toml --schedule "0 3 * * *" --timezone Europe/Berlin
    """
    from flows.local_server import SERVER_HOST, local_server, mark_orphaned_runs, start_server, supervise_worker
    from zscir.lineage.reaper import reap_dead_runs

    options = (schedule, interval, timezone, partition, at_once, changes or [])
    store = open_checked_store(store_uri)
    with local_server(store, port) as server:
        # Prefect reads the address of its server when it is imported, and ``local_server`` sets it.
        from flows.deploy import register_deployments
        from flows.deployment_config import load_deployments, pipeline_deployment

        wanted = deployment_request(pipeline, *options)
        deployments = load_deployments() + ([] if wanted is None else [pipeline_deployment(wanted)])
        # After the deployments are read: a mistake in a pipeline file ends the command before a server is up.
        start_server(server, port)
        pool = deployments[0].work_pool.name
        rows = register_deployments(deployments, webhook=webhook)
        # Before the worker starts: what Prefect calls running in this pool now was left by an earlier `zscir serve`.
        for name in mark_orphaned_runs(pool):
            log_info(f"serve: {name} was at work when the last `zscir serve` ended; its state in Prefect is corrected")
        reap_dead_runs(store)
        scheduled = [row for row in rows if row["schedules"]]
        print_rows(scheduled, False, f"http://{SERVER_HOST}:{port}", ("deployment", "limit", "schedules"))
        print_lines(f"elsewhere on this machine: export PREFECT_API_URL=http://{SERVER_HOST}:{port}/api")
        # The next call returns at Ctrl-C, and a pipe would show none of this until then.
        sys.stdout.flush()
        supervise_worker(server, pool, limit)
