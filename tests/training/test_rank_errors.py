"""The error that is raised for ranks that failed, from the files that they and the launcher leave."""

from pathlib import Path

import pytest

from zscir.runtime.errors import RequestError, StageError, TransientError, ZscirError
from zscir.runtime.retries import is_out_of_memory
from zscir.training.collectives import PeerLostError
from zscir.training.rank_errors import error_of_ranks, run_and_report

KILL, TERM, SEGV = -9, -15, -11


def left(folder: Path, rank: int, error: Exception) -> None:
    """Let a rank end with this error."""

    def work() -> None:
        raise error

    assert run_and_report(work, folder, rank) == 1


def verdict(folder: Path, exits: dict[int, int] | None, launcher: int = 1) -> ZscirError:
    (folder / "log").write_text("torch says much\nImportError: no gloo\n")
    return error_of_ranks(folder, 3, exits, launcher, folder / "log")


@pytest.mark.parametrize("kind", [RequestError, StageError, TransientError])
def test_an_error_of_ours_comes_through_as_it_is(tmp_path: Path, kind: type[ZscirError]) -> None:
    left(tmp_path, 1, kind("00000.tar: truncated"))
    left(tmp_path, 0, PeerLostError("another rank is gone: Connection closed"))
    error = verdict(tmp_path, {0: 1, 1: 1, 2: TERM})
    assert (type(error), str(error)) == (kind, "00000.tar: truncated (rank 1 of 3)")
    assert not is_out_of_memory(error)


def test_any_other_error_is_named_and_its_way_kept_for_debug(tmp_path: Path) -> None:
    left(tmp_path, 2, ZeroDivisionError("by zero"))
    error = verdict(tmp_path, {2: 1, 0: TERM, 1: TERM})
    assert (type(error), str(error)) == (StageError, "rank 2 of 3: ZeroDivisionError: by zero")
    assert "raise error" in error.__notes__[0]


def test_the_first_of_several_errors_is_raised(tmp_path: Path) -> None:
    for rank in (2, 0, 1):
        left(tmp_path, rank, StageError(f"error of {rank}"))
    assert str(verdict(tmp_path, {0: 1, 1: 1, 2: 1})) == "error of 2 (rank 2 of 3)"


def test_memory_that_ran_out_is_known_as_such(tmp_path: Path) -> None:
    def work() -> None:
        bytearray(1 << 62)

    assert run_and_report(work, tmp_path, 0) == 1
    error = verdict(tmp_path, {0: 1})
    assert is_out_of_memory(error)
    assert str(error).startswith("rank 0 of 3: MemoryError")


@pytest.mark.parametrize(
    ("exits", "words"),
    [
        ({1: KILL, 0: 1, 2: TERM}, "rank 1 of 3 was ended by SIGKILL"),
        ({0: TERM, 2: SEGV}, "rank 2 of 3 was ended by SIGSEGV"),
        ({2: TERM, 0: 1}, "rank 2 of 3 was ended by SIGTERM"),
        ({1: -77}, "rank 1 of 3 was ended by signal 77"),
    ],
)
def test_a_rank_that_was_ended_is_named_with_its_signal_and_may_be_tried_again(
    tmp_path: Path, exits: dict[int, int], words: str
) -> None:
    left(tmp_path, 0, PeerLostError("another rank is gone: Connection closed"))
    error = verdict(tmp_path, exits)
    assert type(error) is TransientError
    assert str(error) == f"{words}: from outside, or because memory ran out"


def test_a_rank_that_ends_without_a_report_is_named_before_those_that_were_ended_for_it(tmp_path: Path) -> None:
    error = verdict(tmp_path, {0: TERM, 1: 1, 2: TERM})
    assert type(error) is StageError
    assert str(error).startswith("rank 1 of 3 ended with exit code 1; the last lines of ")
    assert str(error).endswith("torch says much | ImportError: no gloo")


def test_lost_connections_alone_may_be_tried_again(tmp_path: Path) -> None:
    for rank in range(3):
        left(tmp_path, rank, PeerLostError("another rank is gone: Connection reset"))
    error = verdict(tmp_path, {0: 1, 1: 1, 2: 1})
    assert isinstance(error, TransientError)
    assert str(error) == "another rank is gone: Connection reset (rank 0 of 3)"


def test_a_launcher_that_was_killed_may_be_tried_again_and_one_that_does_not_start_not(tmp_path: Path) -> None:
    killed, broken = verdict(tmp_path, None, KILL), verdict(tmp_path, None, 1)
    assert (type(killed), str(killed)) == (TransientError, "training on 3 ranks: their launcher was ended by SIGKILL")
    assert type(broken) is StageError
    assert str(broken).endswith(f"the last lines of {tmp_path / 'log'}: torch says much | ImportError: no gloo")
