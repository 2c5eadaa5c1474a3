"""Dispatch a step to another work pool: start a flow run there, or join the one at work on it, and wait for its report.

Not a subflow, and found by tags: two runs that need the same artifact share a flow run, and a run that was killed
finds its own again.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

import httpx
from prefect import get_client, runtime
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName, FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun, State, StateType, WorkPoolStatus
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments import run_deployment

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
MAX_PENDING_S = 3600.0  # a cluster that has to add a GPU node for a Kubernetes job may take half of it
PENDING_STATES = (StateType.SCHEDULED, StateType.PENDING)
T = TypeVar("T")


def dispatch_job(pool: str, job: RemoteJob) -> JobReport:
    """The report of a worker of ``pool`` on ``job``. A flow run that is at work on the same key already is joined.

    TransientError when the flow run, or Prefect's server, is lost; StageError when it ends without a report of ours.
    When this process is stopped it cancels the flow run too, unless another run requested it and still waits for it.
    """
    flow_run = _with_server_retries(lambda: _active_flow_run(pool, job))
    try:
        return _read_report(pool, _wait_for_end(pool, job, flow_run))
    except Exception:
        raise
    except BaseException:  # a person, a time limit or Prefect stops this process
        _cancel_if_ours(flow_run)
        raise


def _active_flow_run(pool: str, job: RemoteJob) -> FlowRun:
    """The flow run for the same key of the same store that has not ended yet, else a new one.

    Two requests at once get the same one: its idempotency key follows from the last one that ended. The clocks of the
    machines may differ, so the last one found need not be the last: then its successor is there, and so on. Prefect's
    page does not show it below the run that requested it, with which the server would cancel it while others wait for
    it; the tag ``zscir-asked-by`` names that run.
    """
    tags = [f"zscir-key:{job['key']}", f"zscir-store:{store_folder_name(job['store'])}"]
    with get_client(sync_client=True) as client:
        before = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=tags)),
            limit=1,
            deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[pool])),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        )
    found = before[0] if before else None
    while found is None or _is_over(found.state):
        found = _next_flow_run(pool, job, tags, found)
    step = job["name"]
    if _is_requested_by_us(found):
        log_info(f"{step}: dispatched to work pool '{pool}' as flow run {found.name} ({found.id})")
    else:
        log_info(f"{step}: work pool '{pool}' is at it already, in flow run {found.name}; waiting for that")
    return found


def _next_flow_run(pool: str, job: RemoteJob, tags: list[str], previous: FlowRun | None) -> FlowRun:
    """The flow run after ``previous``, made now unless it is there.

    The idempotency key names the pool, since the deployments of all pools share one flow.
    """
    name = f"{job['name']}-{job['key'][:12]}"
    after = previous.id if previous is not None else "none"
    made = run_deployment(
        f"{REMOTE_FLOW_NAME}/{pool}",
        parameters={"errand": job},
        timeout=0,
        flow_run_name=name,
        as_subflow=False,
        tags=[*tags, _requester_id(), "zscir"],
        idempotency_key=f"{pool} {' '.join(tags)} after {after}",
    )
    return cast(FlowRun, made)  # annotated as a coroutine too, which it is only inside an event loop


def _requester_id() -> str:
    return f"zscir-asked-by:{runtime.flow_run.id}"


def _is_requested_by_us(found: FlowRun) -> bool:
    """Whether this run requested it, at this attempt or an earlier one."""
    return _requester_id() in found.tags


def _is_over(state: State[Any] | None) -> bool:
    return state is not None and (state.is_final() or state.is_cancelling())


def _wait_for_end(pool: str, job: RemoteJob, flow_run: FlowRun) -> FlowRun:
    """The flow run when it is over; what it waits for meanwhile, and that it has begun, is logged once."""
    logged: set[str] = set()
    poll_s, pending_since = FIRST_FLOW_POLL_S, None
    with get_client(sync_client=True) as client:
        while True:
            now = _with_server_retries(lambda: client.read_flow_run(flow_run.id))
            if _is_over(now.state):
                return now
            pending_since = (pending_since or time.monotonic()) if now.state_type == StateType.PENDING else None
            pending_s = time.monotonic() - pending_since if pending_since is not None else 0.0
            _check_wait(pool, job, now, pending_s)
            message = _with_server_retries(partial(_status_message, client, pool, now, pending_s))
            if message and message not in logged:
                log_info(f"{job['name']}: {message}")
                logged.add(message)
            time.sleep(poll_s)
            poll_s = min(1.2 * poll_s, MAX_FLOW_POLL_S)


def _check_wait(pool: str, job: RemoteJob, flow_run: FlowRun, pending_s: float) -> None:
    """JobTimeout when the run's time is over before a worker began; TransientError when one was lost before it did."""
    if flow_run.state_type in PENDING_STATES and RetryPolicy(**job["terms"]).is_past_deadline:
        _cancel_if_ours(flow_run)
        raise JobTimeout(f"not begun: no worker of pool '{pool}' was free before the time for it was over")
    # The run that requested it gives up first; a run that joined it then finds its successor.
    longest_s = MAX_PENDING_S if _is_requested_by_us(flow_run) else 1.5 * MAX_PENDING_S
    if pending_s > longest_s:
        _cancel(flow_run)
        what = f"flow run {flow_run.name} ({flow_run.id}) in work pool '{pool}'"
        raise TransientError(f"{what} was given to a worker and has not begun for {pending_s:.0f} s")


def _status_message(client: SyncPrefectClient, pool: str, flow_run: FlowRun, pending_s: float) -> str:
    if flow_run.state_type == StateType.RUNNING:
        return f"a worker of pool '{pool}' has begun"
    if flow_run.state_type not in PENDING_STATES:
        return ""
    if pending_s > SLOW_PENDING_S:
        return f"waiting: a worker of pool '{pool}' is starting it; if that one is gone: {_cancel_command(flow_run)}"
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
        raise TransientError(f"{what} was under the limits of another run, whose time was over")
    if report is not None:
        return report
    if ended.state_type == StateType.CRASHED:
        raise TransientError(f"{what} crashed: {message}")
    if ended.state_type in (StateType.CANCELLED, StateType.CANCELLING):
        # Cancelled with the run that requested it: one that only joined it was not cancelled, and tries again.
        kind = StageError if _is_requested_by_us(ended) else TransientError
        raise kind(f"{what} was cancelled: {message}")
    raise StageError(f"{what} ended as {ended.state_name} without a report: {message}")


def _cancel_if_ours(flow_run: FlowRun) -> None:
    if _is_requested_by_us(flow_run):
        _cancel(flow_run)
    else:
        log_info(f"flow run {flow_run.name} continues: another run requested it; {_cancel_command(flow_run)}")


def _cancel(flow_run: FlowRun) -> None:
    log_info(f"cancelling flow run {flow_run.name}")
    try:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(flow_run.id, State(type=StateType.CANCELLING))
    except Exception as error:  # noqa: BLE001 - this process is about to end, whatever Prefect's client raises
        log_warning(f"flow run {flow_run.name} could not be cancelled: {error}; {_cancel_command(flow_run)}")


def _cancel_command(flow_run: FlowRun) -> str:
    return f"prefect flow-run cancel {flow_run.id}"


def _with_server_retries(call: Callable[[], T]) -> T:
    """What ``call`` gets from Prefect's server, which may be away for as long as a store may (ZSCIR_PATIENCE_S)."""
    deadline = time.monotonic() + Settings.from_env().store_retry_s
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
