import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from zscir.methods.losses import mixed_negatives, mixed_negatives_nce, one_way_nce, soft_text_alignment, symmetric_nce


def unit(rows: int, width: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_one_way_loss_of_two_rows_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    by_hand = (-math.log(math.e**2 / (math.e**2 + 1)) + math.log(2)) / 2
    assert one_way_nce(logits).item() == pytest.approx(by_hand, rel=1e-6)


def test_both_ways_is_symmetric_and_small_for_equal_rows() -> None:
    a, b = unit(5, 8, 0), unit(5, 8, 1)
    assert symmetric_nce(a, b, 10.0).item() == pytest.approx(symmetric_nce(b, a, 10.0).item(), rel=1e-6)
    assert symmetric_nce(torch.eye(5), torch.eye(5), 100.0).item() == pytest.approx(0, abs=1e-6)


def test_soft_alignment_is_zero_when_students_equal_teachers() -> None:
    c, t, b = unit(6, 8, 0), unit(6, 8, 1), unit(6, 8, 2)
    assert soft_text_alignment(c, b, b, 0.07).item() == pytest.approx(0, abs=1e-6)
    assert soft_text_alignment(c, t, b, 0.07).item() > 0


def test_soft_alignment_is_the_written_sum() -> None:
    c, t, b, tau = unit(4, 8, 0), unit(4, 8, 1), unit(4, 8, 2), 0.07
    total = 0.0
    for i in range(4):
        teacher = [math.exp(c[i].dot(b[j]).item() / tau) for j in range(4)]
        student = [math.exp(c[i].dot(t[j]).item() / tau) for j in range(4)]
        for q, p in zip(teacher, student, strict=True):
            q, p = q / sum(teacher), p / sum(student)
            total += q * (math.log(q) - math.log(p))
    assert soft_text_alignment(c, t, b, tau).item() == pytest.approx(total / 4, rel=1e-4)


@given(st.integers(3, 9), st.integers(1, 12), st.integers(0, 1000))
def test_mixed_negatives_equal_the_explicit_mixtures(rows: int, hardest: int, seed: int) -> None:
    u, g = unit(rows, 8, seed), unit(rows, 8, seed + 1)
    among = g @ g.T
    got = mixed_negatives(u, g, hardest)
    assert got.shape == (rows, min(hardest, rows - 1))
    for i in range(rows):
        others = sorted((j for j in range(rows) if j != i), key=lambda j: -u[i].dot(g[j]).item())[:hardest]
        low, high = among[i].min(), among[i].max()
        for place, j in enumerate(others):
            w = (among[i, j] - low) / (high - low + 1e-8)
            n = w * g[i] + (1 - w) * g[j]
            assert got[i, place].item() == pytest.approx(n.dot(u[i]).item(), abs=1e-5)


def test_unscaled_mixing_has_virtually_no_effect_and_scaled_mixing_does() -> None:
    g = unit(32, 16, 3)
    u = F.normalize(g + 0.3 * unit(32, 16, 4), dim=1)
    plain = one_way_nce(u @ g.T / 0.01).item()
    assert mixed_negatives_nce(u, g, 0.01, 10, 1.0).item() == pytest.approx(plain, abs=1e-4)
    assert mixed_negatives_nce(u, g, 0.01, 10, 0.01).item() > plain
