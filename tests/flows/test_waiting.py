"""Runs that wait for a dispatched step, several for one: there is no worker, the tests set the states of flow runs."""

import os
import secrets
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from prefect import flow

from flows.remote_dispatch import dispatch_job
from flows.work_pools import ensure_work_pools
from tests.support import services
from tests.support.services import named, prefect_api
from zscir.pipeline.remote_step import JobReport, JobTimeout
from zscir.runtime.errors import StageError, TransientError
from zscir.runtime.retries import RetryPolicy
from zscir.store.artifacts import store_folder_name

POOLS = ("waiting", "waiting-2")
LIMIT_S = 120
DONE = JobReport(outcome="made", worker="w:1:1", attempts=1, wall_s=1.0, cpu_s=1.0, peak_rss_bytes=1, key="0" * 64)
OVER = DONE.model_copy(update={"outcome": "failed", "key": None, "error": "not begun", "kind": "over"})
pytestmark = [pytest.mark.slow, pytest.mark.timeout(4 * LIMIT_S)]


def ask(what, query=None, method=None):
    return services.ask(prefect_api(), what, query, method)


wait_for = partial(services.wait_for, limit_s=LIMIT_S)


@pytest.fixture(autouse=True)
def pools():
    with named(prefect_api()):
        if not ask("work_pools/filter", {"work_pools": {"name": {"any_": list(POOLS)}}}):
            for name in POOLS:
                ask("work_pools/", {"name": name, "type": "process"})
            ensure_work_pools(POOLS)
        yield


@pytest.fixture
def job():
    """A job that no flow run was started for; no worker will read the rest of it."""
    return {"key": secrets.token_hex(32), "store": "/nowhere", "name": "train", "terms": vars(RetryPolicy())}


@flow(persist_result=False, validate_parameters=False)
def requests_job(pool, job):
    return dispatch_job(pool, job)


@contextmanager
def requesting(job, pool=POOLS[0]):
    """Another run that requests it, meanwhile, in a thread of this process; its flow runs are ended at the end."""
    with ThreadPoolExecutor(1) as executor:
        try:
            yield executor.submit(copy_context().run, requests_job, pool, job)
        finally:
            for flow_run in flow_runs(job):
                end(flow_run, "CRASHED")


def tags(job):
    return [f"zscir-key:{job['key']}", f"zscir-store:{store_folder_name(job['store'])}"]


def flow_runs(job):
    """The flow runs of a job, in the order in which they were made."""
    found = ask("flow_runs/filter", {"flow_runs": {"tags": {"all_": tags(job)}}})
    return sorted(found, key=lambda flow_run: flow_run["created"])


def end(flow_run, state, message="said so"):
    ask(f"flow_runs/{flow_run['id']}/set_state", {"state": {"type": state, "message": message}, "force": True})


def the_only(job):
    (found,) = wait_for(lambda: flow_runs(job))
    return found


def test_a_step_that_was_cancelled_in_one_pool_is_made_in_another(job):
    with requesting(job) as first:
        end(the_only(job), "CANCELLED")
        with pytest.raises(StageError, match="was cancelled: said so"):
            first.result(LIMIT_S)
    with requesting(job, POOLS[1]) as second:
        wait_for(lambda: second.done() or len(flow_runs(job)) == 2)
        end(flow_runs(job)[1], "COMPLETED", DONE.message())
        assert second.result(LIMIT_S) == DONE


def test_a_flow_run_that_ended_is_not_waited_for_again_whatever_the_clocks_say(job):
    deployment = ask(f"deployments/name/make-dispatched/{POOLS[0]}")["id"]
    later = {"type": "SCHEDULED", "state_details": {"scheduled_time": f"{datetime.now(UTC) + timedelta(days=1)}"}}
    ahead = {"tags": tags(job), "state": later, "parameters": {"errand": job}}
    end(ask(f"deployments/{deployment}/create_flow_run", ahead), "CRASHED")
    for number in (1, 2):
        with requesting(job) as requested:
            wait_for(lambda: requested.done() or len(flow_runs(job)) == number + 1)  # noqa: B023 - called in the same turn of the loop
            assert len(flow_runs(job)) == number + 1
    assert isinstance(requested.exception(), TransientError)


def test_a_run_that_is_stopped_leaves_alone_what_another_requested(job, caplog, measured):
    def interrupt():
        wait_for(lambda: "is at it already" in caplog.text)
        os.kill(os.getpid(), signal.SIGINT)

    with requesting(job) as first:
        found = the_only(job)
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            requests_job(POOLS[0], job)
        assert f"flow run {found['name']} continues: another run requested it" in caplog.text
        end(the_only(job), "COMPLETED", DONE.message())
        assert first.result(LIMIT_S) == DONE
    measured(
        "SIGINT of a run that had joined another's step in another pool",
        f"{len(flow_runs(job))} flow run for both runs: it went on, and the other run had its step",
    )


@pytest.mark.parametrize(("state", "message"), [("CANCELLED", "stopped"), ("FAILED", OVER.message())])
def test_a_run_requests_anew_when_the_one_that_it_had_joined_was_stopped_or_had_less_time(job, caplog, state, message):
    with requesting(job) as first:
        found = the_only(job)
        with requesting(job) as second:
            wait_for(lambda: "is at it already" in caplog.text)
            end(found, state, message)
            assert isinstance(second.exception(LIMIT_S), TransientError)
        assert not isinstance(first.exception(LIMIT_S), TransientError)


def test_the_server_does_not_cancel_a_step_with_the_run_that_requested_it_which_a_tag_names(job):
    with requesting(job):
        found = the_only(job)
        assert found["parent_task_run_id"] is None
        (asker,) = [tag for tag in found["tags"] if tag.startswith("zscir-asked-by:")]
        assert ask(f"flow_runs/{asker.partition(':')[2]}")["state_type"] == "RUNNING"


def test_a_run_whose_time_is_over_waits_for_no_worker(job):
    late = {**job, "terms": vars(RetryPolicy(until=time.time()))}
    with pytest.raises(JobTimeout, match="no worker of pool 'waiting' was free before the time for it was over"):
        requests_job(POOLS[0], late)
    assert the_only(job)["state_type"] == "CANCELLED"


def test_a_flow_run_whose_worker_was_lost_before_it_began_is_given_up(job, caplog, monkeypatch):
    monkeypatch.setattr("flows.remote_dispatch.SLOW_PENDING_S", 0.0)
    monkeypatch.setattr("flows.remote_dispatch.MAX_PENDING_S", 2.0)
    with requesting(job) as requested:
        found = the_only(job)
        end(found, "PENDING")
        with pytest.raises(TransientError, match="was given to a worker and has not begun for"):
            requested.result(LIMIT_S)
        assert f"if that one is gone: prefect flow-run cancel {found['id']}" in caplog.text
        assert the_only(job)["state_type"] in ("CANCELLING", "CANCELLED")
