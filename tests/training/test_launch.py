"""Training on two ranks (processes on the CPU, gloo), started as users start it; what is killed is killed for real."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from tests.faults.matrix import Measured
from tests.methods import tiny
from tests.stages.test_train import CLIP, MAP, spec
from tests.support.services import prefect_api
from tests.support.toy_pipelines import clean_environment, command
from tests.support.toys import store_at
from tests.training.waiting import launcher_and_ranks, listening, none_left, state_step, wait_for, wait_for_ranks
from zscir.pipeline.run import list_runs
from zscir.runtime.errors import RequestError, StageError
from zscir.runtime.retries import RetryPolicy, with_retries
from zscir.stages.train import train
from zscir.store.artifacts import Artifact, remove_scratch_files
from zscir.training.job import TrainJob
from zscir.training.launch import resolve_rank_count, train_on_ranks

STEPS = 60  # of about 20 ms each: enough to be killed in


@pytest.fixture
def on_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ranks that a test starts see no GPU: with one alone, two of them would be refused."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return tiny.pack(tmp_path_factory.mktemp("packs") / "pairs")


@pytest.fixture(scope="module")
def backbone(pairs: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    out = tmp_path_factory.mktemp("clip")
    train(spec(CLIP), data=pairs, out=out)
    return Artifact.of_folder(out)


def job(out: Path, data: Artifact, backbone: Artifact) -> TrainJob:
    """A mapping, with its dropout and batch norms, whose state is saved after every step."""
    out.mkdir(exist_ok=True)
    return TrainJob(spec(MAP, steps=STEPS, epochs=STEPS), out, data, backbone, save_every_s=0)


def made_by(job: TrainJob) -> str:
    remove_scratch_files(job.out)
    return Artifact.of_folder(job.out).digest


@pytest.mark.slow
@pytest.mark.timeout(900)  # four starts of torch, each in three processes
@pytest.mark.usefixtures("on_cpus")
def test_the_rank_that_saves_and_the_launcher_killed_in_turn_cost_steps_and_no_bit(
    tmp_path: Path, pairs: Artifact, backbone: Artifact, measured: Measured
) -> None:
    undisturbed = job(tmp_path / "undisturbed", pairs, backbone)
    facts = train_on_ranks(2, undisturbed)
    assert facts == {"rows": 12, "steps": STEPS, "parameters": facts["parameters"]}
    killed = job(tmp_path / "killed", pairs, backbone)
    started_ranks: list[dict[str, psutil.Process]] = []
    begun: list[int] = []
    kept: list[int] = []
    ended: list[str] = []

    def kill(victim: str, after: int) -> None:
        processes = wait_for_ranks(psutil.Process())
        begun.append(state_step(killed.out))
        wait_for(lambda: state_step(killed.out) >= after)
        processes[victim].kill()
        started_ranks.append(processes)

    def attempt() -> dict[str, Any]:
        try:
            return train_on_ranks(2, killed)
        except StageError as error:
            ended.append(str(error))
            none_left(started_ranks[-1], 5)  # the kernel closes a dying process's files before it is gone
            kept.append(state_step(killed.out))
            raise

    def count(number: int) -> None:
        if number <= 2:
            threads.append(threading.Thread(target=kill, args=(("0", "launch")[number - 1], 20 * number)))
            threads[-1].start()

    threads: list[threading.Thread] = []
    assert with_retries(attempt, RetryPolicy(retries=2, backoff_s=0.01), count, "train") == facts
    for thread in threads:
        thread.join()
    assert ended == [
        "rank 0 of 2 was ended by SIGKILL: from outside, or because memory ran out",
        "training on 2 ranks: their launcher was ended by SIGKILL",
    ]
    assert begun[0] == 0
    assert begun[1] >= kept[0] >= 20
    assert made_by(killed) == made_by(undisturbed)
    measured(
        "kill -9 of a training rank, or of the launcher of the ranks",
        f"killed with {kept[0]} and with {kept[1]} of {STEPS} steps saved: went on from step {begun[1]}, "
        "then to the end, digest as undisturbed",
    )


@pytest.mark.slow
@pytest.mark.usefixtures("on_cpus")
def test_an_error_of_one_rank_is_raised_with_its_own_message_and_leaves_no_rank(
    tmp_path: Path, pairs: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "broken"
    tiny.pack(folder)
    shard = folder / "00000.tar"
    shard.write_bytes(shard.read_bytes().replace(b"\xff\xd8\xff", b"\x00\x00\x00", 1))
    monkeypatch.setenv("ZSCIR_RANKS", "2")
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(StageError, match=r"reference of triplet t000.* \(rank [01] of 2\)\n") as caught:
        train(spec(CLIP, steps=30, epochs=30), data=Artifact.of_folder(folder), out=out)
    assert "Traceback" in caught.value.__notes__[0]
    assert "Traceback" not in str(caught.value)
    assert launcher_and_ranks(psutil.Process()) == {}


PIPELINE = """
name = "lone"
[limits]
retries = 0
[[steps]]
stage = "train"
inputs = {{ data = "file:{data}" }}
[steps.spec]
batch_size = 4
epochs = 4000
optim = {{ lr = 1e-3 }}
method = {method}
"""


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {toml(entry)}" for name, entry in value.items()) + " }"
    return {True: "true", False: "false"}.get(value, repr(value)) if isinstance(value, bool) else repr(value)


@pytest.fixture
def started(tmp_path: Path, pairs: Artifact) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts ``zscir WORDS`` on two ranks; whatever is still there at the end is killed."""
    path = tmp_path / "lone.toml"
    path.write_text(PIPELINE.format(data=pairs.path("index.parquet").parent, method=toml(CLIP)))
    environment = {
        "ZSCIR_STORE": str(tmp_path / "store"), "ZSCIR_RANKS": "2", "CUDA_VISIBLE_DEVICES": "",
        "PREFECT_API_URL": prefect_api(),
    }  # fmt: skip
    begun: list[subprocess.Popen[str]] = []

    def start(*words: str) -> "subprocess.Popen[str]":
        with (tmp_path / "said").open("w") as said:
            begun.append(
                subprocess.Popen(
                    command(*(words or ("run", str(path)))), env=clean_environment(environment), cwd=tmp_path,
                    stderr=said, stdout=subprocess.DEVNULL, text=True, start_new_session=True,
                )
            )  # fmt: skip
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.wait()


