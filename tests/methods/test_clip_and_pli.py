import pytest
import torch
import torch.nn.functional as F

from tests.methods import tiny
from zscir.methods.clip import Clip
from zscir.methods.masks import kept_patches
from zscir.methods.pli import Pli
from zscir.methods.protocol import Batch
from zscir.methods.specs import ClipSpec, PliSpec

TEXTS = ["is red", "is blue"]


def pli(**fields: object) -> Pli:
    return Pli(tiny.towers(), PliSpec.parse(fields, "test"))


def step(method: Pli, batch: Batch) -> None:
    method.train()
    optimiser = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=0.01)
    method.loss(batch)["loss"].backward()
    optimiser.step()


def test_pli_loss_is_raw_one_way_and_at_temperature_one() -> None:
    method, batch = pli(), tiny.batch(5)
    kept = torch.from_numpy(kept_patches([7] * 5, 0, batch.reference_keys, 16, 0.5))
    with torch.no_grad():
        q = method.towers.encode_image(batch.reference_pixels, kept) + method.towers.encode_texts(batch.texts)
        v = method.towers.encode_image(batch.target_pixels)
        by_hand = -torch.stack([(q[i] @ v[i]) - torch.logsumexp(v @ q[i], 0) for i in range(5)]).mean()
        assert method.loss(batch)["loss"].item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_a_learned_scale_takes_the_place_of_the_raw_norms_in_normalised_space() -> None:
    raw, scaled = pli(), pli(space="normalised", scale=100.0)
    assert raw.loss(tiny.batch())["loss"].item() != pytest.approx(scaled.loss(tiny.batch())["loss"].item())


def test_masks_differ_between_epochs_and_so_does_the_loss() -> None:
    method = pli()
    first, second = (method.loss(tiny.batch(epoch=epoch))["loss"].item() for epoch in (0, 1))
    assert first != second
    assert method.loss(tiny.batch(epoch=0))["loss"].item() == first


@pytest.mark.parametrize(("tune", "moves"), [("both", {True, False}), ("image", {True}), ("text", {False})])
def test_only_the_tuned_part_moves_and_the_rest_stays_to_the_bit(tune: str, moves: set[bool]) -> None:
    method = pli(tune=tune)
    before = {name: tensor.clone() for name, tensor in method.weights().items()}
    step(method, tiny.batch())
    moved = {name for name, tensor in method.weights().items() if not torch.equal(tensor, before[name])}
    assert {name.startswith("visual.") for name in moved} == moves
    assert "logit_scale" not in moved


def test_the_target_branch_has_a_gradient() -> None:
    method = pli(tune="image")
    q = torch.zeros(4, 16)
    v = method.towers.encode_image(tiny.pixels(4))
    method._logits(q + 1, v).sum().backward()
    assert method.towers.clip.visual.conv1.weight.grad is not None


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_a_pli_query_is_the_weighted_sum_of_unit_features(weight: float) -> None:
    method, pixels = pli(image_weight=weight), tiny.pixels(2)
    with torch.no_grad():
        text = F.normalize(method.towers.encode_texts(TEXTS), dim=1)
        image = F.normalize(method.towers.encode_image(pixels), dim=1)
    assert torch.allclose(method.queries(pixels, TEXTS), F.normalize(text + weight * image, dim=1), atol=1e-6)


def test_clip_learns_to_tell_four_pairs_apart() -> None:
    method = Clip(tiny.towers(), ClipSpec()).train()
    optimiser = torch.optim.AdamW(method.parameters(), lr=3e-3)
    batch = tiny.batch(4)
    losses = []
    for _ in range(60):
        loss = method.loss(batch)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > 1
    assert losses[-1] < 0.2
