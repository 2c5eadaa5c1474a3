"""Open the store of a command, and execute runs through Prefect's flow."""

import os
from typing import TYPE_CHECKING

from zscir.cli.output import print_rows
from zscir.runtime.settings import Settings, WorkerSettings

if TYPE_CHECKING:  # ``zscir --help`` waits for none of these
    from zscir.pipeline.execute import RunRequest
    from zscir.pipeline.run import Run
    from zscir.store.store import Store

SUMMARY_COLUMNS = ("step", "outcome", "wall_s", "facts")


def open_checked_store(uri: str | None) -> "Store":
    """The store that ``--store`` or the environment names; RequestError unless it can be listed and written to."""
    from zscir.store.store import open_store

    store = open_store(Settings.from_env(uri))
    store.check()
    return store


def open_store_to_read(uri: str | None) -> "Store":
    """As ``open_checked_store``, for a command that writes nothing: no permission to write is needed."""
    from zscir.store.store import open_store

    store = open_store(Settings.from_env(uri))
    store.check_listed()
    return store


def run_with_prefect(run: "Run", chosen: list[str]) -> None:
    """Execute the chosen steps in Prefect's flow, on its ephemeral API unless PREFECT_API_URL names a server."""
    import logging

    from zscir.runtime.child_processes import kill_children_on_exit

    _quiet_prefect()
    if "PREFECT_API_URL" not in os.environ:
        # A run that is killed cannot stop its ephemeral server itself, which would go on without it.
        kill_children_on_exit("prefect.server.api.server")
    # Not at the top: importing Prefect takes seconds, and it must find the log level that was set above.
    from flows.pipeline import pipeline_flow
    from flows.task_runners import single_prefect_server

    logging.getLogger("prefect").setLevel(os.environ["PREFECT_LOGGING_LEVEL"])
    stages = {step.name: step.stage.name for step in run.pipeline.steps}
    with single_prefect_server(WorkerSettings.from_env()):
        # Names only: Prefect stores the parameters of a flow run, and the flow finds the run by its id in this process.
        pipeline_flow(run.run_id, run.pipeline.name, [[name, stages[name]] for name in chosen])


def check_pools(pools: list[str]) -> None:
    """RequestError unless the work pools of a pipeline's steps are there and know their settings."""
    _quiet_prefect()
    from flows.work_pools import ensure_work_pools

    ensure_work_pools(pools)


def _quiet_prefect() -> None:
    """Prefect reads its log level when it is imported; what matters of a run, zscir logs itself."""
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")


def execute_request(store: "Store", request: "RunRequest") -> "Run":
    """Execute a run here and now."""
    from zscir.pipeline.execute import execute_run

    return execute_run(store, request, run_with_prefect, check_pools)


def print_run(run: "Run", as_json: bool) -> None:
    """Print the outcome of each step."""
    from zscir.pipeline.execute import run_summary

    print_rows(run_summary(run), as_json, f"run {run.run_id}", None if as_json else SUMMARY_COLUMNS)
