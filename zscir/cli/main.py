"""The command line: words become calls; every error becomes a few lines and an exit code."""

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from zscir.cli.backfill_command import backfill_command
from zscir.cli.deploy_command import deploy_command
from zscir.cli.engine import execute_request, open_checked_store, print_run
from zscir.cli.gc_command import gc_command
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
    with_limits,
)
from zscir.cli.output import print_error, print_lines, print_rows, print_values, setup_logging
from zscir.cli.plan_command import plan_command
from zscir.cli.score_command import score_command
from zscir.cli.serve_command import serve_command
from zscir.cli.verify_command import verify_command
from zscir.runtime.errors import ZscirError
from zscir.runtime.settings import Settings, data_specs

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Zero-shot composed image retrieval, from a list of image URLs to a table of scores.",
)
DEMO_PIPELINE = "tabletop.toml"
app.command("backfill")(backfill_command)
app.command("deploy")(deploy_command)
app.command("gc")(gc_command)
app.command("plan")(plan_command)
app.command("score")(score_command)
app.command("serve")(serve_command)
app.command("verify")(verify_command)


@app.command("demo")
def demo_command(store: StoreOption = None, changes: SetOption = None, as_json: JsonOption = False) -> None:
    """The tabletop world end to end: download, triplets, training, scores, report.

    Example: zscir demo
    """
    from zscir.pipeline.execute import RunRequest
    from zscir.report.page import write_report
    from zscir.report.scores import headline_score_remarks, headline_score_rows

    where = open_checked_store(store)
    run = execute_request(where, RunRequest(data_specs() / "pipelines" / DEMO_PIPELINE, changes or [], trigger="demo"))
    page = write_report(where, run.run_id, None)
    if not as_json:
        print_run(run, as_json)
    print_rows(headline_score_rows(where, run.run_id), as_json, "scores (percent)")
    if not as_json:
        for remark in headline_score_remarks(where, run.run_id):
            print_lines(remark)
        print_lines(f"report: {page}")


@app.command("run")
def run_command(
    pipeline: PipelineArgument,
    store: StoreOption = None,
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

    asked = RunRequest(pipeline, with_limits(changes, max_hours, max_usd), only, start, plan_token=token)
    print_run(execute_request(open_checked_store(store), asked), as_json)


@app.command("rerun")
def rerun_command(
    run_id: str,
    store: StoreOption = None,
    only: OnlyOption = None,
    start: FromOption = None,
    changes: SetOption = None,
    max_hours: MaxHoursOption = None,
    max_usd: MaxUsdOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run again after a failure: finished steps are reused, the walk goes on where it stopped.

    Example: zscir rerun latest
    """
    from zscir.pipeline.execute import rerun_request

    where = open_checked_store(store)
    print_run(
        execute_request(where, rerun_request(where, run_id, only, start, with_limits(changes, max_hours, max_usd))),
        as_json,
    )


@app.command("runs")
def runs_command(store: StoreOption = None, as_json: JsonOption = False) -> None:
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
    found = list_runs(open_checked_store(store))
    print_rows(found, as_json, "", None if as_json else columns)


@app.command("show")
def show_command(ref: str, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Show a run, an artifact (key or unique prefix), a triplet or an image.

    Example: zscir show latest
    """
    from zscir.lineage.lookup import describe_ref

    title, values, tables = describe_ref(open_checked_store(store), ref)
    if as_json:
        print_rows([{**values, **tables}], True)
        return
    print_values(title, values)
    for name, rows in tables.items():
        print_rows(rows, False, name)


@app.command("sql")
def sql_command(query: str, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Ask the lineage and record tables with DuckDB's SQL.

    Example: zscir sql "SELECT run_id, status FROM run"
    """
    from zscir.lineage.sql_views import query_store

    names, found = query_store(open_checked_store(store), query)
    print_rows([dict(zip(names, row, strict=True)) for row in found], as_json, "", names)


@app.command("leaderboard")
def leaderboard_command(
    store: StoreOption = None,
    as_latex: Annotated[bool, typer.Option("--latex", help="LaTeX tables instead of Markdown")] = False,
    page: Annotated[Path | None, typer.Option("--html", help="Write a page with sortable tables there instead")] = None,
) -> None:
    """Published scores beside the store's own, a table per protocol; toy benchmarks are left out.

    Example: zscir leaderboard --html leaderboard.html
    """
    from zscir.benchmarks.leaderboard import (
        leaderboard_latex,
        leaderboard_markdown,
        measured_entries,
        published_entries,
    )
    from zscir.lineage.sql_views import REAL_SCORES_SQL, query_store_rows

    entries = [
        *published_entries(data_specs() / "published"),
        *measured_entries(query_store_rows(open_checked_store(store), REAL_SCORES_SQL)),
    ]
    if page is not None:
        from zscir.report.leaderboard_page import write_leaderboard_page

        print_lines(str(write_leaderboard_page(entries, page)))
        return
    print_lines(leaderboard_latex(entries) if as_latex else leaderboard_markdown(entries))


@app.command("report")
def report_command(run_id: RunArgument, store: StoreOption = None, out: OutOption = None) -> None:
    """Write one self-contained HTML page about a run.

    Example: zscir report latest --out report.html
    """
    from zscir.report.page import write_report

    print_lines(str(write_report(open_checked_store(store), run_id, out)))


@app.command("doctor")
def doctor_command(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Check the installation, the store, Prefect, the GPU and credentials; say how to mend each.

    Example: zscir doctor
    """
    from zscir.maintenance.doctor import doctor_checks

    checks = doctor_checks(Settings.from_env(store).store)
    print_rows([vars(check) for check in checks], as_json)
    if any(check.status == "fail" for check in checks):
        raise typer.Exit(2)


def main() -> NoReturn:
    """The console script."""
    debug = "--debug" in sys.argv
    arguments = [word for word in sys.argv[1:] if word != "--debug"]
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(_exit_code(arguments, debug))


def _exit_code(arguments: list[str], debug: bool) -> int:
    """Run a command; its exit code. The error is let go of here, with whatever its frames hold open."""
    try:
        setup_logging(debug)
        typer.main.get_command(app).main(arguments, prog_name="zscir", standalone_mode=True)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    except ZscirError as error:
        return _report_error(error, error.exit_code, debug)
    except KeyboardInterrupt as error:
        return _report_error(error, 130, debug, "interrupted")
    except OSError as error:
        return _report_error(error, 2, debug)
    except Exception as error:  # noqa: BLE001 - a mistake of zscir's own; its traceback is for --debug
        what = f"{type(error).__name__}: {error}\nthis is a mistake in zscir; --debug shows where"
        return _report_error(error, 1, debug, what)
    return 0


def _report_error(error: BaseException, code: int, debug: bool, message: str = "") -> int:
    print_error(error, debug, message)
    return code


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
