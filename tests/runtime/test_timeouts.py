"""A block that takes too long is interrupted, even while it sleeps; whoever had the timer before has it again."""

import signal
import threading
import time
from collections.abc import Iterator

import pytest

from zscir.runtime.errors import StageError
from zscir.runtime.timeouts import time_limit


def late() -> StageError:
    return StageError("too long")


@pytest.fixture
def no_other_alarm() -> Iterator[None]:
    """The test runner's own timer is put aside."""
    before = signal.setitimer(signal.ITIMER_REAL, 0)
    yield
    signal.setitimer(signal.ITIMER_REAL, *before)


def test_a_sleeping_block_is_interrupted_with_the_error(no_other_alarm: None) -> None:
    with pytest.raises(StageError, match="too long"), time_limit(0.1, late):
        time.sleep(30)
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0.0


def test_code_that_catches_every_exception_does_not_keep_it(no_other_alarm: None) -> None:
    def stubborn() -> None:
        try:
            time.sleep(30)
        except Exception:  # noqa: BLE001 - what is tested
            time.sleep(30)

    with pytest.raises(StageError, match="too long"), time_limit(0.1, late):
        stubborn()


def test_a_block_in_time_is_left_alone_and_the_timer_before_continues(no_other_alarm: None) -> None:
    handler = signal.getsignal(signal.SIGALRM)
    signal.setitimer(signal.ITIMER_REAL, 100)
    with time_limit(50, late):
        pass
    assert 90 < signal.getitimer(signal.ITIMER_REAL)[0] <= 100
    assert signal.getsignal(signal.SIGALRM) is handler
    with time_limit(None, late):
        pass


def test_outside_the_main_thread_the_error_is_raised_afterwards() -> None:
    raised: list[str] = []

    def work() -> None:
        try:
            with time_limit(0.01, late):
                time.sleep(0.05)
        except StageError as error:
            raised.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert raised == ["too long"]
