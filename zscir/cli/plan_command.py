"""plan: a pipeline becomes a table of what a run would do, why, and at what cost, and the token of that plan."""

from zscir.cli.engine import opened
from zscir.cli.options import JsonOption, PipelineArgument, SetOption, StoreOption
from zscir.cli.output import say, show_rows
from zscir.runtime.errors import StageError
from zscir.runtime.progress import warn
from zscir.runtime.settings import Prices, spec_path

COLUMNS = ("step", "stage", "action", "reason", "key", "p50_s", "p90_s", "bytes")
ASKED_FOR = ("tokens_in", "tokens_out", "usd")  # columns of a table only where there is something in them
WHERE = "pool"  # likewise


def plan(pipeline: PipelineArgument, store: StoreOption = None, changes: SetOption = None,
         as_json: JsonOption = False) -> None:  # fmt: skip
    """Say for each step whether it would be reused or made, why, and what that takes; run nothing.

    Time, bytes and tokens are learned from this store's earlier runs. The token goes to `zscir run --plan`.

    Example: zscir plan data_specs/pipelines/tabletop.toml
    """
    from zscir.pipeline.estimates import as_rows, estimates_of, total_of
    from zscir.pipeline.execute import describe
    from zscir.pipeline.pipeline_file import load_pipeline
    from zscir.pipeline.plan import make_plan
    from zscir.pipeline.plan_token import remember, remembered, token_of

    where = opened(store)
    loaded = load_pipeline(spec_path(str(pipeline)), changes or [])
    planned = make_plan(where, loaded)
    estimates = estimates_of(where, planned, Prices.from_env())
    steps = [step | cost for step, cost in zip(describe(planned), as_rows(planned, estimates), strict=True)]
    try:
        token = remember(where, planned)
    except StageError as error:  # whoever may only read the store may still plan
        warn(f"the plan could not be kept, so a later `--plan` cannot say what differs: {error}")
        token = token_of(remembered(planned))
    if as_json:
        show_rows([row | {"token": token} for row in steps], True)
        return
    table = [*steps, total_of(planned, estimates)]
    more = [name for name in ASKED_FOR if any(isinstance(row[name], int | float) and row[name] for row in table)]
    more += [WHERE] * any(row.get(WHERE) for row in table)
    show_rows(table, False, f"plan of {loaded.name}", [*COLUMNS, *more])
    say(f"token: {token}  (zscir run {pipeline} --plan {token} runs this plan or none)")
