"""Ranks against one process: the same losses, gradients, tensors and statistics up to rounding."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.distributed import DistBackendError

from tests.methods import tiny
from tests.support.toy_pipelines import ROOT
from tests.training import rank_program
from zscir.training.collectives import BUCKET_NUMBERS, SINGLE_RANK, PeerLostError, RankGroup, _buckets, _peer_errors
from zscir.training.data import positions_at

pytestmark = pytest.mark.slow

COUNTS = [2, 3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What three processes, then two, and one left of their work, on CPUs whatever this machine has."""
    made = tmp_path_factory.mktemp("ranks")
    tiny.pack(made / "pairs")
    tiny.pack(made / "triplets", triplets=True)
    words = [sys.executable, "-m", "tests.training.rank_program", str(made)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(words, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    return made


def outcome(folder: Path, count: int, rank: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / str(count) / str(rank) / "outcome.json").read_text())
    return found


def same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], tolerance: float) -> None:
    """Equal up to rounding, which is judged by the largest number of each tensor."""
    assert found.keys() == wanted.keys()
    for name, expected in wanted.items():
        largest = max(float(expected.abs().max()), 1e-3)
        assert torch.allclose(found[name].double(), expected.double(), rtol=0, atol=tolerance * largest), name


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", rank_program.METHODS)
def test_ranks_train_what_one_process_trains(folder: Path, name: str, count: int) -> None:
    wanted, found = (outcome(folder, ranks)["curves"][name] for ranks in (1, count))
    assert [row[:2] for row in found] == [row[:2] for row in wanted]
    assert [row[2] for row in found] == pytest.approx([row[2] for row in wanted], rel=1e-4, abs=1e-6)
    before = rank_program.moved(rank_program.new(name))
    after = load_file(folder / str(count) / "0" / name)
    same(after, load_file(folder / "1" / "0" / name), 1e-4)
    assert any(not torch.equal(tensor, before[name]) for name, tensor in after.items())


@pytest.mark.parametrize("count", COUNTS)
def test_every_rank_ends_with_the_same_bits(folder: Path, count: int) -> None:
    for name in rank_program.METHODS:
        made = [(folder / str(count) / str(rank) / name).read_bytes() for rank in range(count)]
        assert made == made[:1] * count
        curves = [outcome(folder, count, rank)["curves"][name] for rank in range(count)]
        assert curves == curves[:1] * count


@pytest.mark.parametrize("count", COUNTS)
def test_gradients_through_gathered_rows_are_those_of_the_whole_batch(folder: Path, count: int) -> None:
    wanted = {
        name: tensor
        for seed in range(rank_program.CASES)
        for name, tensor in rank_program.gradients(seed, SINGLE_RANK).items()
    }
    assert len(wanted) == 7 * rank_program.CASES
    for rank in range(count):
        same(load_file(folder / str(count) / str(rank) / "gradients"), wanted, 2e-6)


@pytest.mark.parametrize("count", COUNTS)
def test_a_batch_norm_sees_the_whole_batch_and_so_does_its_gradient(folder: Path, count: int) -> None:
    wanted = rank_program.batch_norm(SINGLE_RANK)
    for rank in range(count):
        same(load_file(folder / str(count) / str(rank) / "norm"), wanted, 5e-6)


@pytest.mark.parametrize("count", COUNTS)
def test_one_process_goes_on_from_the_state_that_several_saved(folder: Path, count: int) -> None:
    curve = json.loads((folder / str(count) / "resumed.json").read_text())
    assert curve[:15] == outcome(folder, count)["curves"]["tscir_map"][:15]
    same(load_file(folder / str(count) / "resumed"), load_file(folder / "1" / "0" / "tscir_map"), 1e-4)


@pytest.mark.parametrize("count", COUNTS)
def test_what_is_wrong_on_one_rank_stops_all(folder: Path, count: int) -> None:
    for rank in range(count):
        states, number = outcome(folder, count, rank)["words"]
        assert states == f"the ranks found different states to resume from: after the steps {[3] + [0] * (count - 1)}"
        assert number.startswith("train tscir_map: the loss is nan at step 0")


@pytest.mark.parametrize("count", COUNTS)
def test_bfloat16_trains_on_ranks_too(folder: Path, count: int) -> None:
    losses = [value for _, name, value in outcome(folder, count)["curves"]["bfloat16"] if name == "loss"]
    plain = [value for _, name, value in outcome(folder, count)["curves"]["tscir_map"] if name == "loss"]
    assert losses == pytest.approx(plain, rel=0.05)


def test_shares_are_the_batch_in_its_order() -> None:
    _, positions = positions_at(3, 40, 12, 1)
    shares = [RankGroup(rank, 4).share(positions) for rank in range(4)]
    assert [len(share) for share in shares] == [3, 3, 3, 3]
    assert np.concatenate(shares).tolist() == positions.tolist() == SINGLE_RANK.share(positions).tolist()


def test_no_two_ranks_draw_alike_and_one_alone_draws_as_ever() -> None:
    assert SINGLE_RANK.seed_parts == RankGroup(0, 1).seed_parts == ()
    assert len({RankGroup(rank, 3).seed_parts for rank in range(3)}) == 3


NO_ROOM = "NCCL error: unhandled cuda error. Last error: Cuda failure 2 'out of memory'"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("Connection closed by peer [127.0.0.1]:4711"), PeerLostError),
        (DistBackendError("NCCL error: remote process exited or there was a network error"), PeerLostError),
        (DistBackendError(NO_ROOM), torch.OutOfMemoryError),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), torch.OutOfMemoryError),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), torch.AcceleratorError),
    ],
)
def test_only_a_transport_error_about_others_is_a_lost_rank(error: RuntimeError, expected: type[Exception]) -> None:
    with pytest.raises(expected) as caught, _peer_errors():
        raise error
    assert type(caught.value) is expected


def test_buckets_hold_every_gradient_once_in_order() -> None:
    gradients = [torch.zeros(1).expand(BUCKET_NUMBERS // 3) for _ in range(7)]
    buckets = list(_buckets(gradients))
    assert [len(bucket) for bucket in buckets] == [4, 3]
    assert [id(gradient) for bucket in buckets for gradient in bucket] == [id(gradient) for gradient in gradients]
    assert list(_buckets([])) == []
