"""One holder of a key among several machines, judged without comparing clocks."""

import datetime as calendar
import logging
import threading
import time
from contextlib import ExitStack, contextmanager

import pytest

from tests.faults.faulty_proxy import KINDS, FaultyProxy
from tests.support.services import s3_endpoint
from tests.support.toys import store_at
from zscir.store import leases as leases_module
from zscir.store.conditional_writes import read_object, write_object
from zscir.store.leases import LEASE_FOLDER, LeaseHolder, LeaseLost, LeaseManager

CLOCK = "the clock jumps, forwards or back"
KEY = "a" * 64


def machine(uri, tmp_path, term_s=30.0):
    """What one machine has: its own leases on the store."""
    store = store_at(uri, tmp_path / "cache")
    return LeaseManager(store.uri, store.fs, store.root, term_s)


@pytest.fixture
def path(s3):
    return f"{s3.removeprefix('s3://')}/{LEASE_FOLDER}/toy/{KEY}.json"


@pytest.fixture
def fs(s3, tmp_path):
    return store_at(s3, tmp_path / "cache").fs


@pytest.fixture
def news(caplog):
    caplog.set_level(logging.INFO, "zscir")
    return caplog


def holder_at(fs, path):
    return LeaseHolder.model_validate_json(read_object(fs, path).text)


def left_by_a_dead_machine(fs, path, term_s, **words):
    """A lease that nobody renews."""
    values = {"token": "dead", "host": "gone.host", "pid": 1, "since": "s", "until": "u", "lock": "its lock"} | words
    return write_object(fs, path, LeaseHolder(term_s=term_s, **values).model_dump_json().encode(), None)


@contextmanager
def wanted(leases, lock="other"):
    """Somebody wants the key in a thread; the event is set when he has it. He gives it back at the end."""
    got, done, errors = threading.Event(), threading.Event(), []

    def want():
        try:
            with leases.hold("toy", KEY, lock):
                got.set()
                done.wait(30)
        except Exception as error:  # noqa: BLE001 - told to the test below
            errors.append(error)

    thread = threading.Thread(target=want)
    thread.start()
    try:
        yield got
    finally:
        done.set()
        thread.join()
        assert errors == []


def wait_until(true):
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_lease_names_its_holder_and_is_gone_when_it_is_released(s3, tmp_path, fs, path):
    with machine(s3, tmp_path).hold("toy", KEY, "lock"):
        holder = holder_at(fs, path)
        assert (holder.attempt, holder.beat, holder.term_s) == (1, 0, 30.0)
        assert holder.since < holder.until
    assert read_object(fs, path) is None


def test_the_second_logs_for_whom_it_waits_and_has_the_key_when_the_first_releases_it(s3, tmp_path, fs, path, news):
    with ExitStack() as second:
        with machine(s3, tmp_path).hold("toy", KEY, "lock"):
            got = second.enter_context(wanted(machine(s3, tmp_path)))
            wait_until(lambda: f"{holder_at(fs, path).describe()} is making this; waiting" in news.text)
            assert not got.wait(0.5)
        assert got.wait(10)
        assert (holder_at(fs, path).attempt, holder_at(fs, path).lock) == (1, "other")


