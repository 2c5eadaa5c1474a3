import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.methods import tiny
from zscir.methods.build import new_method, origin_of
from zscir.methods.checkpoint import load_method, read_config, save_checkpoint
from zscir.methods.clip import Clip
from zscir.methods.specs import ClipSpec, PliSpec, TscirComposeSpec, TscirMapSpec
from zscir.runtime.errors import RequestError
from zscir.store.artifacts import Artifact

MAP = TscirMapSpec(word_hidden=8, inject_width=8, inject_heads=2)
COMPOSE = TscirComposeSpec(rank=2)
TEXTS = ["a photo of * that is red", "a photo of * that is blue"]


def stored(folder: Path, method: object, **origin: object) -> Artifact:
    folder.mkdir()
    save_checkpoint(method, folder, extra_config=origin)
    return Artifact.of_folder(folder)


@pytest.fixture
def backbone(tmp_path: Path) -> Artifact:
    return stored(tmp_path / "backbone", Clip(tiny.towers(), ClipSpec()))


def test_every_method_answers_the_same_after_a_round_trip(tmp_path: Path, backbone: Artifact) -> None:
    pixels, init = tiny.pixels(2), None
    for spec in (ClipSpec(), PliSpec(), MAP, COMPOSE):
        method = new_method(spec, 1, backbone, init, []).eval()
        origin = origin_of(spec, backbone, init)
        again = load_method(stored(tmp_path / spec.name, method, **origin), backbone)
        assert torch.equal(method.queries(pixels, TEXTS), again.queries(pixels, TEXTS))
        assert torch.equal(method.gallery(pixels), again.gallery(pixels))
        assert not again.training
        assert again.spec == spec
        if spec is MAP:
            init = Artifact.of_folder(tmp_path / spec.name)


def test_equal_tensors_give_equal_bytes_and_half_precision_half_of_them(tmp_path: Path) -> None:
    method = Clip(tiny.towers(), ClipSpec())
    sizes = []
    for name, half in (("a", False), ("b", False), ("c", True)):
        (tmp_path / name).mkdir()
        save_checkpoint(method, tmp_path / name, half)
        sizes.append((tmp_path / name / "model.safetensors").read_bytes())
    assert sizes[0] == sizes[1]
    assert len(sizes[2]) < 0.6 * len(sizes[0])
    loaded = load_method(Artifact.of_folder(tmp_path / "c"))
    whole, halved = (model.gallery(tiny.pixels(2)) for model in (method, loaded))
    assert torch.allclose(whole, halved, atol=1e-2)


def test_a_compact_vocabulary_comes_from_the_training_texts(tmp_path: Path) -> None:
    spec = ClipSpec(architecture=tiny.ARCHITECTURE, pixels=tiny.PIXELS)
    method = new_method(spec, 1, None, None, ["a zebra"])
    artifact = stored(tmp_path / "made", method)
    assert "vocab.json" in artifact.files()
    again = load_method(artifact)
    assert torch.equal(again.towers.tokenize(["zebra"]), method.towers.tokenize(["zebra"]))


def test_the_seed_decides_the_first_weights() -> None:
    spec = ClipSpec(architecture=tiny.ARCHITECTURE, pixels=tiny.PIXELS)
    first, second, third = (new_method(spec, seed, None, None, ["red"]).weights() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["visual.proj"], third["visual.proj"])


@pytest.mark.parametrize(
    ("spec", "with_backbone"),
    [(ClipSpec(), False), (PliSpec(), False), (MAP, False), (COMPOSE, True),
     (ClipSpec(architecture=tiny.ARCHITECTURE), True)],
)  # fmt: skip
def test_a_missing_or_superfluous_starting_point_is_an_error_that_names_it(
    backbone: Artifact, spec: PliSpec, with_backbone: bool
) -> None:
    with pytest.raises(RequestError, match=r"backbone|init"):
        new_method(spec, 1, backbone if with_backbone else None, None, ["red"])


def test_a_mapping_knows_its_backbone(tmp_path: Path, backbone: Artifact) -> None:
    method = new_method(MAP, 1, backbone, None, [])
    mapping = stored(tmp_path / "map", method, **origin_of(MAP, backbone, None))
    with pytest.raises(RequestError, match="backbone"):
        load_method(mapping)
    other = stored(tmp_path / "other", Clip(tiny.towers(seed=9), ClipSpec()))
    with pytest.raises(RequestError, match="trained on"):
        load_method(mapping, other)


@pytest.mark.parametrize("damage", ["config", "method", "missing", "shape", "weights"])
def test_a_damaged_checkpoint_is_refused_by_name(backbone: Artifact, damage: str) -> None:
    config, weights = backbone.path("config.json"), backbone.path("model.safetensors")
    tensors = load_file(weights)
    if damage == "config":
        config.write_text("{")
    elif damage == "method":
        config.write_text(json.dumps({**read_config(backbone), "method": {"name": "clip", "odd": 1}}))
    elif damage == "missing":
        save_file({name: tensor for name, tensor in tensors.items() if name != "visual.proj"}, weights)
    elif damage == "shape":
        save_file({**tensors, "visual.proj": torch.zeros(2, 2)}, weights)
    else:
        weights.write_bytes(b"not tensors")
    with pytest.raises(RequestError, match=r"config\.json|model\.safetensors"):
        load_method(Artifact.of_folder(weights.parent))
