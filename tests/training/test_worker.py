"""A rank and its launcher as processes of their own: how they end, and what they are given."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.toy_pipelines import clean_environment
from tests.training.waiting import gone, wait_for
from zscir.training import launch

# torch asks for MASTER_ADDR, which is missing: an error of the rank's own, while something would hold up its end.
HELD_UP = """
import atexit, os, sys, time
from pathlib import Path
from zscir.training.worker import train_rank
atexit.register(time.sleep, 600)
train_rank(os.getppid(), Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_rank_that_failed_ends_at_once_whatever_its_libraries_would_wait_for(tmp_path: Path) -> None:
    environment = clean_environment({"RANK": "0", "WORLD_SIZE": "1", "CUDA_VISIBLE_DEVICES": ""})
    environment.pop("MASTER_ADDR", None)
    done = subprocess.run([sys.executable, "-c", HELD_UP, str(tmp_path)], env=environment, timeout=120, check=False)
    assert done.returncode == 1
    assert "MASTER_ADDR" in (tmp_path / "rank0.json").read_text()


@pytest.mark.slow
def test_a_launcher_that_gets_a_signal_ends_its_ranks_and_dies_of_that_signal(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "zscir.training.worker", "launch", str(os.getpid()), "1", str(tmp_path)]
    environment = clean_environment({"CUDA_VISIBLE_DEVICES": ""})
    with subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL) as launcher:
        (rank,) = wait_for(lambda: psutil.Process(launcher.pid).children())
        launcher.terminate()
        assert launcher.wait(60) == -signal.SIGTERM
    assert gone(rank)
    assert not (tmp_path / "exits.json").exists()


def test_ranks_share_the_cores_that_this_process_may_use_and_talk_over_the_loopback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("OMP_NUM_THREADS", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert launch._environment(1) == {
            "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "=lo",
        }  # fmt: skip
    finally:
        os.sched_setaffinity(0, allowed)
    assert launch._environment(len(allowed) + 1)["OMP_NUM_THREADS"] == "1"


def test_what_the_environment_says_already_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "1")
    assert launch._environment(2) == {}