def test_of_many_that_want_the_same_key_one_at_a_time_has_it(s3, tmp_path):
    inside, most, turns = 0, 0, 0
    one_at_a_time = threading.Lock()

    def work(leases):
        nonlocal inside, most, turns
        for _ in range(3):
            with leases.hold("toy", KEY, ""):
                with one_at_a_time:
                    inside, turns = inside + 1, turns + 1
                    most = max(most, inside)
                time.sleep(0.02)
                with one_at_a_time:
                    inside -= 1

    threads = [threading.Thread(target=work, args=(machine(s3, tmp_path),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, turns) == (1, 12)


def test_a_holder_that_gives_signs_of_life_keeps_the_key_for_longer_than_a_term(s3, tmp_path, fs, path):
    with ExitStack() as second, machine(s3, tmp_path, term_s=2).hold("toy", KEY, "lock"):
        got = second.enter_context(wanted(machine(s3, tmp_path)))
        assert not got.wait(3.5)
        assert holder_at(fs, path).beat >= 3


def test_a_holder_that_gives_none_is_followed_after_its_own_term(s3, tmp_path, fs, path, news):
    left_by_a_dead_machine(fs, path, term_s=1.0)
    started = time.monotonic()
    with machine(s3, tmp_path).hold("toy", KEY, "lock"):
        assert 1.0 <= time.monotonic() - started < 8
        assert holder_at(fs, path).attempt == 2
    assert "gone.host (process 1, since s) gave no sign for 1 s; taking it over" in news.text


def test_who_held_the_same_lock_of_this_machine_is_gone_and_followed_at_once(s3, tmp_path, fs, path):
    left_by_a_dead_machine(fs, path, term_s=1000.0, lock="boot:1:2")
    with machine(s3, tmp_path).hold("toy", KEY, "boot:1:2"):
        assert holder_at(fs, path).attempt == 2


def test_where_locks_have_no_names_a_lease_without_one_is_waited_for(s3, tmp_path, fs, path):
    left_by_a_dead_machine(fs, path, term_s=0.5, lock="")
    started = time.monotonic()
    with machine(s3, tmp_path).hold("toy", KEY, ""):
        assert time.monotonic() - started >= 0.5


@pytest.mark.parametrize("text", [b"", b'{"token": 1}', b"\xff"])
def test_a_lease_that_cannot_be_read_is_followed_after_our_own_term(s3, tmp_path, fs, path, text):
    write_object(fs, path, text, None)
    started = time.monotonic()
    with machine(s3, tmp_path, term_s=0.5).hold("toy", KEY, "lock"):
        assert time.monotonic() - started >= 0.5


def jumped(monkeypatch, years):
    """Set the wall clock as this process reads it."""

    class Jumped(calendar.datetime):
        @classmethod
        def now(cls, tz=None):
            return super().now(tz).replace(year=super().now(tz).year + years, day=1)

    monkeypatch.setattr(leases_module, "datetime", Jumped)
    monkeypatch.setattr(time, "time", lambda real=time.time: real() + years * 365 * 86400)


def test_a_clock_that_jumps_robs_no_living_holder_of_its_key(s3, tmp_path, monkeypatch, measured):
    with ExitStack() as second, machine(s3, tmp_path, term_s=2).hold("toy", KEY, "lock"):
        jumped(monkeypatch, 30)
        got = second.enter_context(wanted(machine(s3, tmp_path)))
        assert not got.wait(1.2)
        jumped(monkeypatch, -60)
        assert not got.wait(2.3)
    measured(CLOCK, "30 years on, then 60 back: a living holder with a lease of 2 s still had its key after 3.5 s")


@pytest.mark.parametrize("until", ["1970-01-01T00:00:00+00:00", "2999-01-01T00:00:00+00:00"])
def test_a_dead_holder_is_replaced_after_its_term_whatever_its_clock_said(s3, tmp_path, fs, path, until, measured):
    left_by_a_dead_machine(fs, path, term_s=0.5, until=until)
    started = time.monotonic()
    with machine(s3, tmp_path).hold("toy", KEY, "lock"):
        followed_s = time.monotonic() - started
    assert 0.5 <= followed_s < 8
    measured(CLOCK, f"a dead one with a lease of 0.5 s until {until[:4]} was followed after {followed_s:.1f} s")


def test_a_holder_whose_key_was_taken_over_learns_by_whom_and_leaves_the_other_alone(s3, tmp_path, fs, path):
    leases = machine(s3, tmp_path)
    with leases.hold("toy", KEY, "lock"):
        current = read_object(fs, path)
        other = holder_at(fs, path).model_copy(update={"token": "other", "host": "other.host"})
        write_object(fs, path, other.model_dump_json().encode(), current.etag)
        with pytest.raises(LeaseLost, match=r"taken over by other\.host .* is not committed"):
            leases.held("toy", KEY).confirm()
        with pytest.raises(LeaseLost):
            leases.held("toy", KEY).check()
    assert holder_at(fs, path) == other


def test_a_holder_whose_lease_is_gone_has_lost_it(s3, tmp_path, fs, path):
    leases = machine(s3, tmp_path)
    with leases.hold("toy", KEY, "lock"):
        fs.rm_file(path)
        with pytest.raises(LeaseLost, match="taken over by another process"):
            leases.held("toy", KEY).confirm()


def test_answers_that_get_lost_cost_no_lease(s3, tmp_path, monkeypatch):
    """Four of ten requests fail, half of them after they were carried out."""
    with FaultyProxy(s3_endpoint(), share=0.4, seed=1) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
        leases = machine(s3, tmp_path, term_s=60)
        for _ in range(3):
            with leases.hold("toy", KEY, "lock"):
                for _ in range(3):
                    leases.held("toy", KEY).confirm()
        assert min(proxy.faults[kind] for kind in KINDS) >= 1


@pytest.mark.parametrize("conditions", ["ignored", "refused"])
def test_an_endpoint_without_conditional_writes_is_named_once_and_then_worked_with(
    s3, tmp_path, monkeypatch, news, conditions
):
    with FaultyProxy(s3_endpoint(), conditions=conditions) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
        leases = machine(s3, tmp_path)
        for _ in range(2):
            with leases.hold("toy", KEY, "lock"):
                assert leases.held("toy", KEY) is None
    assert news.text.count("the endpoint has no conditional writes") == 1
