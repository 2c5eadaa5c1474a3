import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from zscir.methods.checkpoint import load_method
from zscir.runtime.errors import RequestError, StageError
from zscir.stages.backbone import BackboneSpec, backbone
from zscir.store.artifacts import Artifact

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "patch_size": 4, "head_width": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}


@pytest.fixture
def architecture(tmp_path: Path) -> str:
    """A small architecture that open_clip knows by name."""
    from zscir.methods import towers_pretrained  # noqa: F401  (the guard comes first)
    from open_clip import add_model_config  # isort: skip

    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "tiny-test.json").write_text(json.dumps(TINY))
    add_model_config(tmp_path / "configs")
    return "tiny-test"


@pytest.fixture
def weights(tmp_path: Path, architecture: str) -> Artifact:
    from open_clip import create_model

    torch.manual_seed(0)
    save_file(create_model(architecture).state_dict(), tmp_path / "tiny.safetensors")
    return Artifact.of_folder(tmp_path / "tiny.safetensors")


def backbone_spec(architecture: str, **more: object) -> BackboneSpec:
    pixels = {"size_px": 16}
    return BackboneSpec.parse({"architecture": architecture, "pixels": pixels, **more}, "test")


def test_local_weights_become_a_clip_checkpoint(tmp_path: Path, architecture: str, weights: Artifact) -> None:
    digest = weights.entries["tiny.safetensors"].sha256
    out = tmp_path / "out"
    out.mkdir()
    backbone(backbone_spec(architecture, sha256=digest, quick_gelu=True), out=out, weights=weights)
    method = load_method(Artifact.of_folder(out))
    assert method.towers.config["quick_gelu"] is True  # type: ignore[union-attr]
    assert method.queries(torch.zeros(1, 3, 16, 16, dtype=torch.uint8), ["a cat"]).shape == (1, 16)


def test_openais_weights_bring_their_own_activation() -> None:
    from zscir.methods.towers_pretrained import quick_gelu_of

    assert quick_gelu_of("ViT-L-14", "openai")
    assert not quick_gelu_of("ViT-B-32", "laion2b_s34b_b79k")


def test_other_weights_than_the_spec_means_are_refused(tmp_path: Path, architecture: str, weights: Artifact) -> None:
    with pytest.raises(RequestError, match="SHA-256"):
        backbone(backbone_spec(architecture, sha256="0" * 64, quick_gelu=False), out=tmp_path, weights=weights)


def test_a_file_that_would_have_to_be_unpickled_is_refused(tmp_path: Path, architecture: str) -> None:
    torch.save({"state_dict": Path("/")}, tmp_path / "evil.pt")
    file = Artifact.of_folder(tmp_path / "evil.pt")
    digest = file.entries["evil.pt"].sha256
    with pytest.raises(RequestError, match="safetensors"):
        backbone(backbone_spec(architecture, sha256=digest, quick_gelu=False), out=tmp_path, weights=file)


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [("ViT-B-33", {"pretrained": "openai"}, "near it"), ("ViT-B-32", {"pretrained": "nothing"}, "openai"),
     ("ViT-B-32", {}, "either")],
)  # fmt: skip
def test_a_request_that_names_no_weights_says_what_there_is(name: str, more: dict[str, str], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        backbone(BackboneSpec.parse({"architecture": name, **more}, "test"), out=Path())


@pytest.mark.timeout(60)  # no wait for a hub that cannot be reached
def test_without_a_network_the_error_is_clear_and_quick(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="HF_HUB_OFFLINE"):
        backbone(BackboneSpec(architecture="ViT-B-32", pretrained="openai"), out=tmp_path)
