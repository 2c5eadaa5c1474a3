import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zscir.methods.counter_rng import random_bits, random_stream, shuffled, uniforms
from zscir.methods.masks import kept_count, kept_patches


@pytest.mark.parametrize(
    ("patches", "ratio", "kept"),
    [(49, 0.25, 36), (49, 0.5, 24), (49, 0.75, 12), (196, 0.25, 147), (196, 0.5, 98), (196, 0.75, 49),
     (256, 0.25, 192), (256, 0.5, 128), (256, 0.75, 64)],
)  # fmt: skip
def test_as_many_patches_are_kept_as_pli_keeps(patches: int, ratio: float, kept: int) -> None:
    assert kept_count(patches, ratio) == kept
    assert kept_patches([1], 0, ["a"], patches, ratio).shape == (1, kept)


@given(st.lists(st.text(max_size=5), min_size=1, max_size=6, unique=True), st.integers(0, 2**40), st.integers(0, 50))
def test_a_mask_depends_on_its_own_image_only(keys: list[str], seed: int, epoch: int) -> None:
    together = kept_patches([seed] * len(keys), epoch, keys, 49, 0.75)
    for row, key in zip(together, keys, strict=True):
        assert row.tolist() == kept_patches([seed], epoch, [key], 49, 0.75)[0].tolist()
        assert len(set(row.tolist())) == 12
        assert row.min() >= 0
        assert row.max() < 49


def test_masks_change_with_seed_epoch_and_key() -> None:
    drawn = [kept_patches([seed], epoch, [key], 256, 0.75)[0].tobytes() for seed, epoch, key in
             [(1, 0, "a"), (2, 0, "a"), (1, 1, "a"), (1, 0, "b")]]  # fmt: skip
    assert len(set(drawn)) == 4


def test_every_patch_is_kept_equally_often() -> None:
    kept = kept_patches([5] * 4000, 0, [str(number) for number in range(4000)], 16, 0.75)
    counts = np.bincount(kept.ravel(), minlength=16)
    assert abs(counts - 1000).max() < 5 * np.sqrt(1000 * 0.75)


def test_splitmix64_gives_its_published_numbers() -> None:
    # The reference implementation (Vigna, splitmix64.c) started at 1234567.
    assert random_bits([1234567], 3)[0].tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_uniforms_lie_in_the_unit_interval() -> None:
    drawn = uniforms([random_stream("x", 1)], 10000)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert abs(drawn.mean() - 0.5) < 0.02


def test_a_shuffle_is_a_permutation_that_depends_on_its_name() -> None:
    first, second = shuffled(100, "order", 1, 0), shuffled(100, "order", 1, 1)
    assert sorted(first.tolist()) == list(range(100))
    assert first.tolist() != second.tolist()
    assert first.tolist() == shuffled(100, "order", 1, 0).tolist()
