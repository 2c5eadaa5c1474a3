"""The command line: words become calls; every error becomes a few lines and an exit code."""

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from zscir.cli.backfill_command import backfill
from zscir.cli.deploy_command import deploy
from zscir.cli.engine import opened, show_walk, walk_now
from zscir.cli.gc_command import gc
from zscir.cli.options import (
    FromOption,
    JsonOption,
    MaxHoursOption,
    MaxUsdOption,
    OnlyOption,
    OutOption,
    PipelineArgument,
    RunArgument,
    SetOption,
    StoreOption,
    TokenOption,
    limited,
)
from zscir.cli.output import complain, say, show_pairs, show_rows, start_logging
from zscir.cli.plan_command import plan
from zscir.cli.score_command import score
from zscir.cli.serve_command import serve
from zscir.cli.verify_command import verify
from zscir.runtime.errors import ZscirError
from zscir.runtime.settings import Settings, data_specs

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Zero-shot composed image retrieval, from a list of image URLs to a table of scores.",
)  # fmt: skip
DEMO = "tabletop.toml"
app.command()(backfill)
app.command()(deploy)
app.command()(gc)
app.command()(plan)
app.command()(score)
app.command()(serve)
app.command()(verify)


@app.command()
def demo(store: StoreOption = None, changes: SetOption = None, as_json: JsonOption = False) -> None:
    """The tabletop world end to end: download, triplets, training, scores, report.

    Example: zscir demo
    """
    from zscir.pipeline.execute import Asked
    from zscir.report.page import write_report
    from zscir.report.scores import score_remarks, score_rows

    where = opened(store)
    run = walk_now(where, Asked(data_specs() / "pipelines" / DEMO, changes or [], trigger="demo"))
    page = write_report(where, run.run_id, None)
    if not as_json:
        show_walk(run, as_json)
    show_rows(score_rows(where, run.run_id), as_json, "scores (percent)")
    if not as_json:
        for remark in score_remarks(where, run.run_id):
            say(remark)
        say(f"report: {page}")


@app.command()
def run(pipeline: PipelineArgument, store: StoreOption = None, only: OnlyOption = None, start: FromOption = None,
        changes: SetOption = None, token: TokenOption = None, max_hours: MaxHoursOption = None,
        max_usd: MaxUsdOption = None, as_json: JsonOption = False) -> None:  # fmt: skip
    """Run a pipeline as a Prefect flow; whatever is made already is reused.

    Example: zscir run data_specs/pipelines/tabletop.toml --set train_pli.steps=200
    """
    from zscir.pipeline.execute import Asked

    asked = Asked(pipeline, limited(changes, max_hours, max_usd), only, start, token=token)
    show_walk(walk_now(opened(store), asked), as_json)


@app.command()
def rerun(run_id: str, store: StoreOption = None, only: OnlyOption = None, start: FromOption = None,
          changes: SetOption = None, max_hours: MaxHoursOption = None, max_usd: MaxUsdOption = None,
          as_json: JsonOption = False) -> None:  # fmt: skip
    """Run again after a failure: finished steps are reused, the walk goes on where it stopped.

    Example: zscir rerun latest
    """
    from zscir.pipeline.execute import asked_again

    where = opened(store)
    show_walk(walk_now(where, asked_again(where, run_id, only, start, limited(changes, max_hours, max_usd))), as_json)


@app.command()
def runs(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """List the runs of a store, newest last.

    Example: zscir runs
    """
    from zscir.pipeline.run import list_runs

    columns = (
        "run_id",
        "pipeline",
        "status",
        "started_at",
        "finished_at",
        "steps",
        "made",
        "reused",
        "stopped_at",
        "parent_run_id",
    )
    found = list_runs(opened(store))
    show_rows(found, as_json, "", None if as_json else columns)


@app.command()
def show(ref: str, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Show a run, an artifact (key or unique prefix), a triplet or an image.

    Example: zscir show latest
    """
    from zscir.lineage.lookup import look_up

    title, values, tables = look_up(opened(store), ref)
    if as_json:
        show_rows([{**values, **tables}], True)
        return
    show_pairs(title, values)
    for name, rows in tables.items():
        show_rows(rows, False, name)


@app.command()
def sql(query: str, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Ask the lineage and record tables with DuckDB's SQL.

    Example: zscir sql "SELECT run_id, status FROM run"
    """
    from zscir.lineage.sql_views import sql as ask

    names, found = ask(opened(store), query)
    show_rows([dict(zip(names, row, strict=True)) for row in found], as_json, "", names)


@app.command()
def leaderboard(
    store: StoreOption = None,
    as_latex: Annotated[bool, typer.Option("--latex", help="LaTeX tables instead of Markdown")] = False,
    page: Annotated[Path | None, typer.Option("--html", help="Write a page with sortable tables there instead")] = None,
) -> None:
    """Published scores beside the store's own, a table per protocol; toy benchmarks are left out.

    Example: zscir leaderboard --html leaderboard.html
    """
    from zscir.benchmarks.leaderboard import latex, markdown, measured, published
    from zscir.lineage.sql_views import REAL_SCORES, rows

    entries = [*published(data_specs() / "published"), *measured(rows(opened(store), REAL_SCORES))]
    if page is not None:
        from zscir.report.leaderboard_page import write_board

        say(str(write_board(entries, page)))
        return
    say(latex(entries) if as_latex else markdown(entries))


@app.command()
def report(run_id: RunArgument, store: StoreOption = None, out: OutOption = None) -> None:
    """Write one self-contained HTML page about a run.

    Example: zscir report latest --out report.html
    """
    from zscir.report.page import write_report

    say(str(write_report(opened(store), run_id, out)))


@app.command()
def doctor(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Check the installation, the store, Prefect, the GPU and credentials; say how to mend each.

    Example: zscir doctor
    """
    from zscir.maintenance.doctor import run_checks

    checks = run_checks(Settings.from_env(store).store)
    show_rows([vars(check) for check in checks], as_json)
    if any(check.status == "fail" for check in checks):
        raise typer.Exit(2)


def main() -> NoReturn:
    """The console script."""
    debug = "--debug" in sys.argv
    arguments = [word for word in sys.argv[1:] if word != "--debug"]
    signal.signal(signal.SIGTERM, _stop)
    sys.exit(_code(arguments, debug))


def _code(arguments: list[str], debug: bool) -> int:
    """Run a command; its exit code. The error is let go of here, with whatever its frames hold open."""
    try:
        start_logging(debug)
        typer.main.get_command(app).main(arguments, prog_name="zscir", standalone_mode=True)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    except ZscirError as error:
        return _tell(error, error.exit_code, debug)
    except KeyboardInterrupt as error:
        return _tell(error, 130, debug, "interrupted")
    except OSError as error:
        return _tell(error, 2, debug)
    except Exception as error:  # noqa: BLE001 - a mistake of zscir's own; its traceback is for --debug
        what = f"{type(error).__name__}: {error}\nthis is a mistake in zscir; --debug shows where"
        return _tell(error, 1, debug, what)
    return 0


def _tell(error: BaseException, code: int, debug: bool, message: str = "") -> int:
    complain(error, debug, message)
    return code


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
