"""The command line, called in this process."""

import logging
import signal
import sys

import pytest

from zscir.cli import main as command_line


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """``cli(words...)`` -> (exit code, standard output, standard error); what it changes in the process is put back."""
    handler, logger = signal.getsignal(signal.SIGTERM), logging.getLogger("zscir")
    before = (list(logger.handlers), logger.level, logger.propagate)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZSCIR_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("ZSCIR_CACHE", str(tmp_path / "cache"))

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["zscir", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            command_line.main()
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    yield call
    signal.signal(signal.SIGTERM, handler)
    logger.handlers[:], logger.level, logger.propagate = before
