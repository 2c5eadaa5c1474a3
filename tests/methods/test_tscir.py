import pytest
import torch
import torch.nn.functional as F

from tests.methods import tiny
from zscir.methods.mapping import Injection, StarMapping, at_relative_depth
from zscir.methods.specs import TscirComposeSpec, TscirMapSpec
from zscir.methods.tscir_compose import Adapters, ComposingAdapter, TscirCompose, new_adapters
from zscir.methods.tscir_map import TscirMap, new_mapping

MAP = TscirMapSpec(word_hidden=16, inject_width=16, inject_heads=2, sites=(0, 1))
TEXTS = ["a photo of * that is red", "a photo of * that is a blue picture"]


def mapped(spec: TscirMapSpec = MAP) -> TscirMap:
    towers = tiny.towers()
    return TscirMap(towers, new_mapping(towers, spec), spec).eval()


def composed(**fields: object) -> TscirCompose:
    towers = tiny.towers()
    spec = TscirComposeSpec.parse({"rank": 4, **fields}, "test")
    return TscirCompose(towers, new_mapping(towers, MAP), new_adapters(towers, spec), spec).eval()


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_sizes_at_vit_l14_are_the_published_ones() -> None:
    with torch.device("meta"):
        mapping = StarMapping(768, 768, StarMapping.PUBLISHED_SITES, 512, 128, 8, 0.1, False)
        adapters = Adapters(768, 128, Adapters.PUBLISHED_SITES, False)
    assert count(mapping.token_learner) == 1_050_368
    assert count(mapping.patch_projection) == 590_592
    assert [count(injection) for _, injection in mapping.sites()] == [6_543_104] * 4
    assert round(count(mapping) / 1e6, 2) == 27.81
    assert round(count(adapters) / 1e6, 2) == 1.18


def test_sizes_at_vit_b32_follow_the_widths() -> None:
    with torch.device("meta"):
        mapping = StarMapping(512, 512, StarMapping.PUBLISHED_SITES, 512, 128, 8, 0.1, False)
        adapters = Adapters(512, 128, Adapters.PUBLISHED_SITES, False)
    assert round(count(mapping) / 1e6, 2) == 13.59
    assert round(count(adapters) / 1e6, 2) == 0.79


def test_sites_keep_their_relative_depth() -> None:
    assert at_relative_depth(StarMapping.PUBLISHED_SITES, 12) == (3, 7, 9, 11)
    assert at_relative_depth(StarMapping.PUBLISHED_SITES, 24) == (7, 15, 19, 23)
    assert at_relative_depth(Adapters.PUBLISHED_SITES, 3) == (0, 1, 2)


def test_an_injection_changes_only_the_position_of_the_star_directly() -> None:
    method = mapped(TscirMapSpec(word_hidden=16, inject_width=16, inject_heads=2, sites=(1,)))
    towers, speaker = method.speaker.towers, method.speaker
    ids = towers.tokenize(TEXTS)
    with torch.no_grad():
        images = speaker.map_images(tiny.pixels(2))
        states: list[torch.Tensor] = []
        after = {1: lambda x: states.append(x) or x}
        towers.encode_text(ids, images.star_embedding, after)
        speaker.encode_with_star(ids, images, after)
        changed = (states[0] - states[1]).abs().amax(dim=2) > 0
        assert changed.nonzero()[:, 1].tolist() == [4, 4]
        added = speaker.mapping.injections["1"](
            states[0][torch.arange(2), towers.star_positions(ids)],
            states[0][torch.arange(2), towers.end_positions(ids)],
            images.site_features[1],
        )
    assert torch.allclose(states[1][:, 4] - states[0][:, 4], added, atol=1e-5)


def test_an_injection_after_the_last_block_is_read_by_nothing() -> None:
    # As published (site 11 of 12 blocks): the end token was already computed, so this site cannot matter.
    method = mapped(TscirMapSpec(word_hidden=16, inject_width=16, inject_heads=2, sites=(2,)))
    ids, images = method.speaker.towers.tokenize(TEXTS), method.speaker.map_images(tiny.pixels(2))
    without = method.speaker.towers.encode_text(ids, images.star_embedding)
    assert torch.equal(method.speaker.encode_with_star(ids, images), without)


