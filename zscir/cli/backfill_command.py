"""zscir backfill: run a pipeline once for each date or shard of a span that is not made yet."""

import shlex
import sys
from typing import Annotated

import typer

from zscir.cli.engine import check_pools, open_checked_store, run_with_prefect
from zscir.cli.options import JsonOption, PipelineArgument, SetOption, StoreOption
from zscir.cli.output import print_rows

FirstOption = Annotated[str, typer.Option("--from", help="First partition: 2026-11-01, 2026-11-01T05, or a number.")]
LastOption = Annotated[str, typer.Option("--to", help="Last partition; it is included.")]
EveryOption = Annotated[str, typer.Option("--every", help="Of dates: hour, day, week, month or year.")]


def backfill_command(
    pipeline: PipelineArgument,
    first: FirstOption,
    last: LastOption,
    every: EveryOption = "day",
    store_uri: StoreOption = None,
    changes: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a pipeline for each date or shard that is not made yet; {date} or {shard} stands in its source's `urls`.

    Finished partitions are reused. One that fails stops no other; exit code 3 reports it at the end.

    Example: zscir backfill my_pipeline.toml --from 2026-11-01 --to 2026-11-30
    """
    from zscir.pipeline.backfill import raise_failed_partitions, run_backfill
    from zscir.pipeline.execute import RunRequest
    from zscir.pipeline.partitions import partitions_between

    request, partitions = RunRequest(pipeline, changes or []), partitions_between(first, last, every)
    rows = run_backfill(open_checked_store(store_uri), request, partitions, run_with_prefect, check_pools)
    print_rows(rows, as_json, f"backfill of {pipeline}")
    # The line as it was typed: typed again it makes what is missing and reuses the rest.
    raise_failed_partitions(rows, shlex.join(["zscir", *sys.argv[1:]]))
