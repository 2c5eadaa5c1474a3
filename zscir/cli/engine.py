"""Walking: a request on the command line becomes a walk through Prefect's flow, and the walk a table."""

from typing import Any

from zscir.cli.output import print_rows
from zscir.runtime.settings import Settings, WorkerSettings


def open_checked_store(uri: str | None) -> Any:
    """The store that ``--store`` or the environment names, once it has answered."""
    from zscir.store.store import open_store

    store = open_store(Settings.from_env(uri))
    store.check()
    return store


def open_store_to_read(uri: str | None) -> Any:
    """As ``open_checked_store``, of a store in which nothing will be written."""
    from zscir.store.store import open_store

    store = open_store(Settings.from_env(uri))
    store.check_listed()
    return store


def run_with_prefect(run: Any, chosen: list[str]) -> None:
    """The engine of every walk: Prefect's flow, on its ephemeral API unless PREFECT_API_URL names a server."""
    import logging
    import os

    from zscir.runtime.child_processes import kill_children_on_exit

    _quiet_prefect()
    if "PREFECT_API_URL" not in os.environ:
        kill_children_on_exit("prefect.server.api.server")
    from flows.pipeline import pipeline_flow
    from flows.task_runners import single_prefect_server

    logging.getLogger("prefect").setLevel(os.environ["PREFECT_LOGGING_LEVEL"])
    stages = {step.name: step.stage.name for step in run.pipeline.steps}
    with single_prefect_server(WorkerSettings.from_env()):
        pipeline_flow(run.run_id, run.pipeline.name, [[name, stages[name]] for name in chosen])


def check_pools(pools: list[str]) -> None:
    """See that the work pools in which steps are to be made are there, and know what they will be given."""
    _quiet_prefect()
    from flows.work_pools import ensure_work_pools

    ensure_work_pools(pools)


def _quiet_prefect() -> None:
    """Prefect reads this when it is imported; what it has to say is said by us."""
    import os

    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")


class _PandasBlocker:
    """A finder that finds no pandas; one that is imported already stays."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """ModuleNotFoundError for pandas; for all else, let others look."""
        if name == "pandas":
            raise ModuleNotFoundError(name)


def _skip_pandas_import() -> None:
    """pyarrow imports pandas with the first list that it is given, to know a Series if it should meet one. That is a
    third of the time in which a finished pipeline is found finished, and it meets none: it is told that there is no
    pandas. Who asks it for a DataFrame gets one all the same.
    """
    import sys

    import pyarrow

    hidden = _PandasBlocker()
    sys.meta_path.insert(0, hidden)
    try:
        pyarrow.array([])
    finally:
        sys.meta_path.remove(hidden)


def execute_request(store: Any, asked: Any) -> Any:
    """Walk what was asked, here and now."""
    from zscir.pipeline.execute import execute_run

    _skip_pandas_import()
    return execute_run(store, asked, run_with_prefect, check_pools)


def print_run(run: Any, as_json: bool) -> None:
    """Print what became of each step."""
    from zscir.pipeline.execute import run_summary

    columns = ("step", "outcome", "wall_s", "facts")
    print_rows(run_summary(run), as_json, f"run {run.run_id}", None if as_json else columns)
