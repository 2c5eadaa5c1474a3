"""The command line: words become calls; every error becomes a few lines and an exit code."""

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from zscir.console import say, show_pairs, show_rows, start_logging
from zscir.errors import ZscirError
from zscir.settings import Settings, data_specs, spec_path

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Zero-shot composed image retrieval, from a list of image URLs to a table of scores.",
)  # fmt: skip
StoreOption = Annotated[
    str | None,
    typer.Option("--store", help="Folder or s3://bucket/prefix; default ZSCIR_STORE or ./zscir-store"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="STEP.field=value or source=FILE; may be repeated.")]
OnlyOption = Annotated[str | None, typer.Option("--only", help="Walk this step or stage only.")]
FromOption = Annotated[str | None, typer.Option("--from", help="Walk this step or stage and what depends on it.")]
PipelineArgument = Annotated[Path, typer.Argument(help="A pipeline file, e.g. data_specs/pipelines/tabletop.toml")]
RunArgument = Annotated[str, typer.Argument(help="A run's id, a unique prefix, or latest")]
OutOption = Annotated[Path | None, typer.Option(help="The HTML file; default STORE/reports/RUN_ID.html")]
DEMO = "tabletop.toml"


def _store(uri: str | None) -> Any:
    from zscir.store import open_store

    store = open_store(Settings.from_env(uri))
    store.check()
    return store


def _through_prefect(run: Any, chosen: list[str]) -> None:
    """The engine of every walk: Prefect's flow, on its ephemeral API unless PREFECT_API_URL names a server."""
    import logging
    import os

    from zscir.warden import guard

    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    if "PREFECT_API_URL" not in os.environ:
        guard("prefect.server.api.server")
    from flows.pipeline import pipeline

    logging.getLogger("prefect").setLevel(os.environ["PREFECT_LOGGING_LEVEL"])
    stages = {step.name: step.stage.name for step in run.pipeline.steps}
    pipeline(run.run_id, run.pipeline.name, [[name, stages[name]] for name in chosen])


def _walk(store: Any, asked: Any) -> Any:
    from zscir.walks import walk

    return walk(store, asked, _through_prefect)


def _show_walk(run: Any, as_json: bool) -> None:
    from zscir.walks import summary

    columns = ("step", "outcome", "wall_s", "facts")
    show_rows(summary(run), as_json, f"run {run.run_id}", None if as_json else columns)


@app.command()
def demo(store: StoreOption = None, changes: SetOption = None, as_json: JsonOption = False) -> None:
    """The tabletop world end to end: download, triplets, training, scores, report.

    Example: zscir demo
    """
    from zscir.report.page import write_report
    from zscir.report.scores import score_rows
    from zscir.walks import Asked

    where = _store(store)
    run = _walk(where, Asked(data_specs() / "pipelines" / DEMO, changes or [], trigger="demo"))
    page = write_report(where, run.run_id, None)
    if not as_json:
        _show_walk(run, as_json)
    show_rows(score_rows(where, run.run_id), as_json, "scores (percent)")
    if not as_json:
        say(f"report: {page}")


@app.command()
def run(pipeline: PipelineArgument, store: StoreOption = None, only: OnlyOption = None, start: FromOption = None,
        changes: SetOption = None, as_json: JsonOption = False) -> None:  # fmt: skip
    """Run a pipeline as a Prefect flow; whatever is made already is reused.

    Example: zscir run data_specs/pipelines/tabletop.toml --set train_pli.steps=200
    """
    from zscir.walks import Asked

    _show_walk(_walk(_store(store), Asked(pipeline, changes or [], only, start)), as_json)


