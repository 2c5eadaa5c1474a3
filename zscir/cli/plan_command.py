"""zscir plan: list what a run would do, why and at what cost, and the token of that plan."""

from zscir.cli.engine import open_checked_store
from zscir.cli.options import JsonOption, PipelineArgument, SetOption, StoreOption
from zscir.cli.output import print_lines, print_rows
from zscir.runtime.errors import StageError
from zscir.runtime.progress import log_warning
from zscir.runtime.settings import Prices, spec_path

PLAN_COLUMNS = ("step", "stage", "action", "reason", "key", "p50_s", "p90_s", "bytes")
COST_COLUMNS = ("tokens_in", "tokens_out", "usd")  # columns of a table only where there is something in them
POOL_COLUMN = "pool"  # likewise


def plan_command(
    pipeline: PipelineArgument, store_uri: StoreOption = None, changes: SetOption = None, as_json: JsonOption = False
) -> None:
    """Say for each step whether it would be reused or made, why, and what that takes; run nothing.

    Time, bytes and tokens are learned from this store's earlier runs. The token goes to `zscir run --plan`.

    Example: zscir plan data_specs/pipelines/tabletop.toml
    """
    from zscir.pipeline.estimates import estimate_rows, estimate_steps, total_row
    from zscir.pipeline.execute import plan_rows
    from zscir.pipeline.pipeline_file import load_pipeline
    from zscir.pipeline.plan import make_plan
    from zscir.pipeline.plan_token import plan_record, plan_token_of, save_plan

    store = open_checked_store(store_uri)
    loaded = load_pipeline(spec_path(str(pipeline)), changes or [])
    planned = make_plan(store, loaded)
    estimates = estimate_steps(store, planned, Prices.from_env())
    steps = [step | cost for step, cost in zip(plan_rows(planned), estimate_rows(planned, estimates), strict=True)]
    try:
        token = save_plan(store, planned)
    except StageError as error:  # no permission to write there: planning still works
        log_warning(f"the plan could not be kept, so a later `--plan` cannot say what differs: {error}")
        token = plan_token_of(plan_record(planned))
    if as_json:
        # In every row, since the output is one list; without the row of totals, which a program can add up.
        print_rows([row | {"token": token} for row in steps], True)
        return
    table = [*steps, total_row(planned, estimates)]
    more = [name for name in COST_COLUMNS if any(isinstance(row[name], int | float) and row[name] for row in table)]
    more += [POOL_COLUMN] * any(row.get(POOL_COLUMN) for row in table)
    print_rows(table, False, f"plan of {loaded.name}", [*PLAN_COLUMNS, *more])
    print_lines(f"token: {token}  (zscir run {pipeline} --plan {token} runs this plan or none)")