def reads_batches(rank: psutil.Process) -> bool:
    """Whether a rank has gone as far as to open a shard of the pack: it has joined the others, and trains."""
    try:
        return any(file.path.endswith(".tar") for file in rank.open_files())
    except psutil.Error:
        return False


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_that_ends_in_any_way_leaves_no_rank(
    tmp_path: Path, started: Callable[..., "subprocess.Popen[str]"], measured: Measured
) -> None:
    said, store = tmp_path / "said", store_at(tmp_path / "store", tmp_path / "cache")

    def at_work(process: "subprocess.Popen[str]") -> dict[str, psutil.Process]:
        processes = wait_for_ranks(psutil.Process(process.pid))
        wait_for(lambda: all(reads_batches(processes[rank]) for rank in "01"))
        return processes

    signalled = started()
    processes = at_work(signalled)
    assert [set(listening(process)) for process in processes.values()] == [{"127.0.0.1"}] * 3
    signalled.send_signal(signal.SIGTERM)
    assert signalled.wait(60) == 130, said.read_text()
    none_left(processes, 5)

    typed = started("rerun", "latest")
    processes = at_work(typed)
    os.killpg(typed.pid, signal.SIGINT)  # as Ctrl-C does, which the whole group of the terminal's process gets
    assert typed.wait(60) == 130, said.read_text()
    none_left(processes, 5)

    failing = started("rerun", "latest")
    processes = at_work(failing)
    processes["1"].kill()
    assert failing.wait(60) == 3
    words = said.read_text()
    assert "step 'train' (stage train): rank 1 of 2 was ended by SIGKILL" in words
    assert words.rstrip().endswith(f"zscir rerun {list_runs(store)[-1]['run_id']}")
    assert "Traceback" not in words
    none_left(processes, 5)

    killed = started("rerun", "latest")
    processes = at_work(killed)
    killed.kill()
    killed_at = time.monotonic()
    killed.wait()
    none_left(processes, 30)
    none_s = time.monotonic() - killed_at
    assert [row["status"] for row in list_runs(store)] == ["interrupted", "interrupted", "failed", "died"]
    measured("kill -9 of the process whose ranks train", f"{none_s:.1f} s later none of its 3 processes was left")


@pytest.mark.parametrize("given", ["0", "-2", "many", "1.5", "²", "9999999", "auto,4"])
def test_a_number_of_ranks_that_makes_no_sense_is_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("ZSCIR_RANKS", given)
    with pytest.raises(RequestError, match=r"ZSCIR_RANKS = .*: a number from 1 to 1024, or 'auto'"):
        resolve_rank_count(12)


def test_ranks_that_cannot_share_a_batch_are_refused_with_those_that_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSCIR_RANKS", "5")
    with pytest.raises(RequestError, match=r"batch_size = 12 evenly; set ZSCIR_RANKS to 1, 2, 3, 4, 6, 12$"):
        resolve_rank_count(12)
    assert resolve_rank_count(10) == 5


def test_one_rank_without_a_setting_and_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZSCIR_RANKS", raising=False)
    assert resolve_rank_count(7) == 1
    monkeypatch.setenv("ZSCIR_RANKS", "")  # as compose.yaml passes what infra/.env leaves empty
    assert resolve_rank_count(7) == 1
    monkeypatch.setenv("ZSCIR_RANKS", "auto")
    assert resolve_rank_count(torch.cuda.device_count() * 8 or 7) == max(1, torch.cuda.device_count())


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="NCCL wants two CUDA devices for two ranks")
def test_two_gpus_train_what_one_does(tmp_path: Path, pairs: Artifact, backbone: Artifact) -> None:
    alone, together = (job(tmp_path / name, pairs, backbone) for name in ("alone", "together"))
    assert alone.run() == train_on_ranks(2, together)
    losses = [losses_of(job.out) for job in (alone, together)]
    assert losses[1][:5] == pytest.approx(losses[0][:5], rel=0.05)  # dropout is drawn by each for itself


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_one_rank_over_nccl_trains_what_this_process_does(tmp_path: Path, pairs: Artifact, backbone: Artifact) -> None:
    alone, launched = (job(tmp_path / name, pairs, backbone) for name in ("alone", "launched"))
    assert alone.run() == train_on_ranks(1, launched)
    assert torch.cuda.memory_reserved() == 0  # the rank had the whole GPU, but for what this process still uses
    assert losses_of(launched.out)[:5] == pytest.approx(losses_of(alone.out)[:5], rel=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_more_ranks_than_gpus_are_refused(tmp_path: Path, pairs: Artifact, backbone: Artifact) -> None:
    count = 2 * torch.cuda.device_count()
    with pytest.raises(RequestError, match=f"ZSCIR_RANKS = {count}, but there are .* CUDA devices"):
        train_on_ranks(count, job(tmp_path / "out", pairs, backbone))


def losses_of(folder: Path) -> list[float]:
    import pyarrow.parquet as pq

    rows = pq.read_table(folder / "curve.parquet").to_pylist()
    return [row["value"] for row in rows if row["name"] == "loss"]
