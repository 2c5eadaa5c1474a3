"""Walking: a request on the command line becomes a walk through Prefect's flow, and the walk a table."""

from typing import Any

from zscir.cli.output import show_rows
from zscir.runtime.settings import Settings, Workers


def opened(uri: str | None) -> Any:
    """The store that ``--store`` or the environment names, once it has answered."""
    from zscir.store.store import open_store

    store = open_store(Settings.from_env(uri))
    store.check()
    return store


def opened_to_read(uri: str | None) -> Any:
    """As ``opened``, of a store in which nothing will be written."""
    from zscir.store.store import open_store

    store = open_store(Settings.from_env(uri))
    store.check_listed()
    return store


def through_prefect(run: Any, chosen: list[str]) -> None:
    """The engine of every walk: Prefect's flow, on its ephemeral API unless PREFECT_API_URL names a server."""
    import logging
    import os

    from zscir.runtime.child_processes import guard

    _hush()
    if "PREFECT_API_URL" not in os.environ:
        guard("prefect.server.api.server")
    from flows.pipeline import pipeline
    from flows.task_runners import one_server

    logging.getLogger("prefect").setLevel(os.environ["PREFECT_LOGGING_LEVEL"])
    stages = {step.name: step.stage.name for step in run.pipeline.steps}
    with one_server(Workers.from_env()):
        pipeline(run.run_id, run.pipeline.name, [[name, stages[name]] for name in chosen])


def in_pools(pools: list[str]) -> None:
    """See that the work pools in which steps are to be made are there, and know what they will be given."""
    _hush()
    from flows.work_pools import need_pools

    need_pools(pools)


def _hush() -> None:
    """Prefect reads this when it is imported; what it has to say is said by us."""
    import os

    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")


class _Hidden:
    """A finder that finds no pandas; one that is imported already stays."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """ModuleNotFoundError for pandas; for all else, let others look."""
        if name == "pandas":
            raise ModuleNotFoundError(name)


def _spare_pandas() -> None:
    """pyarrow imports pandas with the first list that it is given, to know a Series if it should meet one. That is a
    third of the time in which a finished pipeline is found finished, and it meets none: it is told that there is no
    pandas. Who asks it for a DataFrame gets one all the same.
    """
    import sys

    import pyarrow

    hidden = _Hidden()
    sys.meta_path.insert(0, hidden)
    try:
        pyarrow.array([])
    finally:
        sys.meta_path.remove(hidden)


def walk_now(store: Any, asked: Any) -> Any:
    """Walk what was asked, here and now."""
    from zscir.pipeline.execute import walk

    _spare_pandas()
    return walk(store, asked, through_prefect, in_pools)


def show_walk(run: Any, as_json: bool) -> None:
    """Print what became of each step."""
    from zscir.pipeline.execute import summary

    columns = ("step", "outcome", "wall_s", "facts")
    show_rows(summary(run), as_json, f"run {run.run_id}", None if as_json else columns)
