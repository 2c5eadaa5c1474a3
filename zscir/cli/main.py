"""The console script ``zscir``: its commands, and the exit code and message of every error."""

import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

import typer

from zscir.cli.backfill_command import backfill_command
from zscir.cli.demo_command import demo_command
from zscir.cli.deploy_command import deploy_command
from zscir.cli.doctor_command import doctor_command
from zscir.cli.gc_command import gc_command
from zscir.cli.leaderboard_command import leaderboard_command
from zscir.cli.output import print_error, setup_logging
from zscir.cli.plan_command import plan_command
from zscir.cli.report_command import report_command
from zscir.cli.run_command import rerun_command, run_command
from zscir.cli.runs_command import runs_command, show_command
from zscir.cli.score_command import score_command
from zscir.cli.serve_command import serve_command
from zscir.cli.sql_command import sql_command
from zscir.cli.verify_command import verify_command
from zscir.runtime.errors import ZscirError

# In the order of ``zscir --help``. None of these files imports torch, prefect, pyarrow or duckdb at its top: the help
# must not wait for them.
COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo_command,
    "run": run_command,
    "plan": plan_command,
    "rerun": rerun_command,
    "backfill": backfill_command,
    "runs": runs_command,
    "show": show_command,
    "sql": sql_command,
    "report": report_command,
    "leaderboard": leaderboard_command,
    "score": score_command,
    "verify": verify_command,
    "gc": gc_command,
    "deploy": deploy_command,
    "serve": serve_command,
    "doctor": doctor_command,
}

app = typer.Typer(
    no_args_is_help=True,
    # Two options of Typer's own in every help, for something that is set up once.
    add_completion=False,
    # ``_exit_code`` reports every error, and --debug adds a traceback from which secrets are redacted.
    pretty_exceptions_enable=False,
    # Plain text: rich would draw boxes around help and usage errors, which are hard to read in a log.
    rich_markup_mode=None,
    help="Zero-shot composed image retrieval, from a list of image URLs to a table of scores.",
)
for name, command in COMMANDS.items():
    app.command(name)(command)


def main() -> NoReturn:
    """The console script."""
    debug = "--debug" in sys.argv
    # Taken out before Typer sees it, so that it may stand before or after the command.
    arguments = [word for word in sys.argv[1:] if word != "--debug"]
    # As Ctrl-C: a scheduler's SIGTERM then records the run as interrupted and gives locks and leases back.
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(_exit_code(arguments, debug))


def _exit_code(arguments: list[str], debug: bool) -> int:
    """Run a command and return its exit code. No error leaves this function: its frames would hold files open."""
    try:
        setup_logging(debug)
        typer.main.get_command(app).main(arguments, prog_name="zscir", standalone_mode=True)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    except ZscirError as error:
        return _report_error(error, error.exit_code, debug)
    except KeyboardInterrupt as error:
        return _report_error(error, 130, debug, "interrupted")  # 128 + SIGINT, as shells have it
    except OSError as error:
        return _report_error(error, 2, debug)
    except Exception as error:  # noqa: BLE001 - a bug in zscir; --debug prints its traceback
        what = f"{type(error).__name__}: {error}\nthis is a mistake in zscir; --debug shows where"
        return _report_error(error, 1, debug, what)
    return 0


def _report_error(error: BaseException, code: int, debug: bool, message: str = "") -> int:
    print_error(error, debug, message)
    return code


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
