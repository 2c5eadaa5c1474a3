"""Turn the result or error of a deployed flow into the state of its flow run, with our message as its message."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import State
from prefect.states import Failed

from zscir.lineage.environment import redact
from zscir.runtime.errors import GateError, Interrupted, OverBudget, RequestError, ZscirError
from zscir.runtime.settings import Settings
from zscir.store.store import Store, open_store

log = logging.getLogger("zscir")
log.setLevel(logging.INFO)  # its lines appear on Prefect's page by PREFECT_LOGGING_EXTRA_LOGGERS (prefect.yaml)

GATE_STATE = "Gate"  # the name of the failed state of a run that a data gate stopped
BUDGET_STATE = "Budget"  # and of one that its limits stopped
FlowResult = dict[str, str] | State[Any]


def as_flow_result(work: Callable[[Store], dict[str, str]]) -> FlowResult:
    """Do ``work`` on the store of the environment; an error of ours becomes a failed state with its message."""
    survive_worker_exit()
    try:
        return work(_open_store())
    except Interrupted as stopped:
        raise (stopped.__cause__ or stopped) from None  # Prefect's own signal, which it turns into a state itself
    except ZscirError as error:
        message = str(redact(str(error)))
        log.error(message)
        return Failed(message=message, name=_failed_state_name(error))


def _failed_state_name(error: ZscirError) -> str | None:
    if isinstance(error, OverBudget):
        return BUDGET_STATE
    return GATE_STATE if isinstance(error, GateError) else None


def survive_worker_exit() -> None:
    """Keep this process running when the worker that reads its output is killed.

    Prefect's console handler writes through rich, which ends the process when the other end of a pipe is gone.
    """

    def drop_line() -> None:
        raise BrokenPipeError  # logging drops a line whose writing raises

    for handler in logging.getLogger().handlers:
        console: Any = getattr(handler, "console", None)
        if console is not None:
            console.on_broken_pipe = drop_line


def _open_store() -> Store:
    settings = Settings.from_env()
    if "://" not in settings.store and not Path(settings.store).is_absolute():
        raise RequestError(
            f"store {settings.store}: a worker runs each flow in a folder of its own; start the worker with "
            "ZSCIR_STORE=/an/absolute/folder or s3://bucket/prefix"
        )
    store = open_store(settings)
    store.check()
    return store
