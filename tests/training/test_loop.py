import os
import signal
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from tests.faults import processes
from tests.faults.matrix import Measured
from tests.methods import tiny
from zscir.methods.mapping import StarMapping
from zscir.methods.pli import Pli
from zscir.methods.protocol import AnyMethod
from zscir.methods.specs import PliSpec, TscirMapSpec
from zscir.methods.tscir_map import TscirMap, new_mapping
from zscir.runtime.errors import StageError
from zscir.store.artifacts import Artifact
from zscir.training.data import Pack
from zscir.training.loop import TrainPlan, fit, planned_steps
from zscir.training.resume import RESUME_FOLDER, STATE_FILE, TrainingCurve
from zscir.training.specs import OptimSpec

OPTIM = OptimSpec(lr=1e-3, weight_decay=0.1, warmup_steps=2)


def new_mapper() -> TscirMap:
    towers = tiny.towers()
    torch.manual_seed(5)
    spec = TscirMapSpec(word_hidden=8, inject_width=8, inject_heads=2, sites=(0, 1))
    return TscirMap(towers, new_mapping(towers, spec), spec)


def digest(method: AnyMethod) -> str:
    tensors = sorted(method.weights().items())
    return sha256(b"".join(name.encode() + tensor.numpy().tobytes() for name, tensor in tensors)).hexdigest()


def run(method: AnyMethod, data: Artifact, out: Path, steps: int = 7, optim: OptimSpec = OPTIM) -> TrainingCurve:
    return fit(method, Pack(data, tiny.PIXELS), TrainPlan(steps, 4, 1, optim), out, save_every_s=0)


def count_losses(method: TscirMap, most: int | None = None) -> list[int]:
    """The list holds how often the method's loss was called; the call after ``most`` kills the process."""
    loss, calls = method.loss, [0]

    def counted(*batch: object) -> object:
        if calls[0] == most:
            os.kill(os.getpid(), signal.SIGKILL)
        calls[0] += 1
        return loss(*batch)

    method.loss = counted
    return calls


def train_until_killed(data: Artifact, out: Path, killed_at: int) -> None:
    method = new_mapper()
    count_losses(method, killed_at)
    run(method, data, out)


@pytest.mark.parametrize("killed_at", [1, 3, 6])
def test_a_killed_training_ends_with_the_same_bytes_as_a_whole_one(
    tmp_path: Path, killed_at: int, measured: Measured
) -> None:
    data = tiny.pack(tmp_path / "p")
    whole = new_mapper()
    curve = run(whole, data, tmp_path / "whole")
    process = processes.start(train_until_killed, data, tmp_path / "broken", killed_at)
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    resumed = new_mapper()
    calls = count_losses(resumed)
    again = run(resumed, data, tmp_path / "broken")
    assert calls[0] == 7 - killed_at
    assert digest(resumed) == digest(whole)
    assert again.rows == curve.rows
    measured(
        "kill -9 of a training process",
        f"killed after step {killed_at} of 7, each saved: "
        f"{killed_at + calls[0] - 7} steps trained again, equal weights",
    )


def test_a_torn_state_file_means_a_fresh_start(tmp_path: Path) -> None:
    data, state = tiny.pack(tmp_path / "p"), tmp_path / "out" / RESUME_FOLDER / STATE_FILE
    state.parent.mkdir(parents=True)
    state.write_bytes(b"\x10\x00")
    torn, whole = new_mapper(), new_mapper()
    run(torn, data, tmp_path / "out")
    run(whole, data, tmp_path / "whole")
    assert digest(torn) == digest(whole)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_gives_others(tmp_path: Path) -> None:
    data = tiny.pack(tmp_path / "p")
    digests = []
    for seed in (1, 1, 2):
        method = new_mapper()
        fit(method, Pack(data, tiny.PIXELS), TrainPlan(4, 4, seed, OPTIM), tmp_path / str(len(digests)))
        digests.append(digest(method))
    assert digests[0] == digests[1] != digests[2]


def test_the_curve_has_every_part_of_every_step(tmp_path: Path) -> None:
    curve = run(new_mapper(), tiny.pack(tmp_path / "p"), tmp_path / "out", steps=3)
    assert {(step, name) for step, name, _ in curve.rows} == {
        (step, name) for step in range(3) for name in ("lr", "loss", "to_a", "to_b", "sta")
    }


def test_pli_brings_its_loss_down_on_a_small_pack(tmp_path: Path) -> None:
    method = Pli(tiny.towers(), PliSpec())
    curve = run(method, tiny.pack(tmp_path / "p"), tmp_path / "out", steps=40, optim=OptimSpec(lr=2e-3))
    losses = [value for _, name, value in curve.rows if name == "loss"]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_a_loss_that_is_no_number_stops_the_training(tmp_path: Path) -> None:
    method = new_mapper()
    with torch.no_grad():
        next(method.speaker.mapping.parameters()).fill_(torch.nan)
    with pytest.raises(StageError, match="step 0"):
        run(method, tiny.pack(tmp_path / "p"), tmp_path / "out")


def test_steps_are_whole_epochs_unless_cut_short() -> None:
    assert planned_steps(10, 4, 3, None) == 6
    assert planned_steps(10, 4, 3, 5) == 5
    assert planned_steps(10, 4, 1, 5) == 2


def test_bfloat16_trains_too(tmp_path: Path) -> None:
    method = new_mapper()
    plan = TrainPlan(2, 4, 1, OPTIM, bfloat16=True)
    curve = fit(method, Pack(tiny.pack(tmp_path / "p"), tiny.PIXELS), plan, tmp_path / "out")
    assert len(curve.rows) == 10
    assert isinstance(method.speaker.mapping, StarMapping)
