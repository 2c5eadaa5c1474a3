"""Logs and errors on standard error: plain lines or JSON, and no secret in either."""

import json
import os
import subprocess
import sys
from contextlib import suppress

import pytest

from tests.support.toy_pipelines import clean_environment, write_toy, zscir
from zscir.runtime.errors import RequestError
from zscir.runtime.progress import LOG_LABELS, log_labels
from zscir.runtime.settings import logs_as_json

SECRETS = {"OPENAI_API_KEY": "hunter2-hunter2"}
TELLING = """
import logging, sys, warnings
from zscir.cli.output import print_error, setup_logging
from zscir.runtime.errors import StageError
from zscir.runtime.progress import log_labels, log_info, track, log_warning
setup_logging(debug=False)
log_info("asked http://me:letmein99@host/v1 with hunter2-hunter2")
with log_labels(run="r1", step="download"), log_labels(key="abc"):
    log_warning("hunter2-hunter2 is slow")
logging.getLogger("somebody").warning("hunter2-hunter2 too")
warnings.warn("and hunter2-hunter2")
assert list(track(range(2), 2, "letters")) == [0, 1]
try:
    raise StageError("no hunter2-hunter2\\nrun r1; zscir rerun r1")
except StageError as error:
    print_error(error, debug=len(sys.argv) > 1)
"""


def log_of(*words, **environment):
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", TELLING, *words], env=clean_environment(SECRETS | environment),
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert "hunter2" not in done.stderr
    assert "letmein99" not in done.stderr
    return done.stderr


def test_plain_lines_hold_no_secret_of_the_environment_or_of_an_address():
    messages = [line[9:] for line in log_of().splitlines() if line[2:3] == ":"]
    assert messages == ["asked http://***:***@host/v1 with ***", "*** is slow"]
    assert "\n*** too\n" in log_of()


def test_an_error_is_a_few_lines_and_with_debug_its_way_too():
    assert log_of().endswith("zscir: no ***\nrun r1; zscir rerun r1\n")
    assert "Traceback" not in log_of()
    assert "Traceback" in log_of("--debug")


def test_json_lines_hold_time_level_message_and_what_they_are_about():
    lines = [json.loads(line) for line in log_of(ZSCIR_LOG="json").splitlines()]
    assert [line["message"].splitlines()[0] for line in lines[:3]] == [
        "asked http://***:***@host/v1 with ***", "*** is slow", "*** too",
    ]  # fmt: skip
    assert [line["level"] for line in lines] == ["info", "warning", "warning", "warning", "error"]
    assert {name: lines[1][name] for name in ("run", "step", "key")} == {"run": "r1", "step": "download", "key": "abc"}
    assert "run" not in lines[0]
    assert lines[0]["time"].endswith("+00:00")
    assert [line.get("logger") for line in lines] == [None, None, "somebody", "py.warnings", None]
    assert lines[-1]["message"] == "no ***\nrun r1; zscir rerun r1"
    assert "traceback" not in lines[-1]


def test_with_debug_the_way_of_an_error_is_a_field():
    last = json.loads(log_of("--debug", ZSCIR_LOG="json").splitlines()[-1])
    assert "StageError: no ***" in last["traceback"]


def test_labels_end_with_their_block():
    with log_labels(run="r1"):
        with suppress(ValueError), log_labels(step="s", run="r2"):
            assert LOG_LABELS.get() == {"run": "r2", "step": "s"}
            raise ValueError
        assert LOG_LABELS.get() == {"run": "r1"}
    assert LOG_LABELS.get() == {}


def test_another_kind_of_log_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("ZSCIR_LOG", "yaml")
    with pytest.raises(RequestError, match="ZSCIR_LOG=yaml: logs are 'plain' or 'json'"):
        logs_as_json()
    done = zscir(tmp_path, "runs", "--store", str(tmp_path), **os.environ)
    assert (done.returncode, done.stderr) == (2, "zscir: ZSCIR_LOG=yaml: logs are 'plain' or 'json'\n")


def test_a_request_that_is_wrong_is_one_line_of_json(tmp_path):
    path = write_toy(tmp_path / "specs")
    command = ("plan", str(path), "--set", "ingest.nothing=1", "--store", str(tmp_path / "store"))
    done = zscir(tmp_path, *command, ZSCIR_LOG="json")
    [line] = [json.loads(one) for one in done.stderr.splitlines()]
    assert (done.returncode, line["level"]) == (2, "error")
    assert "unknown key 'nothing'" in line["message"]
