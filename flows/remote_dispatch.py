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
from prefect.runtime import flow_run

from zscir.pipeline.remote_step import JobReport, JobTimeout, RemoteJob, parse_job_report
from zscir.runtime.errors import StageError, TransientError
from zscir.runtime.progress import log_info, log_warning
from zscir.runtime.retries import RetryPolicy
from zscir.runtime.settings import Settings
from zscir.store.artifacts import store_folder_name

REMOTE_FLOW_NAME = "make-dispatched"
FIRST_FLOW_POLL_S = 0.5
MAX_FLOW_POLL_S = 5.0
SLOW_PENDING_S = 120.0
MAX_PENDING_S = 3600.0  # a node for a Kubernetes job may take half of it
PENDING_STATES = (StateType.SCHEDULED, StateType.PENDING)
T = TypeVar("T")


def dispatch_job(pool: str, errand: RemoteJob) -> JobReport:
    """What a worker of ``pool`` reports of ``errand``. A flow run that is at work on the same already is joined.

    TransientError when the flow run, or Prefect's server, is lost; StageError when it says nothing that we know. Told
    to stop, this process tells the flow run to stop as well, unless another run asked for it: that one waits for it.
    """
    asked = _with_server_retries(lambda: _active_flow_run(pool, errand))
    try:
        return _read_report(pool, _wait_for_end(pool, errand, asked))
    except Exception:
        raise
    except BaseException:  # a person, a limit of time or Prefect stops this process
        _cancel_if_ours(asked)
        raise


def _active_flow_run(pool: str, errand: RemoteJob) -> FlowRun:
    """The flow run for the same key of the same store that has not ended yet, else a new one.

    Two that ask at once get the same one: what it is known by follows from the last one that ended. The clocks of those
    that ask may differ, so the last one found need not be the last: then its follower is there, and so on. Prefect's
    page does not show it below the run that asked, with which the server would cancel it while others wait for it; the
    tag ``zscir-asked-by`` names that flow run.
    """
    tags = [f"zscir-key:{errand['key']}", f"zscir-store:{store_folder_name(errand['store'])}"]
    with get_client(sync_client=True) as client:
        before = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=tags)),
            limit=1,
            deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[pool])),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        )
    found = before[0] if before else None
    while found is None or _is_over(found.state):
        found = _next_flow_run(pool, errand, tags, found)
    step = errand["name"]
    if _is_requested_by_us(found):
        log_info(f"{step}: dispatched to work pool '{pool}' as flow run {found.name} ({found.id})")
    else:
        log_info(f"{step}: work pool '{pool}' is at it already, in flow run {found.name}; waiting for that")
    return found


def _next_flow_run(pool: str, errand: RemoteJob, tags: list[str], last: FlowRun | None) -> FlowRun:
    """The flow run that follows ``last``, made now unless it is there. The key holds the pool: all share one flow."""
    name = f"{errand['name']}-{errand['key'][:12]}"
    after = last.id if last is not None else "none"
    made = run_deployment(
        f"{REMOTE_FLOW_NAME}/{pool}",
        parameters={"errand": errand},
        timeout=0,
        flow_run_name=name,
        as_subflow=False,
        tags=[*tags, _requester_id(), "zscir"],
        idempotency_key=f"{pool} {' '.join(tags)} after {after}",
    )
    return cast(FlowRun, made)  # no coroutine: this process waits for it


def _requester_id() -> str:
    return f"zscir-asked-by:{flow_run.id}"


def _is_requested_by_us(asked: FlowRun) -> bool:
    """Whether it was this run that asked for it, at this attempt or one before."""
    return _requester_id() in asked.tags


def _is_over(state: State[Any] | None) -> bool:
    return state is not None and (state.is_final() or state.is_cancelling())


