from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.methods import tiny
from zscir.methods.checkpoint import load_method
from zscir.runtime.errors import RequestError
from zscir.runtime.settings import data_specs
from zscir.stages.train import TrainSpec, train
from zscir.store.artifacts import Artifact

OPTIM = {"lr": 1e-3, "weight_decay": 0.1}
CLIP = {"name": "clip", "architecture": tiny.ARCHITECTURE.literals(), "pixels": tiny.PIXELS.literals()}
MAP = {"name": "tscir_map", "word_hidden": 8, "inject_width": 8, "inject_heads": 2, "sites": [0, 1]}


def spec(method: dict[str, Any], **fields: Any) -> TrainSpec:
    return TrainSpec.parse({"method": method, "batch_size": 4, "steps": 3, "optim": OPTIM, **fields}, "test")


def trained(out: Path, train_spec: TrainSpec, data: Artifact, **starts: Artifact) -> Artifact:
    out.mkdir()
    facts = train(train_spec, data=data, out=out, **starts)
    assert facts["steps"] == 3
    return Artifact.of_folder(out)


def test_the_four_methods_train_one_after_the_other(tmp_path: Path) -> None:
    pairs, triplets = tiny.pack(tmp_path / "pairs"), tiny.pack(tmp_path / "triplets", triplets=True)
    backbone = trained(tmp_path / "clip", spec(CLIP), pairs)
    assert backbone.files() == ["config.json", "curve.parquet", "model.safetensors", "vocab.json"]
    pli = trained(tmp_path / "pli", spec({"name": "pli"}), pairs, backbone=backbone)
    mapping = trained(tmp_path / "map", spec(MAP), pairs, backbone=backbone)
    composed = trained(
        tmp_path / "compose", spec({"name": "tscir_compose", "rank": 2}), triplets, backbone=backbone, init=mapping
    )
    for checkpoint in (backbone, pli, mapping, composed):
        query = load_method(checkpoint, backbone).queries(tiny.pixels(2), ["a photo of * that is red"] * 2)
        assert query.shape == (2, 16)
    names = set(pq.read_table(composed.path("curve.parquet")).column("name").to_pylist())
    assert names == {"lr", "loss", "compose", "map", "sta"}


@pytest.mark.parametrize("method", [CLIP, MAP])
def test_training_twice_gives_the_same_bytes(tmp_path: Path, method: dict[str, Any]) -> None:
    pairs = tiny.pack(tmp_path / "pairs")
    starts = {} if method is CLIP else {"backbone": trained(tmp_path / "backbone", spec(CLIP), pairs)}
    first, second = (trained(tmp_path / name, spec(method), pairs, **starts) for name in ("a", "b"))
    assert first.digest == second.digest
    other = trained(tmp_path / "c", spec(method, seed=1), pairs, **starts)
    assert other.digest != first.digest


def test_a_batch_larger_than_the_pack_is_refused_before_any_work(tmp_path: Path) -> None:
    pairs = tiny.pack(tmp_path / "pairs", count=3)
    with pytest.raises(RequestError, match="batch_size = 4"):
        train(spec(CLIP), data=pairs, out=tmp_path)


SHIPPED = sorted((data_specs() / "methods").glob("*.toml"))


@pytest.mark.parametrize("path", SHIPPED, ids=[path.stem for path in SHIPPED])
def test_shipped_method_specs_are_valid(path: Path) -> None:
    assert TrainSpec.load(path).optim.lr > 0


def test_an_unknown_method_or_key_is_named() -> None:
    for method in ({"name": "magic"}, {"name": "pli", "lambda": 1}):
        with pytest.raises(RequestError, match="method"):
            spec(method)
