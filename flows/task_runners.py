"""Choose the Prefect task runner for the chunks of a step: threads, processes, or a Ray or Dask cluster."""

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from zscir.runtime.errors import RequestError
from zscir.runtime.settings import WorkerSettings

AnyTaskRunner = TaskRunner[Any]


def make_task_runner(workers: WorkerSettings) -> AnyTaskRunner:
    """The runner that ``ZSCIR_RUNNER`` names; RequestError when the extra for Ray or Dask is not installed."""
    return {"threads": _threads, "processes": _processes, "ray": _ray, "dask": _dask}[workers.kind](workers)


@contextmanager
def single_prefect_server(workers: WorkerSettings) -> Iterator[None]:
    """One server for this process and its workers; without it each would start its own on the same SQLite file."""
    if PREFECT_API_URL.value() or workers.kind == "threads":
        yield
        return
    from prefect.server.api.server import SubprocessASGIServer  # takes seconds to import, and few runs need it

    server = SubprocessASGIServer()
    server.start()
    try:
        # Workers that are started later read the environment, those of a pool inherit the settings.
        os.environ["PREFECT_API_URL"] = server.api_url
        with temporary_settings({PREFECT_API_URL: server.api_url}):
            yield
    finally:
        del os.environ["PREFECT_API_URL"]
        server.stop()


def _threads(workers: WorkerSettings) -> AnyTaskRunner:
    return ThreadPoolTaskRunner(max_workers=workers.count)


def _processes(workers: WorkerSettings) -> AnyTaskRunner:
    return ProcessPoolTaskRunner(max_workers=workers.count)


def _ray(workers: WorkerSettings) -> AnyTaskRunner:
    local = {"num_cpus": workers.count, "include_dashboard": False}
    return _from_extra("ray", "RayTaskRunner", address=workers.address, init_kwargs={} if workers.address else local)


def _dask(workers: WorkerSettings) -> AnyTaskRunner:
    local = {"n_workers": workers.count, "threads_per_worker": 1, "dashboard_address": None}
    where = {"address": workers.address} if workers.address else {"cluster_kwargs": local}
    return _from_extra("dask", "DaskTaskRunner", **where)


def _from_extra(extra: str, name: str, **options: Any) -> AnyTaskRunner:
    try:
        found: AnyTaskRunner = getattr(importlib.import_module(f"prefect_{extra}"), name)(**options)
    except ModuleNotFoundError as error:
        what = f"ZSCIR_RUNNER={extra}: {error.name} is not installed"
        raise RequestError(f"{what}; pip install 'zscir[{extra}]'") from None
    return found