def _wait_for_end(pool: str, errand: RemoteJob, asked: FlowRun) -> FlowRun:
    """The flow run when it is over; what it waits for meanwhile, and that it has begun, is told once."""
    told: set[str] = set()
    look_s, pending_since = FIRST_FLOW_POLL_S, None
    with get_client(sync_client=True) as client:
        while True:
            seen = _with_server_retries(lambda: client.read_flow_run(asked.id))
            if _is_over(seen.state):
                return seen
            pending_since = (pending_since or time.monotonic()) if seen.state_type == StateType.PENDING else None
            pending_s = time.monotonic() - pending_since if pending_since is not None else 0.0
            _check_wait(pool, errand, seen, pending_s)
            news = _with_server_retries(partial(_status_message, client, pool, seen, pending_s))
            if news and news not in told:
                log_info(f"{errand['name']}: {news}")
                told.add(news)
            time.sleep(look_s)
            look_s = min(1.2 * look_s, MAX_FLOW_POLL_S)


def _check_wait(pool: str, errand: RemoteJob, seen: FlowRun, pending_s: float) -> None:
    """OutOfTime when the run's time is over before a worker began; TransientError when one was lost before it did."""
    if seen.state_type in PENDING_STATES and RetryPolicy(**errand["terms"]).over:
        _cancel_if_ours(seen)
        raise JobTimeout(f"not begun: no worker of pool '{pool}' was free before the time for it was over")
    longest_s = MAX_PENDING_S if _is_requested_by_us(seen) else 1.5 * MAX_PENDING_S  # who asked for it goes first
    if pending_s > longest_s:
        _cancel(seen)
        what = f"flow run {seen.name} ({seen.id}) in work pool '{pool}'"
        raise TransientError(f"{what} was given to a worker and has not begun for {pending_s:.0f} s")


def _status_message(client: SyncPrefectClient, pool: str, seen: FlowRun, pending_s: float) -> str:
    if seen.state_type == StateType.RUNNING:
        return f"a worker of pool '{pool}' has begun"
    if seen.state_type not in PENDING_STATES:
        return ""
    if pending_s > SLOW_PENDING_S:
        return (
            f"waiting: a worker of pool '{pool}' is starting it; if that one is gone: prefect flow-run cancel {seen.id}"
        )
    status = client.read_work_pool(pool).status
    if status == WorkPoolStatus.PAUSED:
        return f"waiting: work pool '{pool}' is paused; prefect work-pool resume {pool}"
    if status == WorkPoolStatus.NOT_READY:
        where = "on a machine that reaches the store"
        return f"waiting: work pool '{pool}' has no worker online; {where}: prefect worker start --pool {pool}"
    return ""


def _read_report(pool: str, ended: FlowRun) -> JobReport:
    message = (ended.state.message if ended.state is not None else None) or "no reason given"
    what = f"flow run {ended.name} ({ended.id}) in work pool '{pool}'"
    report = parse_job_report(message)
    if report is not None and report.kind == "over" and not _is_requested_by_us(ended):
        raise TransientError(f"{what} was on the terms of another run, whose time was over")
    if report is not None:
        return report
    if ended.state_type == StateType.CRASHED:
        raise TransientError(f"{what} crashed: {message}")
    if ended.state_type in (StateType.CANCELLED, StateType.CANCELLING):
        kind = (
            StageError if _is_requested_by_us(ended) else TransientError
        )  # the run that asked was told to stop, not this one
        raise kind(f"{what} was cancelled: {message}")
    raise StageError(f"{what} ended as {ended.state_name} without a report: {message}")


def _cancel_if_ours(asked: FlowRun) -> None:
    if _is_requested_by_us(asked):
        _cancel(asked)
    else:
        log_info(f"flow run {asked.name} goes on: another run asked for it; prefect flow-run cancel {asked.id}")


def _cancel(asked: FlowRun) -> None:
    log_info(f"flow run {asked.name} is told to stop")
    try:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(asked.id, State(type=StateType.CANCELLING))
    except Exception as error:  # noqa: BLE001 - this process is about to end, whatever Prefect's client raises
        log_warning(f"flow run {asked.name} could not be told to stop: {error}; prefect flow-run cancel {asked.id}")


def _with_server_retries(call: Callable[[], T]) -> T:
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
        time.sleep(MAX_FLOW_POLL_S)
