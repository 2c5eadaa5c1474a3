import logging
import os
import threading

from tests.faults.processes import finish, kill_after, start
from zscir.store.file_locks import file_lock, lock_file_id


def hold(folder, said):
    """Hold the lock for ever."""
    with file_lock(folder, "toy"):
        said.touch()
        threading.Event().wait()


def wait_for(path):
    while not path.exists():
        threading.Event().wait(0.01)


def test_who_waits_logs_for_whom_and_continues_when_that_process_is_killed(tmp_path, caplog):
    caplog.set_level(logging.INFO, "zscir")
    process = start(hold, tmp_path / "work", tmp_path / "said")
    wait_for(tmp_path / "said")
    killer = threading.Timer(0.3, process.kill)
    killer.start()
    with file_lock(tmp_path / "work", "toy aaa"):
        assert not kill_after(process, 10)
    killer.join()
    assert f"toy aaa: {os.uname().nodename} (process {process.pid}, since 20" in caplog.text
    assert "is making this; waiting" in caplog.text


def test_a_lock_that_is_given_back_leaves_nothing(tmp_path):
    with file_lock(tmp_path / "work", "toy"):
        pass
    assert [path for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_the_next_holder_on_the_same_machine_has_a_lock_of_the_same_name(tmp_path):
    """Though the first one was killed: that is how a lease that it left is known to be nobody's."""
    process = start(hold, tmp_path / "work", tmp_path / "said")
    wait_for(tmp_path / "said")
    name = lock_file_id(tmp_path / "work.lock")
    assert kill_after(process, 0)
    with file_lock(tmp_path / "work", "toy") as again:
        assert again == name != ""
    with file_lock(tmp_path / "other", "toy") as other:
        assert other != name


def test_a_lock_file_that_cannot_be_looked_at_has_no_name(tmp_path):
    assert lock_file_id(tmp_path / "nothing") == ""


def one_turn(folder, log):
    with file_lock(folder, "toy"):
        for word in ("in", "out"):
            handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.write(handle, f"{word} ".encode())
            os.close(handle)


def test_one_process_at_a_time_is_inside(tmp_path):
    processes = [start(one_turn, tmp_path / "work", tmp_path / "log") for _ in range(5)]
    for process in processes:
        finish(process)
    assert (tmp_path / "log").read_text() == "in out " * 5