@app.command()
def plan(
    pipeline: PipelineArgument,
    store: StoreOption = None,
    changes: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say for each step whether it would be reused or made, and why; run nothing.

    Example: zscir plan data_specs/pipelines/tabletop.toml
    """
    from zscir.pipelines import load_pipeline
    from zscir.plans import make_plan
    from zscir.walks import describe

    where = _store(store)
    loaded = load_pipeline(spec_path(str(pipeline)), changes or [])
    show_rows(describe(make_plan(where, loaded)), as_json, f"plan of {loaded.name}")


@app.command()
def rerun(run_id: str, store: StoreOption = None, only: OnlyOption = None, start: FromOption = None,
          changes: SetOption = None, as_json: JsonOption = False) -> None:  # fmt: skip
    """Run again after a failure: finished steps are reused, the walk goes on where it stopped.

    Example: zscir rerun latest
    """
    from zscir.walks import asked_again

    where = _store(store)
    _show_walk(_walk(where, asked_again(where, run_id, only, start, changes or [])), as_json)


@app.command()
def runs(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """List the runs of a store, newest last.

    Example: zscir runs
    """
    from zscir.runs import list_runs

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
    found = list_runs(_store(store))
    show_rows(found, as_json, "", None if as_json else columns)


@app.command()
def show(ref: str, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Show a run, an artifact (key or unique prefix), a triplet or an image.

    Example: zscir show latest
    """
    from zscir.lineage.lookup import look_up

    title, values, tables = look_up(_store(store), ref)
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
    from zscir.lineage.query import sql as ask

    names, found = ask(_store(store), query)
    show_rows([dict(zip(names, row, strict=True)) for row in found], as_json, "", names)


@app.command()
def score(
    benchmark: Annotated[str, typer.Argument(help="fashioniq, cirr, circo or genecis")],
    root: Annotated[Path, typer.Option(help="The benchmark's folder, laid out as its authors' repository is.")],
    queries: Annotated[Path, typer.Option(help=".npy, float, [Q, D]")],
    gallery: Annotated[Path, typer.Option(help=".npy, float, [G, D]; GeneCIS [Q, 1+G, D], the target first")],
    split: Annotated[str, typer.Option(help="val, test1 (CIRR), test (CIRCO)")] = "val",
    category: Annotated[str | None, typer.Option(help="FashionIQ: dress, shirt or toptee")] = None,
    task: Annotated[str | None, typer.Option(help="GeneCIS: focus_attribute, change_object, ...")] = None,
    protocol: Annotated[str | None, typer.Option(help="FashionIQ: original, val or pli; CIRR: soft")] = None,
    gallery_ids: Annotated[Path | None, typer.Option(help="CIRCO: ids in the order of the gallery")] = None,
    submission: Annotated[Path | None, typer.Option(help="Folder for the test server's files")] = None,
    official: Annotated[bool, typer.Option(help="Refuse annotation files that differ from the official ones")] = False,
    as_json: JsonOption = False,
) -> None:
    """Score features made elsewhere with the benchmark's own metrics; write the test server's files.

    Example: zscir score cirr --root data/CIRR --queries q.npy --gallery g.npy
    """
    from zscir.benchmarks.scoring import score_files

    scored = score_files(
        benchmark, root, split, queries, gallery, category=category, task=task, protocol=protocol,
        gallery_ids=gallery_ids, submission_out=submission,
        facts=data_specs() / "benchmarks" / f"{benchmark}.toml" if official else None,
    )  # fmt: skip
    columns = ("benchmark", "split", "protocol", "metric", "value", "hits", "n", "low", "high")
    show_rows([vars(row) for row in scored], as_json, "", columns)
    if submission is not None and not as_json:
        say(f"submission files: {submission}")


@app.command()
def leaderboard(
    store: StoreOption = None,
    as_latex: Annotated[bool, typer.Option("--latex", help="LaTeX tables instead of Markdown")] = False,
) -> None:
    """Published scores beside the store's own, a table per protocol; toy benchmarks are left out.

    Example: zscir leaderboard
    """
    from zscir.benchmarks.leaderboard import latex, markdown, measured, published
    from zscir.lineage.query import REAL_SCORES, rows

    entries = [*published(data_specs() / "published"), *measured(rows(_store(store), REAL_SCORES))]
    say(latex(entries) if as_latex else markdown(entries))


@app.command()
def report(run_id: RunArgument, store: StoreOption = None, out: OutOption = None) -> None:
    """Write one self-contained HTML page about a run.

    Example: zscir report latest --out report.html
    """
    from zscir.report.page import write_report

    say(str(write_report(_store(store), run_id, out)))


@app.command()
def doctor(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Check the installation, the store, Prefect, the GPU and credentials; say how to mend each.

    Example: zscir doctor
    """
    from zscir.doctor import run_checks

    checks = run_checks(Settings.from_env(store).store)
    show_rows([vars(check) for check in checks], as_json)
    if any(check.status == "fail" for check in checks):
        raise typer.Exit(2)


def main() -> NoReturn:
    """The console script."""
    debug = "--debug" in sys.argv
    arguments = [word for word in sys.argv[1:] if word != "--debug"]
    start_logging(debug)
    signal.signal(signal.SIGTERM, _stop)
    sys.exit(_code(arguments, debug))


def _code(arguments: list[str], debug: bool) -> int:
    """Run a command; its exit code. The error is let go of here, with whatever its frames hold open."""
    try:
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
    if debug:
        import traceback

        traceback.print_exception(error)
    from zscir.lineage.surroundings import redact

    sys.stderr.write(f"zscir: {redact(message or str(error))}\n")
    return code


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