def test_an_injection_is_never_negative_as_published_and_zero_at_first_with_zero_init() -> None:
    given = torch.randn(3, 16), torch.randn(3, 16)
    published = Injection(16, 16, 16, 2, 0.1, False).eval()
    assert published(*given, published.project_patches(torch.randn(3, 16, 16))).min() >= 0
    gentle = Injection(16, 16, 16, 2, 0.1, True).eval()
    assert gentle(*given, gentle.project_patches(torch.randn(3, 16, 16))).abs().max() == 0


def test_an_adapter_with_a_zero_matrix_is_the_identity() -> None:
    x = torch.randn(2, 5, 16)
    assert torch.equal(ComposingAdapter(16, 4, True)(x), x)
    other = ComposingAdapter(16, 4, False)
    assert not torch.equal(other(x), x)
    with torch.no_grad():
        other.a.zero_()
    assert torch.equal(other(x), x)


def test_composing_with_zero_adapters_asks_as_the_mapping_does() -> None:
    method, pixels = composed(zero_init=True), tiny.pixels(2)
    plain = TscirMap(method.speaker.towers, method.speaker.mapping, MAP).eval()
    assert torch.allclose(method.queries(pixels, TEXTS), plain.queries(pixels, TEXTS), atol=1e-6)


def test_a_query_depends_on_both_the_image_and_the_text() -> None:
    method, pixels = mapped(), tiny.pixels(2)
    queries = method.queries(pixels, TEXTS)
    assert torch.allclose(queries.norm(dim=1), torch.ones(2), atol=1e-5)
    assert not torch.allclose(queries, method.queries(pixels.flip(0), TEXTS), atol=1e-4)
    assert not torch.allclose(queries, method.queries(pixels, TEXTS[::-1]), atol=1e-4)


@pytest.mark.parametrize("make", [mapped, composed])
def test_frozen_parts_stay_to_the_bit_while_the_trained_part_moves(make: object) -> None:
    method = make()
    method.train()
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    trained = {name: p for name, p in method.named_parameters() if p.requires_grad}
    optimiser = torch.optim.AdamW(trained.values(), lr=0.01)
    method.loss(tiny.batch())["loss"].backward()
    optimiser.step()
    moved = {name for name, tensor in method.state_dict().items() if not torch.equal(tensor, before[name])}
    part = "speaker.mapping." if isinstance(method, TscirMap) else "adapters."
    assert set(trained) <= moved
    assert all(name.startswith(part) for name in moved)


def test_the_mapping_trains_with_dropout_and_batch_statistics_and_composes_without() -> None:
    mapping_trains = mapped().train().speaker.mapping
    assert all(module.training for module in mapping_trains.modules())
    method = composed().train()
    assert not any(module.training for module in method.speaker.modules())


def test_stage_one_loss_is_the_sum_of_its_parts() -> None:
    parts = mapped().loss(tiny.batch())
    assert parts["loss"].item() == pytest.approx((parts["to_a"] + parts["to_b"] + 0.2 * parts["sta"]).item(), rel=1e-5)


@pytest.mark.parametrize("negatives", ["plain", "mixed", "mixed_unscaled"])
@pytest.mark.parametrize("images", ["target", "reference"])
def test_stage_two_loss_is_the_sum_of_its_parts(negatives: str, images: str) -> None:
    parts = composed(negatives=negatives, sta_images=images).loss(tiny.batch())
    whole = parts["compose"] + parts["map"] + 0.2 * parts["sta"]
    assert parts["loss"].item() == pytest.approx(whole.item(), rel=1e-5)


def test_the_gallery_is_the_stock_feature() -> None:
    method, pixels = mapped(), tiny.pixels(3)
    with torch.no_grad():
        stock = F.normalize(method.speaker.towers.encode_image(pixels), dim=1)
    assert torch.equal(method.gallery(pixels), stock)


def test_weights_hold_what_was_trained_and_no_tower() -> None:
    assert all(name.startswith("mapping.") for name in mapped().weights())
    assert {name.split(".")[0] for name in composed().weights()} == {"mapping", "adapters"}
