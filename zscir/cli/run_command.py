"""zscir run and zscir rerun: execute a pipeline, or the rest of one that stopped."""

from zscir.cli.engine import execute_request, open_checked_store, print_run
from zscir.cli.options import (
    FromOption,
    JsonOption,
    MaxHoursOption,
    MaxUsdOption,
    OnlyOption,
    PipelineArgument,
    SetOption,
    StoreOption,
    TokenOption,
    with_limits,
)


def run_command(
    pipeline: PipelineArgument,
    store_uri: StoreOption = None,
    only: OnlyOption = None,
    start: FromOption = None,
    changes: SetOption = None,
    token: TokenOption = None,
    max_hours: MaxHoursOption = None,
    max_usd: MaxUsdOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a pipeline as a Prefect flow; whatever is made already is reused.

    Example: zscir run data_specs/pipelines/tabletop.toml --set train_pli.steps=200
    """
    from zscir.pipeline.execute import RunRequest

    # Limits travel as --set changes, which the run records: that is how a rerun knows them.
    request = RunRequest(pipeline, with_limits(changes, max_hours, max_usd), only, start, plan_token=token)
    print_run(execute_request(open_checked_store(store_uri), request), as_json)


def rerun_command(
    run_id: str,
    store_uri: StoreOption = None,
    only: OnlyOption = None,
    start: FromOption = None,
    changes: SetOption = None,
    max_hours: MaxHoursOption = None,
    max_usd: MaxUsdOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run again after a failure: finished steps are reused, and the run continues where it stopped.

    Example: zscir rerun latest
    """
    from zscir.pipeline.execute import rerun_request

    store = open_checked_store(store_uri)
    print_run(
        execute_request(store, rerun_request(store, run_id, only, start, with_limits(changes, max_hours, max_usd))),
        as_json,
    )
