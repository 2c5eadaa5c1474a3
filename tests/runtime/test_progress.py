import logging
import os
import pty
import subprocess
import sys

from tests.support.toy_pipelines import clean_environment
from zscir.runtime import progress


def test_a_loop_gets_its_items_unchanged_and_a_line_now_and_then(monkeypatch, caplog):
    monkeypatch.setattr(progress, "LOG_EVERY_S", 0.0)
    monkeypatch.setattr(logging.getLogger("zscir"), "propagate", True)
    with caplog.at_level(logging.INFO, logger="zscir"):
        assert list(progress.track("abc", 3, "letters")) == ["a", "b", "c"]
        assert list(progress.track(iter([1]), None, "numbers")) == [1]
    assert [record.message for record in caplog.records] == [
        "letters: 1 of 3", "letters: 2 of 3", "letters: 3 of 3", "numbers: 1",
    ]  # fmt: skip


def test_a_short_loop_says_nothing(caplog):
    with caplog.at_level(logging.INFO, logger="zscir"):
        list(progress.track(range(1000), 1000, "quick"))
    assert caplog.records == []


def test_a_terminal_gets_a_bar():
    code = "from zscir.runtime.progress import track\nfor _ in track(range(3), 3, 'letters'): pass"
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", code], check=True, stderr=theirs, env=clean_environment({"TERM": "xterm"}))
    os.close(theirs)
    logged = os.read(ours, 65536).decode()
    os.close(ours)
    assert "letters" in logged
    assert "/3" in logged
