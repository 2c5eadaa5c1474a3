"""Dispatch: a step of a run becomes a flow run in another work pool, which is waited for, joined, or told to stop."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

import httpx
from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName, FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun, State, StateType, WorkPoolStatus
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments import run_deployment

from zscir.artifacts import short_name
from zscir.dispatch import Errand, Report, report_of
from zscir.errors import StageError, TransientError
from zscir.progress import note, warn
from zscir.settings import Settings

FLOW = "make-dispatched"
FIRST_LOOK_S = 0.5
LONGEST_LOOK_S = 5.0
WAITING = (StateType.SCHEDULED, StateType.PENDING)
T = TypeVar("T")


def dispatch(pool: str, errand: Errand) -> Report:
    """What a worker of ``pool`` reports of ``errand``. A flow run that is at work on the same already is joined.

    TransientError when the flow run, or Prefect's server, is lost; StageError when it says nothing that we know. Told
    to stop, this process tells the flow run to stop as well.
    """
    asked = _answered(lambda: _under_way(pool, errand))
    try:
        return _report(pool, _ended(pool, errand["name"], asked))
    except Exception:
        raise
    except BaseException:  # a person, a limit of time or Prefect stops this process
        _cancel(asked)
        raise


def _under_way(pool: str, errand: Errand) -> FlowRun:
    """The flow run for the same key of the same store that has not ended yet, else a new one.

    Two that ask at once get the same one: what it is known by follows from the last one that ended.
    """
    tags = [f"zscir-key:{errand['key']}", f"zscir-store:{short_name(errand['store'])}"]
    with get_client(sync_client=True) as client:
        before = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=tags)), limit=1,
            deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[pool])),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        )  # fmt: skip
    step = errand["name"]
    if before and not _is_over(before[0].state):
        note(f"{step}: work pool '{pool}' is at it already, in flow run {before[0].name}; waiting for that")
        return before[0]
    last = before[0].id if before else "first"
    name = f"{step}-{errand['key'][:12]}"
    made = run_deployment(
        f"{FLOW}/{pool}", parameters={"errand": errand}, timeout=0, flow_run_name=name, tags=[*tags, "zscir"],
        idempotency_key=f"{' '.join(tags)} after {last}",
    )  # fmt: skip
    begun = cast(FlowRun, made)  # no coroutine: this process waits for it
    note(f"{step}: dispatched to work pool '{pool}' as flow run {name} ({begun.id})")
    return begun


def _is_over(state: State[Any] | None) -> bool:
    return state is not None and (state.is_final() or state.is_cancelling())


def _ended(pool: str, step: str, asked: FlowRun) -> FlowRun:
    """The flow run when it has ended; what it waits for meanwhile, and that it has begun, is told once."""
    told: set[str] = set()
    look_s = FIRST_LOOK_S
    with get_client(sync_client=True) as client:
        while True:
            seen = _answered(lambda: client.read_flow_run(asked.id))
            if seen.state is not None and seen.state.is_final():
                return seen
            news = _answered(partial(_news, client, pool, seen.state_type))
            if news and news not in told:
                note(f"{step}: {news}")
                told.add(news)
            time.sleep(look_s)
            look_s = min(1.2 * look_s, LONGEST_LOOK_S)


def _news(client: SyncPrefectClient, pool: str, state: StateType | None) -> str:
    if state == StateType.RUNNING:
        return f"a worker of pool '{pool}' has begun"
    if state not in WAITING:
        return ""
    status = client.read_work_pool(pool).status
    if status == WorkPoolStatus.PAUSED:
        return f"waiting: work pool '{pool}' is paused; prefect work-pool resume {pool}"
    if status == WorkPoolStatus.NOT_READY:
        where = "on a machine that reaches the store"
        return f"waiting: work pool '{pool}' has no worker online; {where}: prefect worker start --pool {pool}"
    return ""


def _report(pool: str, ended: FlowRun) -> Report:
    message = (ended.state.message if ended.state is not None else None) or "no reason given"
    report = report_of(message)
    if report is not None:
        return report
    what = f"flow run {ended.name} ({ended.id}) in work pool '{pool}'"
    if ended.state_type == StateType.CRASHED:
        raise TransientError(f"{what} crashed: {message}")
    if ended.state_type == StateType.CANCELLED:
        raise StageError(f"{what} was cancelled: {message}")
    raise StageError(f"{what} ended as {ended.state_name} without a report: {message}")


def _cancel(asked: FlowRun) -> None:
    note(f"flow run {asked.name} is told to stop")
    try:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(asked.id, State(type=StateType.CANCELLING))
    except Exception as error:  # noqa: BLE001 - this process is about to end, whatever Prefect's client raises
        warn(f"flow run {asked.name} could not be told to stop: {error}; prefect flow-run cancel {asked.id}")


def _answered(call: Callable[[], T]) -> T:
    """What ``call`` gets from Prefect's server, which may be away for as long as a store may."""
    deadline = time.monotonic() + Settings.from_env().patience_s
    while True:
        try:
            return call()
        except httpx.HTTPStatusError as error:
            if error.response.status_code < 500:
                raise StageError(f"Prefect's server answers {error.response.text[:300]}") from error
            last: httpx.HTTPError = error
        except httpx.HTTPError as error:
            last = error
        if time.monotonic() >= deadline:
            raise TransientError(f"Prefect's server does not answer: {last!r}") from last
        time.sleep(LONGEST_LOOK_S)
