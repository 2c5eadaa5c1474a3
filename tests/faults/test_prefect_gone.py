"""Prefect's server dies in the middle of a run: the steps go on, and what they made counts."""

import os
import signal
import subprocess
import time

import psutil
import pytest

from tests.support.toy_pipelines import clean_environment, command, write_toy
from tests.support.toys import store_at
from zscir.lineage.sql_views import query_store_rows
from zscir.pipeline.run import list_runs

STEPS = """
name = "toy"
[[steps]]
stage = "tabletop"
spec = { scenes = 40 }
[[steps]]
name = "slow"
stage = "tabletop"
spec = { scenes = 60000 }
[[steps]]
name = "after"
stage = "tabletop"
spec = { scenes = 41 }
"""


def servers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if "uvicorn" in child.cmdline():
                found.append(child)
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
def test_a_server_that_is_killed_in_the_middle_costs_no_step(tmp_path, measured):
    store = store_at(tmp_path / "store", tmp_path / "cache")
    home = {
        "ZSCIR_STORE": store.uri, "PREFECT_HOME": str(tmp_path / "home"), "HOME": str(tmp_path),
        # Prefect asks a server that is gone again and again: once is enough here.
        "PREFECT_CLIENT_MAX_RETRIES": "1",
    }  # fmt: skip
    process = subprocess.Popen(
        command("run", str(write_toy(tmp_path / "specs", STEPS))), env=clean_environment(home), text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    give_up = time.monotonic() + 200
    while len(store.list_keys()) < 1:
        assert process.poll() is None
        assert time.monotonic() < give_up
        time.sleep(0.1)
    [server] = servers_of(process)
    os.kill(server.pid, signal.SIGKILL)
    killed_at, before = time.monotonic(), len(store.list_keys())
    _, said = process.communicate(timeout=250)
    assert process.returncode == 0, said
    assert "done, but Prefect did not record it" in said
    assert len(store.list_keys()) == 3
    assert [row["status"] for row in list_runs(store)] == ["succeeded"]
    steps = query_store_rows(store, "SELECT outcome, attempts FROM stages")
    assert steps == [{"outcome": "made", "attempts": 1}] * 3
    measured(
        "kill -9 of the Prefect server in the middle of a run",
        f"killed after {before} of 3 steps: 3 made, each begun once; "
        f"{time.monotonic() - killed_at:.0f} s later the run had ended well",
    )
