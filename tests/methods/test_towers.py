import pytest
import torch
import torch.nn.functional as F

from tests.methods import tiny
from zscir.methods.specs import ModelPixelSpec
from zscir.methods.tokenizer import ClipTokenizer
from zscir.methods.towers import Towers
from zscir.runtime.errors import RequestError


def test_features_are_those_of_open_clip() -> None:
    towers, pixels = tiny.towers(), tiny.pixels(3)
    ids = towers.tokenize(["a red picture", "blue"])
    padded = F.pad(ids, (0, towers.clip.context_length - ids.shape[1]))
    with torch.no_grad():
        assert torch.allclose(
            towers.encode_image(pixels), towers.clip.encode_image(towers.normalised_pixels(pixels)), atol=1e-5
        )
        assert torch.allclose(towers.encode_text(ids), towers.clip.encode_text(padded), atol=1e-5)


def test_a_mask_that_hides_nothing_gives_the_whole_feature() -> None:
    towers, pixels = tiny.towers(), tiny.pixels(3)
    everything = torch.arange(towers.patches).expand(3, -1)
    with torch.no_grad():
        assert torch.allclose(towers.encode_image(pixels, everything), towers.encode_image(pixels), atol=1e-5)


def test_the_order_of_kept_patches_does_not_matter_and_hidden_pixels_do_not_show() -> None:
    towers, pixels = tiny.towers(), tiny.pixels(1)
    kept = torch.tensor([[0, 5, 9, 15]])
    changed = pixels.clone()
    changed[:, :, :4, 4:8] = 0  # patch 1
    with torch.no_grad():
        seen = towers.encode_image(pixels, kept)
        assert torch.allclose(seen, towers.encode_image(pixels, kept.flip(1)), atol=1e-5)
        assert torch.equal(seen, towers.encode_image(changed, kept))
        assert towers.image_tokens(pixels, kept).shape[1] == 5  # CLS is always there


def test_patch_tokens_start_with_the_image_feature() -> None:
    towers, pixels = tiny.towers(), tiny.pixels(2)
    with torch.no_grad():
        tokens = towers.encode_patches(pixels)
        assert tokens.shape == (2, 17, 16)
        assert torch.allclose(tokens[:, 0], towers.encode_image(pixels), atol=1e-5)


def test_a_text_feature_does_not_depend_on_its_neighbours_length() -> None:
    towers = tiny.towers()
    with torch.no_grad():
        alone = towers.encode_texts(["red"])
        together = towers.encode_texts(["red", "a long text about a blue and green picture"])
    assert torch.allclose(alone[0], together[0], atol=1e-5)


def test_replacing_the_star_by_its_own_embedding_changes_nothing() -> None:
    towers = tiny.towers()
    ids = towers.tokenize(["a photo of *", "a photo of * that is red"])
    own = towers.clip.token_embedding.weight[towers.tokenizer.star_id].expand(2, -1)
    with torch.no_grad():
        assert torch.allclose(towers.encode_text(ids, own), towers.encode_text(ids), atol=1e-6)
        assert not torch.allclose(towers.encode_text(ids, own.flip(1) * 100), towers.encode_text(ids), atol=1e-3)


def test_a_query_without_a_star_is_refused() -> None:
    towers = tiny.towers()
    with pytest.raises(RequestError, match=r"no '\*'"):
        towers.star_positions(towers.tokenize(["a photo of *", "red"]))


def test_block_hooks_run_after_their_block() -> None:
    towers, ids, seen = tiny.towers(), tiny.towers().tokenize(["red"]), []
    towers.encode_text(ids, after={0: lambda x: seen.append(x) or x, 2: lambda x: x * 0})
    block_0 = towers.clip.transformer.resblocks[0]
    x = towers.clip.token_embedding(ids) + towers.clip.positional_embedding[: ids.shape[1]]
    expected = block_0(x, attn_mask=towers.clip.attn_mask[: ids.shape[1], : ids.shape[1]])
    assert torch.allclose(seen[0], expected, atol=1e-6)


def test_the_real_vit_l14_has_its_published_size() -> None:
    config = {
        "embed_dim": 768,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 224, "layers": 24, "width": 1024, "patch_size": 14},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 768, "heads": 12, "layers": 12},
    }
    with torch.device("meta"):
        towers = Towers(config, ModelPixelSpec(), ClipTokenizer())
    assert sum(p.numel() for p in towers.parameters()) == 427_616_513
    assert (towers.patches, towers.text_blocks) == (256, 12)


@pytest.mark.parametrize("odd", [{"vision_cfg": {"timm_model_name": "resnet50"}}, {"text_cfg": {"hf_model_name": "x"}}])
def test_an_architecture_that_is_not_plain_clip_is_refused(odd: dict[str, dict[str, str]]) -> None:
    config = tiny.towers().config
    for section, values in odd.items():
        config[section] |= values
    with pytest.raises(RequestError, match="plain ViT"):
        Towers(config, tiny.PIXELS, tiny.towers().tokenizer)
